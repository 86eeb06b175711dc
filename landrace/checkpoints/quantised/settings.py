"""What a config.json says of how the model is quantised, read strictly: a field is used, without effect, or refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from landrace.errors import CheckpointError, UnsupportedError
from landrace.models.families.config import Config

KEYS = ("quantization_config", "compression_config")
MOST_REPEATS = 3
"""Repeats (`*`, `+`, `{n}`) of an expression: the time that one takes grows with the name's length to this power."""


def settings_of(config: Mapping[str, Any]) -> Config | None:
    """The section with the settings, wherever it lies: the model's own or its text half's; None: not quantised.

    CheckpointError when there are several that differ.
    """
    found: list[Any] = []
    for where in (config, *(value for value in config.values() if isinstance(value, Mapping))):
        found += [where[key] for key in KEYS if where.get(key) and where[key] not in found]
    if not found:
        return None
    if len(found) > 1 or not isinstance(found[0], Mapping):
        raise CheckpointError("config.json says in several ways, or not in an object, how the model is quantised.")
    return Config(found[0], where="config.json's quantization_config")


def without_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of the same model with unquantised weights."""
    return {
        key: without_settings(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if key not in KEYS
    }


def refuse_cache_scales(settings: Config, *keys: str) -> None:
    """UnsupportedError when a field says that keys and values are to be kept with scales from the file."""
    for key in keys:
        if settings.get(key):
            raise UnsupportedError(
                f"config.json's quantization_config sets {key}, and a cache with scales of its own is not implemented.",
                hint=f"Take {key} out of config.json: the cache is then kept as --cache-dtype says.",
            )


def matches(module: str, pattern: str) -> bool:
    """Whether a target or an entry of an ignore list means a module: its name, or a regular expression after re:."""
    if not pattern.startswith("re:"):
        return module == pattern
    if not _is_bounded(pattern):
        raise UnsupportedError(
            f"config.json's quantization_config has the expression {pattern!r}, which could take for ever.",
            hint=f"Write it with at most {MOST_REPEATS} repeats, none of them of a group, or name the modules.",
        )
    try:
        return re.match(pattern.removeprefix("re:"), module) is not None
    except re.error as error:
        raise CheckpointError(f"config.json's quantization_config has the bad expression {pattern!r}.") from error


def _is_bounded(pattern: str) -> bool:
    """Whether nothing in it repeats what repeats, and few things repeat at all."""
    plain = re.sub(r"\\.|\[\^?\]?[^\]]*\]", "x", pattern)
    return re.search(r"\)[*+{]", plain) is None and len(re.findall(r"[*+{]", plain)) <= MOST_REPEATS
