"""What a fine-tuning job may be asked, in the OpenAI API's words."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from landrace.server.fields import Fields
from landrace.server.http.errors import FieldError

_SUFFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MOST_EPOCHS = 100

Auto = Literal["auto"]


class Hyperparameters(Fields):
    """What is not given, or "auto", is the default of `landrace tune`."""

    n_epochs: Annotated[int, Field(ge=1, le=_MOST_EPOCHS)] | Auto = "auto"
    batch_size: Annotated[int, Field(ge=1, le=4096)] | Auto = "auto"
    learning_rate_multiplier: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] | Auto = "auto"
    """Of the default rate."""
    lora_rank: Annotated[int, Field(ge=1, le=1024)] | Auto = "auto"
    """Ours: the rank of the adapter."""

    def resolved(self, seed: int | None) -> dict[str, Any]:
        """Every value as the run takes it."""
        defaults = {"n_epochs": 1, "batch_size": 32, "learning_rate_multiplier": 1.0, "lora_rank": 16}
        given = {name: getattr(self, name) for name in defaults}
        return {**{n: defaults[n] if v == "auto" else v for n, v in given.items()}, "seed": seed or 0}


class Supervised(Fields):
    hyperparameters: Hyperparameters = Hyperparameters()


class Method(Fields):
    type: Literal["supervised"]
    supervised: Supervised = Supervised()


class TuningRequest(Fields):
    """POST /v1/fine_tuning/jobs."""

    neutral: ClassVar = {"integrations": ([],)}

    model: str
    training_file: str
    validation_file: str | None = None
    hyperparameters: Hyperparameters | None = None
    """The older place."""
    method: Method | None = None
    suffix: str | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    metadata: dict[str, str] | None = None

    @field_validator("suffix")
    @classmethod
    def _is_a_name(cls, value: str | None) -> str | None:
        if value is not None and _SUFFIX.fullmatch(value) is None:
            raise ValueError("suffix must be 1 to 64 letters, digits, '.', '_' and '-', the first a letter or a digit.")
        return value

    @model_validator(mode="after")
    def _said_once(self) -> TuningRequest:
        if self.method is not None and self.hyperparameters is not None:
            raise FieldError("hyperparameters stand in method.supervised or beside it, not in both.",
                             field="hyperparameters")  # fmt: skip
        return self

    @property
    def chosen(self) -> Hyperparameters:
        if self.method is not None:
            return self.method.supervised.hyperparameters
        return self.hyperparameters or Hyperparameters()
