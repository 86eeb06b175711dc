"""The shapes of replies from hand-made outputs: what no small model would say."""

from __future__ import annotations

import json
import math

import pytest
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from landrace.engine import TokenLogprob
from landrace.server.generation import Choice, Prompt
from landrace.server.openai.replies import ChatShape, CompletionShape
from landrace.text import Tokenizer, load_tokenizer


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A vocabulary that has the letter a twice: as a letter and as a byte."""
    folder = tmp_path_factory.mktemp("sentencepiece")
    vocab = {"<unk>": 0, "<0x61>": 1, "a": 2, "<0xF0>": 3, "<0x9F>": 4, "▁": 5}
    backend = Backend(BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>"))
    backend.add_special_tokens([AddedToken("<s>", special=True)])
    raw = json.loads(backend.to_str())
    raw["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    raw["decoder"] = {"type": "ByteFallback"}
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    return load_tokenizer(folder)


def chosen(*top: tuple[int, float]) -> Choice:
    choice = Choice(0, Prompt((2,)), text="a", finish_reason="length")
    choice.logprobs = [TokenLogprob(top[0][0], top[0][1], top)]
    return choice


@pytest.mark.parametrize("best", [1, 2])
def test_of_two_tokens_with_the_same_bytes_the_likeliest_is_shown(sentencepiece: Tokenizer, best: int) -> None:
    choice = chosen((best, -0.5), (3 - best, -1.5), (3, -2.0), (4, -3.0))
    told = CompletionShape(sentencepiece, wants_logprobs=True, echo=False).choice(choice)["logprobs"]
    assert told["top_logprobs"] == [{"a": -0.5, "bytes:\\xf0": -2.0, "bytes:\\x9f": -3.0}]
    listed = ChatShape(sentencepiece, wants_logprobs=True).choice(choice)["logprobs"]["content"][0]["top_logprobs"]
    assert [(entry["token"], entry["bytes"]) for entry in listed] == [
        ("a", [0x61]),
        ("a", [0x61]),
        ("\\xf0", [0xF0]),
        ("\\x9f", [0x9F]),
    ]


def test_an_impossible_token_has_a_number(sentencepiece: Tokenizer) -> None:
    choice = chosen((2, -math.inf), (1, -math.inf))
    for shape in (
        CompletionShape(sentencepiece, wants_logprobs=True, echo=False),
        ChatShape(sentencepiece, wants_logprobs=True),
    ):
        assert "-9999.0" in json.dumps(shape.choice(choice), allow_nan=False)
