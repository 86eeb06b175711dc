"""`Guide`: what an answer must be."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from landrace.errors import RequestError

Kind = Literal["json_schema", "json_object", "regex", "choice", "lark"]


@dataclass(frozen=True)
class Guide:
    """The language of an answer. Equal guides have equal sources. Travels between processes.

    Whether it can be followed is `check_guide`'s to say.
    """

    kind: Kind
    source: str
    """The schema as JSON, the pattern, the choices as a JSON list, or the grammar."""

    @staticmethod
    def of_schema(schema: Mapping[str, Any] | bool) -> Guide:
        """JSON that is valid under a JSON Schema of 2020-12. RequestError for what JSON cannot say."""
        try:
            return Guide("json_schema", json.dumps(schema, ensure_ascii=False, allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise RequestError(f"The schema is not JSON: {error}", field="guide") from error

    @staticmethod
    def of_json_object() -> Guide:
        """Any JSON object."""
        return Guide("json_object", "")

    @staticmethod
    def of_regex(pattern: str) -> Guide:
        """A text that matches the pattern as a whole."""
        return Guide("regex", pattern)

    @staticmethod
    def of_choices(texts: Sequence[str]) -> Guide:
        """One of some texts."""
        return Guide("choice", json.dumps(list(texts), ensure_ascii=False))

    @staticmethod
    def of_lark(text: str) -> Guide:
        """A text of the language of `start` in a Lark grammar, as llguidance reads them."""
        return Guide("lark", text)
