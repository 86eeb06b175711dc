"""Calls that are forced, by a model that knows nothing: what comes back is a call of a declared tool, with valid
arguments.

A uniformly random model writes under the guide, in a vocabulary that has the family's control tokens, or none of them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

import jsonschema
import pytest
from byte_vocabulary import byte_vocabulary
from test_answers import BY_NAME
from tokenizers import AddedToken

from landrace.errors import RequestError
from landrace.text import Tokenizer
from landrace.text.answers import AnswerForm, AnswerParser, Parts, call_guide
from landrace.text.answers.grammar import Grammar
from landrace.text.answers.grammars import PLAIN
from landrace.text.guides import Guide
from landrace.text.tokenizer import Conventions, Spelling

NAMES = [name for name in BY_NAME if name]
END = "<|im_end|>"


def tool(name: str, properties: dict[str, Any], required: Sequence[str] = (), **more: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(required), **more}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


CITY = {"type": "string", "minLength": 1, "maxLength": 12}
TOOLS = [
    tool("get_weather", {"city": CITY, "days": {"type": "integer", "minimum": 1, "maximum": 14}}, ["city"]),
    tool(
        "get_weather_at",
        {
            "unit": {"enum": ["°C", "°F", None]},
            "sure": {"type": "boolean"},
            "hours": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 23}, "maxItems": 4},
            "place": {
                "type": "object",
                "properties": {"name": {"type": "string", "maxLength": 8}, "height": {"type": ["number", "null"]}},
                "required": ["name"],
                "additionalProperties": False,
            },
        },
        ["hours", "place"],
    ),
    tool(
        "search",
        {"text": {"type": "string", "maxLength": 30}, "code": {"type": "string", "pattern": "^[A-Z]{2}[0-9]+$"}},
    ),
    tool("pick", {"which": {"$ref": "#/$defs/which"}}, ["which"], **{"$defs": {"which": {"enum": ["a", "b"]}}}),
    tool("now", {}),
    tool(
        "mix",
        {
            "either": {"anyOf": [{"type": "string", "maxLength": 5}, {"type": "integer", "minimum": 5, "maximum": 99}]},
            "day": {"type": "string", "format": "date"},
            "other": {"type": ["null", "string"], "maxLength": 3},
        },
        ["either", "other"],
    ),
]


def tokenizer_of(grammar: Grammar, *, control: bool) -> Tokenizer:
    """Bytes, the marks of a grammar (as control tokens where they look so), and some words to be tempted by."""
    pieces = (
        sorted({one for mark in grammar.marks for one in re.findall(r"<[|｜][^<>]*[|｜]>", mark)}) if control else []
    )
    backend = byte_vocabulary((END, *pieces))
    words = {
        mark for mark in grammar.marks if mark.startswith("<") and "{" not in mark and not re.search(r"[|｜]>", mark)
    }
    words |= {'{"name": "', "</", "\n\n", "get_weather", '", "', "1234", "true", "null"}
    backend.add_tokens([AddedToken(word, normalized=False) for word in sorted(words)])
    end = backend.token_to_id(END)
    return Tokenizer(backend, Conventions(Spelling.BYTE_LEVEL, eos_ids=frozenset({end})))


def random_answer(tokenizer: Tokenizer, guide: Guide, seed: int, most: int = 4000) -> str | None:
    """What a random model writes under a guide; None where it finds no end."""
    draw, walk, out = random.Random(seed), tokenizer.guides.walk(guide), b""
    ends = tokenizer.eos_ids
    for _ in range(most):
        if walk.complete:
            return out.decode()
        mask = int.from_bytes(walk.mask, "little")
        allowed = [index for index in range(tokenizer.vocab_size) if mask >> index & 1]
        if ends & set(allowed) and draw.random() < 0.5:
            return out.decode()
        token = draw.choice([index for index in allowed if index not in ends] or allowed)
        out += tokenizer.token_bytes(token)
        walk.record(token)
    return None


def read(grammar: Grammar, text: str, tools: Sequence[dict[str, Any]]) -> Parts:
    parser = AnswerParser(grammar, grammar.start, tools)
    return Parts.of([*parser.push(text), *parser.flush()])


def check_calls(parts: Parts, text: str, tools: Sequence[dict[str, Any]]) -> None:
    schemas = {one["function"]["name"]: one["function"]["parameters"] for one in tools}
    for call in parts.calls:
        jsonschema.validate(call.arguments, schemas[call.name]), text


@pytest.mark.parametrize("control", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_a_forced_answer_is_calls_of_declared_tools(name: str, control: bool) -> None:
    grammar = BY_NAME[name]
    tokenizer = tokenizer_of(grammar, control=control)
    guide = call_guide(tokenizer, AnswerForm(grammar, grammar.start, tuple(TOOLS)))
    called = set()
    for seed in range(12):
        text = random_answer(tokenizer, guide, seed)
        if text is None:
            continue
        parts = read(grammar, text, TOOLS)
        assert parts.calls and not parts.content, text
        check_calls(parts, text, TOOLS)
        called |= {call.name for call in parts.calls}
    assert len(called) > 3


@pytest.mark.parametrize("name", NAMES)
def test_one_call_of_a_named_tool(name: str) -> None:
    grammar = BY_NAME[name]
    tokenizer = tokenizer_of(grammar, control=True)
    form = AnswerForm(grammar, grammar.start, tuple(TOOLS))
    guide = call_guide(tokenizer, form, ["get_weather_at"], several=False)
    for seed in range(3):
        text = random_answer(tokenizer, guide, seed)
        assert text is not None
        parts = read(grammar, text, TOOLS)
        assert [call.name for call in parts.calls] == ["get_weather_at"], text
        check_calls(parts, text, TOOLS)


@pytest.mark.parametrize("name", NAMES)
def test_a_free_choice_leaves_text_and_holds_calls(name: str) -> None:
    """Text may come first, or nothing but text; where a call comes, it is whole and valid."""
    grammar = BY_NAME[name]
    tokenizer = tokenizer_of(grammar, control=True)
    form = AnswerForm(grammar, grammar.start, tuple(TOOLS))
    guide = call_guide(tokenizer, form, several=False, amid_text=True)
    walk = tokenizer.guides.walk(guide)
    framed = "<|channel|>final<|message|>" if grammar.name.startswith("harmony") else "<|open|>response<|sep|>"
    for token in tokenizer.encode(("" if not grammar.framed else framed) + "I do not know {yet}.", add_bos=False):
        walk.record(token)
    assert walk.error is None
    forced = call_guide(tokenizer, form, several=False)
    for seed in range(3):
        call = (random_answer(tokenizer, forced, seed) or "").lstrip()
        walk = tokenizer.guides.walk(guide)
        for token in tokenizer.encode(call, add_bos=False):
            walk.record(token)
        assert walk.error is None, call


@pytest.mark.parametrize("name", NAMES)
def test_a_call_or_what_is_to_be_said(name: str) -> None:
    grammar = BY_NAME[name]
    tokenizer = tokenizer_of(grammar, control=True)
    form = AnswerForm(grammar, grammar.start, tuple(TOOLS))
    guide = call_guide(tokenizer, form, several=False, or_said=Guide.of_choices(["yes", "no"]))
    came: set[bool] = set()
    for seed in range(60):
        if came == {True, False}:
            break
        text = random_answer(tokenizer, guide, seed)
        assert text is not None
        parts = read(grammar, text, TOOLS)
        assert bool(parts.calls) != (parts.content in ("yes", "no")), text
        came.add(bool(parts.calls))
    assert came == {True, False}
    with pytest.raises(RequestError, match="grammar"):
        call_guide(tokenizer, form, or_said=Guide.of_lark('start: "a"'))


def test_what_a_family_cannot_write_is_refused() -> None:
    weather = tuple(TOOLS[:1])
    bytes_only = tokenizer_of(PLAIN, control=False)
    with pytest.raises(RequestError, match="template writes no tool calls"):
        call_guide(bytes_only, AnswerForm(PLAIN, PLAIN.start, weather))
    keys, python = BY_NAME["<arg_key>"], BY_NAME["Python calls"]
    refused = [
        (keys, tool("f", {}, anyOf=[{"required": ["a"]}]), "anyOf"),
        (keys, tool("f", {"a</arg_key>": {}}), "a</arg_key>"),
        (keys, tool("f", {"a": {"type": "string", "format": "duration"}}), "duration"),
        (python, tool("not-a-name", {}), "not-a-name"),
        (BY_NAME["JSON in <tool_call>"], tool("f", {"a": {"not": {}}}), "'not'"),
        (BY_NAME["JSON in <tool_call>"], tool("f", {}, type="array"), "type object"),
    ]
    for grammar, one, word in refused:
        with pytest.raises(RequestError, match=re.escape(word)) as error:
            call_guide(tokenizer_of(grammar, control=True), AnswerForm(grammar, grammar.start, (one,)))
        assert error.value.field == "tools"
