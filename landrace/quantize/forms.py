"""The forms that weights can be written in, by the names that their users know."""

from __future__ import annotations

from collections.abc import Iterable

from landrace.errors import OptionError
from landrace.quantize.compressed import SCHEMES, Scheme
from landrace.quantize.mixes import MIXES, Mix

FORMS: dict[str, Mix | Scheme] = {**MIXES, **SCHEMES}


def find_form(name: str) -> tuple[str, Mix | Scheme]:
    """The form of this name, in capitals or not. OptionError, naming all, when there is none."""
    known = name.upper().replace("-", "_")
    if known not in FORMS:
        raise OptionError(
            f"There is no form {name!r} to write weights in.",
            hint=f"GGUF: {_listed(MIXES)}. Safetensors: {_listed(SCHEMES)}.",
        )
    return known, FORMS[known]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(name.lower() for name in names)
