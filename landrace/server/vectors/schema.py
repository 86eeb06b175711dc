"""What a client may ask of vectors and scores, field by field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, SkipValidation, WithJsonSchema, field_validator, model_validator

from landrace.server.fields import ONE_OR_SEVERAL, TEXTS_OR_IDS, Fields, Neutral
from landrace.server.http.errors import FieldError, require_type

MAX_TEXTS = 2048
"""Texts or documents of a call."""
MAX_TOKENS = 300_000
"""Of all texts of a call together."""


class EmbeddingRequest(Fields):
    """POST /v1/embeddings."""

    neutral: ClassVar[Mapping[str, Neutral]] = {"user": str}

    model: str
    # Long lists are not the library's to check: it would keep the interpreter's lock all the while.
    input: Annotated[SkipValidation[list[str] | list[list[int]]], WithJsonSchema(TEXTS_OR_IDS)]
    """Texts, or token ids of texts."""
    dimensions: Annotated[int, Field(ge=1)] | None = None
    encoding_format: Literal["float", "base64"] = "float"
    prompt_name: str | None = None
    """One of the checkpoint's prompts, which is put before each text."""
    input_type: str | None = None
    """Another name of `prompt_name`."""
    instruction: str | None = None
    """What the texts, then queries, search for."""
    normalize: bool | None = None
    truncate: bool = False
    """Whether texts that are too long lose their end."""

    @field_validator("input", mode="before")
    @classmethod
    def _one_text_or_several(cls, value: Any) -> list[str] | list[list[int]]:
        several = [value] if isinstance(value, str) or _is_ids(value) else value
        if not isinstance(several, list) or not (
            all(isinstance(one, str) for one in several) or all(_is_ids(one) for one in several)
        ):
            raise ValueError("input must be a text, a list of texts, token ids, or a list of lists of token ids.")
        _check_count(several, "input")
        return several

    @model_validator(mode="after")
    def _says_once_what_goes_before(self) -> Self:
        if self.input_type is not None and self.prompt_name not in (None, self.input_type):
            raise FieldError("input_type and prompt_name differ; send one of them.", field="input_type")
        if self.instruction is not None and self.prompt is not None:
            raise FieldError("A prompt and an instruction exclude each other.", field="instruction")
        if self.ids is not None:
            given = {"prompt_name": self.prompt, "instruction": self.instruction, "truncate": self.truncate or None}
            for name, value in given.items():
                if value is not None:
                    raise FieldError(f"{name} is for texts; token ids are read as they are.", field=name)
        return self

    @property
    def prompt(self) -> str | None:
        """The name of what is put before each text."""
        return self.input_type if self.prompt_name is None else self.prompt_name

    @property
    def ids(self) -> list[list[int]] | None:
        """The input, where it is token ids."""
        return None if isinstance(self.input[0], str) else [one for one in self.input if isinstance(one, list)]

    @property
    def texts(self) -> list[str]:
        """The input, where it is texts."""
        return [one for one in self.input if isinstance(one, str)]


def _checked_documents(value: Any) -> list[str]:
    require_type(value, list, "documents")
    _check_count(value, "documents")
    return [_text_of(one, f"documents[{index}]") for index, one in enumerate(value)]


_DOCUMENTS = {
    "type": "array",
    "items": {
        "anyOf": [
            {"type": "string"},
            {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
        ]
    },
}


class RerankRequest(Fields):
    """POST /v1/rerank."""

    neutral: ClassVar[Mapping[str, Neutral]] = {
        "max_chunks_per_doc": (),
        "max_tokens_per_doc": (),
        "priority": (0,),
        "rank_fields": (["text"],),
        "return_embeddings": (False,),
        "user": str,
    }

    model: str
    query: str
    documents: Annotated[SkipValidation[list[str]], AfterValidator(_checked_documents), WithJsonSchema(_DOCUMENTS)]
    """Texts, or objects with a `text`."""
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool = False
    instruction: str | None = None
    """What makes a document a good one, for models that take one."""
    truncate: bool = False


class ScoreRequest(Fields):
    """POST /v1/score."""

    neutral: ClassVar[Mapping[str, Neutral]] = {
        "encoding_format": ("float",),
        "priority": (0,),
        "truncate_prompt_tokens": (),
        "user": str,
    }

    model: str
    text_1: Annotated[SkipValidation[list[str]], WithJsonSchema(ONE_OR_SEVERAL)]
    """One query for every text of `text_2`, or one for each."""
    text_2: Annotated[SkipValidation[list[str]], WithJsonSchema(ONE_OR_SEVERAL)]
    instruction: str | None = None
    truncate: bool = False

    @field_validator("text_1", "text_2", mode="before")
    @classmethod
    def _one_text_or_several(cls, value: Any) -> list[str]:
        several = [value] if isinstance(value, str) else value
        if not isinstance(several, list) or not all(isinstance(one, str) for one in several):
            raise ValueError("text_1 and text_2 must be a text or a list of texts.")
        return several

    @model_validator(mode="after")
    def _texts_are_pairs(self) -> Self:
        _check_count(self.text_1, "text_1")
        _check_count(self.text_2, "text_2")
        if len(self.text_1) not in (1, len(self.text_2)):
            raise FieldError(
                f"text_1 has {len(self.text_1)} texts and text_2 {len(self.text_2)}; text_1 must have one, or as many.",
                field="text_1",
            )
        return self


def _check_count(texts: list[Any], field: str) -> None:
    if not texts:
        raise FieldError(f"{field} is empty.", field=field)
    if len(texts) > MAX_TEXTS:
        raise FieldError(f"{field} has {len(texts)} entries; a call takes {MAX_TEXTS}.", field=field)


def _text_of(document: Any, path: str) -> str:
    if isinstance(document, str):
        return document
    if not isinstance(document, dict) or document.keys() != {"text"} or not isinstance(document["text"], str):
        raise FieldError(f'{path} must be a text or {{"text": ...}}.', field=path, code="invalid_type")
    return str(document["text"])


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)
