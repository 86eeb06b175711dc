"""What `run` holds answers to: a schema, a pattern or choices, as options say it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from landrace.errors import RequestError

if TYPE_CHECKING:
    from landrace.text.guides import Guide

SchemaOption = Annotated[Path | None, typer.Option(help="Hold answers to the JSON schema in this file.")]
RegexOption = Annotated[str | None, typer.Option(help="Hold answers to this regular expression, from end to end.")]
ChoiceOption = Annotated[list[str] | None, typer.Option(help="Hold answers to this text or another; may be repeated.")]


def read_guide(schema: Path | None, regex: str | None, choices: Sequence[str] | None) -> Guide | None:
    """The guide that the options name, or None. RequestError for several, DataError for a file that is no schema."""
    from landrace.data.json_text import read_json_object
    from landrace.text.guides import Guide

    given = [name for name, value in (("--schema", schema), ("--regex", regex), ("--choice", choices)) if value]
    if len(given) > 1:
        raise RequestError(f"{given[0]} and {given[1]} both say what an answer is to be.", hint="Leave one out.")
    if schema is not None:
        return Guide.of_schema(read_json_object(schema, "schema"))
    if regex is not None:
        return Guide.of_regex(regex)
    return Guide.of_choices(list(choices)) if choices else None
