"""peft's `adapter_config.json`: each field is honoured, known to change nothing at inference, or refused by name."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from landrace.errors import CheckpointError, UnsupportedError

Value = TypeVar("Value")

MAX_RANK = 1 << 16
LITERAL_KEY = re.compile(r"\^?[A-Za-z0-9_.]+")
ANYTHING = ".*\\."
"""What peft writes before the name of experts that it has put together: any key may follow any name."""

_HONOURED = frozenset(
    {
        "peft_type",
        "task_type",
        "r",
        "lora_alpha",
        "use_rslora",
        "rank_pattern",
        "alpha_pattern",
        "target_modules",
        "target_parameters",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "init_lora_weights",
    }
)
_NO_EFFECT = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "eva_config",
        "inference_mode",
        "lora_dropout",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
    }
)
_STARTS_THAT_KEEP_THE_BASE = (None, True, False, "gaussian", "eva", "orthogonal")
"""Other ways to start an adapter (PiSSA, OLoRA, ...) change the base's weights too."""


@dataclass(frozen=True)
class PeftConfig:
    """What of the file bears on the weights. Module names are the hub's."""

    rank: int
    alpha: float
    rslora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    targets: tuple[str, ...] | None
    """Endings of module names; None when the file gives a regular expression, which is left to the tensors."""
    parameters: tuple[str, ...]
    """Endings of names of parameters."""
    selective: bool
    """Whether modules that `targets` match may be left out (by layer or by exclusion)."""

    def rank_of(self, module: str) -> int:
        return _lookup(self.rank_pattern, module, self.rank)

    def scale_of(self, module: str) -> float:
        """The factor on B A x in this module."""
        return self._scale(_lookup(self.alpha_pattern, module, self.alpha), self.rank_of(module))

    @property
    def scale(self) -> float:
        """The factor in modules that no pattern names."""
        return self._scale(self.alpha, self.rank)

    def _scale(self, alpha: float, rank: int) -> float:
        return alpha / (math.sqrt(rank) if self.rslora else rank)

    def is_target(self, module: str) -> bool:
        """Whether the file names this module. True when only the tensors can tell."""
        return self.targets is None or any(ends_with(module, target) for target in self.targets)

    def is_target_parameter(self, name: str) -> bool:
        return any(ends_with(name, target) for target in self.parameters)


def parse_config(values: Mapping[str, Any]) -> PeftConfig:
    """CheckpointError: a field has an impossible value. UnsupportedError: a field asks for what is not implemented."""
    if str(values.get("peft_type")).upper() != "LORA":
        raise UnsupportedError(f"The adapter is of the type {_show(values.get('peft_type'))}; only LORA is supported.")
    if values.get("task_type") not in (None, "CAUSAL_LM"):
        raise UnsupportedError(f"The adapter is for the task {_show(values['task_type'])}, not for CAUSAL_LM.")
    for name, value in values.items():
        if name not in _HONOURED | _NO_EFFECT and value not in (None, False, 0, "", "none", [], {}):
            raise UnsupportedError(f"The adapter sets {name} to {_show(value)}, which is not supported.")
    if values.get("init_lora_weights") not in _STARTS_THAT_KEEP_THE_BASE:
        start = _show(values["init_lora_weights"])
        raise UnsupportedError(
            f"The adapter sets init_lora_weights to {start}, which changes the base's weights.",
            hint="Convert it to a plain LoRA with peft's path_initial_model_for_weight_conversion.",
        )
    if not isinstance(values.get("use_rslora", False), bool):
        raise CheckpointError("The adapter's use_rslora is neither true nor false.")
    parameters = _names("target_parameters", values.get("target_parameters") or [])
    return PeftConfig(
        rank=_rank("r", values.get("r")),
        alpha=_alpha("lora_alpha", values.get("lora_alpha")),
        rslora=values.get("use_rslora", False),
        rank_pattern={key: _rank("rank_pattern", value) for key, value in _pattern(values, "rank_pattern").items()},
        alpha_pattern={key: _alpha("alpha_pattern", value) for key, value in _pattern(values, "alpha_pattern").items()},
        targets=_targets(values.get("target_modules"), bool(parameters)),
        parameters=parameters,
        selective=bool(values.get("exclude_modules")) or values.get("layers_to_transform") is not None,
    )


def build_config(config: PeftConfig, base_name: str) -> dict[str, Any]:
    """The file peft needs to load the adapter on the model `base_name`."""
    parameters = {"target_parameters": sorted(config.parameters)} if config.parameters else {}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "r": config.rank,
        "lora_alpha": _tidy(config.alpha),
        "lora_dropout": 0.0,
        "use_rslora": config.rslora,
        "target_modules": sorted(config.targets or ()),
        **parameters,
        "bias": "none",
        "fan_in_fan_out": False,
        "rank_pattern": dict(config.rank_pattern),
        "alpha_pattern": {key: _tidy(value) for key, value in config.alpha_pattern.items()},
    }


def _lookup(pattern: Mapping[str, Value], module: str, default: Value) -> Value:
    """peft takes the first key that matches the end of the module's name."""
    return next((value for key, value in pattern.items() if ends_with(module, key)), default)


def ends_with(module: str, key: str) -> bool:
    return module == key.removeprefix("^") or (not key.startswith("^") and module.endswith("." + key))


def _pattern(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    pattern = values.get(name) or {}
    if not isinstance(pattern, dict):
        raise CheckpointError(f"The adapter's {name} is not a table of names and values.")
    pattern = {str(key).removeprefix(ANYTHING): value for key, value in pattern.items()}
    for key in pattern:
        if not LITERAL_KEY.fullmatch(key):
            raise UnsupportedError(f"The adapter's {name} has the key {_show(key)}; only module names are supported.")
    return pattern


def _rank(name: str, value: Any) -> int:
    if type(value) is not int or not 1 <= value <= MAX_RANK:
        raise CheckpointError(f"The adapter's {name} has the impossible rank {_show(value)}.")
    return value


def _alpha(name: str, value: Any) -> float:
    if type(value) not in (int, float) or not 0 < value < 1e9:
        raise CheckpointError(f"The adapter's {name} has the impossible value {_show(value)}.")
    return float(value)


def _targets(value: Any, may_be_empty: bool) -> tuple[str, ...] | None:
    if isinstance(value, str) or (value is None and may_be_empty):
        return None
    names = _names("target_modules", value)
    if not names and not may_be_empty:
        raise CheckpointError("The adapter's target_modules is empty.")
    return names


def _names(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise CheckpointError(f"The adapter's {name} is not a list of names.")
    return tuple(value)


def _tidy(value: float) -> int | float:
    return int(value) if value == int(value) else value


def _show(value: Any) -> str:
    return repr(value)[:60]
