"""`/set`: how answers are sampled and shown, by the names and the checks of the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from landrace.errors import RequestError

if TYPE_CHECKING:
    from landrace.engine import SamplingParams


@dataclass
class Display:
    """How answers are shown."""

    stats: bool = False
    """After each, how fast it came and how much of the context is left."""
    markdown: bool = True
    """On a terminal."""


def _number(read: Callable[[str], float]) -> Callable[[str], Any]:
    """What is no number stays text, which `SamplingParams` refuses by its name."""

    def value(text: str) -> Any:
        try:
            return read(text)
        except ValueError:
            return text

    return value


def _seed(text: str) -> Any:
    return None if text == "off" else _number(int)(text)


def _stops(text: str) -> tuple[str, ...]:
    """One text, in which \\n and \\t stand for a line break and a tab."""
    return () if text == "off" else (text.replace("\\n", "\n").replace("\\t", "\t"),)


_SAMPLING: Mapping[str, Callable[[str], Any]] = {
    "temperature": _number(float),
    "top_p": _number(float),
    "top_k": _number(int),
    "min_p": _number(float),
    "repetition_penalty": _number(float),
    "max_tokens": _number(int),
    "seed": _seed,
    "stop": _stops,
}
SHOWN = ("stats", "markdown")
NAMES = (*_SAMPLING, *SHOWN)


def with_setting(params: SamplingParams, display: Display, name: str, text: str) -> SamplingParams:
    """The parameters with the value that `text` writes. RequestError for a name that is not known, or a value that is
    not allowed."""
    name = name.replace("-", "_")
    if name in SHOWN:
        if text not in ("on", "off"):
            raise RequestError(f"{name} is on or off, not {text[:40]!r}.", field=name)
        setattr(display, name, text == "on")
        return params
    if name not in _SAMPLING:
        raise RequestError(f"There is no setting {name[:40]!r}.", field=name, hint=f"Known are {', '.join(NAMES)}.")
    return replace(params, **{name: _SAMPLING[name](text)})


def shown_settings(params: SamplingParams, display: Display) -> list[tuple[str, str]]:
    """Each setting and its value, as `/set` takes it."""
    values = {name: getattr(params, name) for name in _SAMPLING} | {name: getattr(display, name) for name in SHOWN}
    return [(name, _shown(value)) for name, value in values.items()]


def _shown(value: Any) -> str:
    if value is None or value == ():
        return "off"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ", ".join(repr(text) for text in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
