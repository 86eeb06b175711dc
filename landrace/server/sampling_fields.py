"""`SamplingFields`: how a client of the OpenAI API asks for tokens to be drawn."""

from __future__ import annotations

from typing import Any

from pydantic import field_validator

from landrace.server.fields import Fields

NAMES = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "ignore_eos",
)


class SamplingFields(Fields):
    """Under the names of `SamplingParams`, which checks their ranges."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    ignore_eos: bool | None = None

    @field_validator("top_k", mode="before")
    @classmethod
    def _minus_one_is_all(cls, value: Any) -> Any:
        return 0 if type(value) is int and value == -1 else value

    @property
    def draws(self) -> dict[str, Any]:
        """Those that are given."""
        return {name: value for name in NAMES if (value := getattr(self, name)) is not None}
