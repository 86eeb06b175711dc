"""Guides on every vocabulary of the shared data: byte-level, SentencePiece, tiktoken."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import shared_vocabularies
from guided_text import accepts, random_answer
from matrix import mostly_long
from shared_vocabularies import doors

from landrace.text import Tokenizer
from landrace.text.guides import Guide

SCHEMA = {
    "type": "object",
    "properties": {
        "intent": {"enum": ["refund", "cancel"]},
        "code": {"type": "string", "pattern": "^[A-Z]{2}[0-9]{4}$"},
        "über": {"type": "string", "maxLength": 8},
    },
    "required": ["intent", "code", "über"],
    "additionalProperties": False,
}


USUAL = ("qwen2.5", "llama2", "o200k", "kimi_k2")
"""One of each kind of file."""


@pytest.fixture(scope="module", params=mostly_long(shared_vocabularies.NAMES, USUAL))
def tokenizer(request: pytest.FixtureRequest, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    opened = doors(shared, request.param, tmp_path_factory.mktemp("folders"))
    return opened.get("folder") or opened["gguf"]


def test_answers_are_valid(tokenizer: Tokenizer) -> None:
    guide = Guide.of_schema(SCHEMA)
    for seed in range(3):
        jsonschema.validate(json.loads(random_answer(tokenizer, guide, seed)), SCHEMA)
    assert accepts(tokenizer, guide, '{"intent": "refund", "code": "AB1234", "über": "日本"}')


def test_forced_tokens_are_those_that_the_text_always_has(tokenizer: Tokenizer) -> None:
    walk = tokenizer.guides.walk(Guide.of_regex("\nThe answers are as follows: [a-z]+"))
    forced = list(walk.forced)
    assert b"".join(map(tokenizer.token_bytes, forced)).startswith(b"\nThe answers are as")
    for tail in ("yes", "no, or", "zzz"):
        text = f"\nThe answers are as follows: {tail}"
        assert tokenizer.guides.vocabulary.encode(text)[: len(forced)] == forced
        assert tokenizer.decode(tokenizer.encode(text, add_bos=False)) == text
