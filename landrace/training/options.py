"""`TuneOptions`: everything a tuning run can be told. Imports no torch, so that a command line can show it cheaply."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from landrace.errors import OptionError
from landrace.models.lora_spec import PROJECTIONS

DEFAULT_LEARNING_RATE = {"lora": 1e-3, "full": 2e-5}

_LARGEST = 1e30
"""Of a factor: products with it are still float32's."""


@dataclass(frozen=True)
class TuneOptions:
    """How to tune. Every field is checked on construction; OptionError names the one that cannot be honoured."""

    method: Literal["lora", "full"] = "lora"
    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = PROJECTIONS
    """Linear layers that get an adapter, by last name (LoRA only)."""
    learning_rate: float | None = None
    """Peak rate. None: 1e-3 for LoRA, 2e-5 for full tuning."""
    epochs: int = 1
    max_steps: int | None = None
    """Stop after this many optimizer steps, if that is before the end of the last epoch."""
    batch_examples: int = 32
    """Examples of one optimizer step."""
    micro_tokens: int = 2048
    """Most tokens in one forward pass; a step's examples are spread over as many passes as they need."""
    max_length: int | None = None
    """Answers that with their prompt have more tokens are left out, and counted. None: as many as the model and
    `micro_tokens` allow."""
    warmup_ratio: float = 0.05
    """Share of all steps over which the rate rises from 0 to its peak."""
    min_lr_ratio: float = 0.1
    """The cosine ends at this share of the peak rate."""
    weight_decay: float = 0.0
    """On matrices only, never on norms or biases."""
    clip_norm: float = 1.0
    """Longest gradient, as the 2-norm over all trained parameters."""
    seed: int = 0
    """Decides the order of the examples and the start of the adapter."""
    save_every: int | None = None
    """Optimizer steps between resumable checkpoints. None: only when interrupted."""
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        if self.method not in DEFAULT_LEARNING_RATE:
            raise OptionError(f"method is {self.method!r}, which is neither 'lora' nor 'full'.")
        for name in ("rank", "epochs", "batch_examples", "micro_tokens", "keep_checkpoints"):
            _whole(name, getattr(self, name), least=1)
        for name in ("max_steps", "save_every", "max_length"):
            if getattr(self, name) is not None:
                _whole(name, getattr(self, name), least=1)
        _whole("seed", self.seed, least=0, most=2**63 - 1)
        _number("alpha", self.alpha, above=0.0, most=_LARGEST)
        _number("clip_norm", self.clip_norm, above=0.0)
        if self.learning_rate is not None:
            _number("learning_rate", self.learning_rate, above=0.0, most=_LARGEST)
        for name in ("warmup_ratio", "min_lr_ratio", "weight_decay"):
            _number(name, getattr(self, name), least=0.0, most=1.0)
        self._check_targets()
        if self.max_length is not None and self.micro_tokens < self.max_length:
            raise OptionError(
                f"micro_tokens is {self.micro_tokens}, less than max_length {self.max_length}, so the longest examples "
                "would fit into no forward pass.",
                hint="Raise micro_tokens or lower max_length.",
            )

    def _check_targets(self) -> None:
        if not isinstance(self.targets, tuple) or not self.targets:
            raise OptionError("targets is not a tuple with at least one layer name.")
        unknown = [name for name in self.targets if name not in PROJECTIONS]
        if unknown:
            raise OptionError(
                f"targets has {unknown[0]!r}, which is no linear layer of the decoder.",
                hint=f"Choose from {', '.join(PROJECTIONS)}.",
            )
        if len(set(self.targets)) != len(self.targets):
            raise OptionError("targets names a layer twice.")

    def for_model(self, model_length: int) -> TuneOptions:
        """The same with `max_length` resolved for a model of at most `model_length` tokens."""
        if self.max_length is None:
            return replace(self, max_length=min(model_length, self.micro_tokens))
        if self.max_length > model_length:
            raise OptionError(f"max_length is {self.max_length}, but the model takes at most {model_length} tokens.")
        return self

    @property
    def peak_learning_rate(self) -> float:
        return DEFAULT_LEARNING_RATE[self.method] if self.learning_rate is None else self.learning_rate

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as JSON keeps them, with the learning rate resolved."""
        values = asdict(self)
        values["targets"] = list(self.targets)
        values["learning_rate"] = self.peak_learning_rate
        return values


def _whole(name: str, value: object, *, least: int, most: int = 2**31 - 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise OptionError(f"{name} is {value!r}, not a whole number from {least} to {most}.")


def _number(
    name: str, value: object, *, above: float | None = None, least: float | None = None, most: float | None = None
) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise OptionError(f"{name} is {value!r}, not a finite number.")
    if above is not None and value <= above:
        raise OptionError(f"{name} is {value!r}, but must be greater than {above:g}.")
    if least is not None and value < least:
        raise OptionError(f"{name} is {value!r}, but must be at least {least:g}.")
    if most is not None and value > most:
        raise OptionError(f"{name} is {value!r}, but must be at most {most:g}.")
