"""Schemas of every kind, our own: whatever a random model writes under them is valid; and hostile ones, refused."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import jsonschema
import pytest
from guided_text import random_answer, small_vocabulary
from many_schemas import FAMILIES, SEEDS, schemas

from landrace.errors import RequestError
from landrace.text import Tokenizer
from landrace.text.guides import Guide, check_guide

CHECKED_FORMATS = jsonschema.FormatChecker(("date", "ipv4", "uuid"))


@cache
def tokenizer() -> Tokenizer:
    return small_vocabulary()


@pytest.mark.matrix
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_random_model_writes_is_valid(family: str, seed: int) -> None:
    schema = schemas()[family, seed]
    jsonschema.Draft202012Validator.check_schema(schema)
    checked = jsonschema.Draft202012Validator(schema, format_checker=CHECKED_FORMATS)
    for draw in range(3):
        text = random_answer(tokenizer(), Guide.of_schema(schema), seed=draw)
        checked.validate(json.loads(text)), text


def test_there_are_three_hundred_and_no_two_alike() -> None:
    texts = [json.dumps(schema) for schema in schemas().values()]
    assert len(texts) >= 300
    assert len(set(texts)) > 0.8 * len(texts)


def _nested(levels: int) -> Any:
    schema: Any = {"type": "null"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


def _doubling(levels: int) -> Any:
    """Each definition is used twice by the next one."""
    defs = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n - 1}"}] * 2} for n in range(1, levels)}
    return {"$ref": f"#/$defs/d{levels - 1}", "$defs": {"d0": {"type": "string"}, **defs}}


HOSTILE: dict[str, Any] = {
    "false": False,
    "nothing is left": {"type": "string", "enum": [1, 2]},
    "refers to itself": {"$ref": "#"},
    "refers in circles": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    "refers to a file": {"$ref": "file:///etc/passwd"},
    "refers to a page": {"$ref": "https://example.com/schema.json"},
    "refers to nothing": {"$ref": "#/$defs/nothing"},
    "is nested deeply": _nested(500),
    "has patterns that multiply": {
        "allOf": [{"type": "string", "pattern": f"(a|b)*a(a|b){{{n}}}"} for n in range(20, 24)]
    },
    "has a back reference": {"type": "string", "pattern": r"(a)\1"},
    "looks ahead": {"type": "string", "pattern": "a(?=b)"},
    "has a broken pattern": {"type": "string", "pattern": "("},
    "has too many properties": {"type": "object", "properties": {f"p{n}": {"type": "null"} for n in range(5000)}},
    "has too many values": {"enum": list(range(100_000))},
    "is very large": {"const": "x" * 1_000_000},
    "crosses its bounds": {"type": "integer", "minimum": 5, "maximum": 4},
    "crosses its lengths": {"type": "string", "minLength": 5, "maxLength": 4},
    "asks for what is not there": {"type": "object", "required": ["a"], "additionalProperties": False},
    "has a negative length": {"type": "string", "minLength": -1},
    "has a length of a name": {"type": "string", "minLength": "a"},
    "has an unknown type": {"type": "text"},
    "has an unknown format": {"type": "string", "format": "secret"},
    "has an unknown keyword": {"type": "string", "maxlength": 5},
    "denies": {"not": {"type": "string"}},
    "chooses": {"if": {"type": "string"}, "then": {"minLength": 1}},
    "counts": {"type": "array", "contains": {"type": "null"}, "minContains": 2},
    "wants no two alike": {"type": "array", "uniqueItems": True},
    "has alternatives that overlap": {"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 3}]},
    "is another dialect": {"$schema": "https://example.com/mine", "type": "string"},
    "has numbers beyond numbers": {"type": "number", "minimum": 10**400},
    "has properties that are none": {"type": "object", "properties": [1]},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_schema_ends_in_one_clear_error(name: str) -> None:
    with pytest.raises(RequestError) as refused:
        check_guide(Guide.of_schema(HOSTILE[name]), tokenizer())
    assert refused.value.field == "guide"
    assert 10 < len(refused.value.message) < 600


COSTLY: dict[str, Any] = {
    "doubles with each definition": _doubling(30),
    "has a pattern that explodes": {"type": "string", "pattern": "((a{1,100}){1,100}){1,100}"},
}


@pytest.mark.parametrize("name", COSTLY)
def test_a_costly_schema_is_followed_or_refused(name: str) -> None:
    guide = Guide.of_schema(COSTLY[name])
    try:
        check_guide(guide, tokenizer())
    except RequestError as error:
        assert error.field == "guide"
    else:
        assert isinstance(json.loads(random_answer(tokenizer(), guide, seed=0)), str)
