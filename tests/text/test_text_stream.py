"""Streams: what comes out piece by piece is what decoding everything at once gives, in whole characters."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, trainers

from landrace.text import TextStream, Tokenizer, tokenizer_from_gguf

TEXTS = ["Tiếng Việt đẹp quá", "你好，世界。", "🦙👩‍👩‍👧‍👧 emoji", "plain English text", "добар дан"]


def byte_level() -> Tokenizer:
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet))
    import json

    merges = [" ".join(merge) for merge in json.loads(trained.to_str())["model"]["merges"]]
    tokens = [trained.id_to_token(i) for i in range(trained.get_vocab_size())] + ["<end>", "<tool>"]
    metadata = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": tokens,
        "token_type": [1] * (len(tokens) - 2) + [3, 4],
        "merges": merges,
    }
    return tokenizer_from_gguf({f"tokenizer.ggml.{key}": value for key, value in metadata.items()})


def sentencepiece() -> Tokenizer:
    words = ["▁", "▁Hello", "▁wor", "ld", "é", "你", "好", "▁▁", "<tool>"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *words]
    kinds = [2, 3, 3, *([6] * 256), *([1] * (len(words) - 1)), 4]
    metadata = {
        "model": "llama",
        "tokens": tokens,
        "token_type": kinds,
        "scores": [float(-i) for i in range(len(tokens))],
    }
    return tokenizer_from_gguf({f"tokenizer.ggml.{key}": value for key, value in metadata.items()})


@pytest.fixture(scope="module", params=[byte_level, sentencepiece])
def tokenizer(request: Any) -> Tokenizer:
    return request.param()


def pieces_of(tokenizer: Tokenizer, ids: list[int], cuts: list[int], **options: bool) -> list[str]:
    stream = TextStream(tokenizer, **options)
    bounds = sorted({0, len(ids), *(cut for cut in cuts if cut <= len(ids))})
    return [*(stream.push(ids[a:b]) for a, b in pairwise(bounds)), stream.flush()]


@settings(max_examples=400)
@given(data=st.data())
def test_a_stream_joins_to_the_decoded_whole(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(-1, tokenizer.vocab_size + 3), max_size=40))
    cuts = data.draw(st.lists(st.integers(0, 40)))
    options = {"skip_special": data.draw(st.booleans()), "keep_leading_space": data.draw(st.booleans())}
    assert "".join(pieces_of(tokenizer, ids, cuts, **options)) == tokenizer.decode(ids, **options)


@settings(max_examples=200)
@given(text=st.text(st.characters(codec="utf-8")) | st.sampled_from(TEXTS))
def test_real_text_streams_in_whole_characters(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_bos=False, parse_special=False)
    pieces = pieces_of(tokenizer, ids, list(range(len(ids))))
    assert "".join(pieces) == text == tokenizer.decode(ids)
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)
    assert pieces[-1] == ""


def test_a_character_comes_with_its_last_byte() -> None:
    tokenizer = byte_level()
    stream = TextStream(tokenizer)
    ids = [next(i for i in range(256) if tokenizer.token_bytes(i) == bytes([b])) for b in "🦙".encode()]
    assert [stream.push([index]) for index in ids] == ["", "", "", "🦙"]
    assert stream.push(ids[:2]) == ""
    assert stream.flush() == "\ufffd"
    assert stream.push(ids) == "🦙"


def test_the_space_before_a_sentencepiece_text_goes_once() -> None:
    tokenizer = sentencepiece()
    hello = tokenizer.token_id("▁Hello")
    assert hello is not None
    assert "".join(pieces_of(tokenizer, [1, hello, hello], [1, 2])) == "Hello Hello"
    assert "".join(pieces_of(tokenizer, [hello, hello], [1], keep_leading_space=True)) == " Hello Hello"
    assert tokenizer.decode(tokenizer.encode("  Hello")) == "  Hello"


def test_no_token_is_looked_at_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = byte_level()
    seen: list[int] = []
    shown = tokenizer.shown_bytes
    monkeypatch.setattr(tokenizer, "shown_bytes", lambda i, **options: (seen.append(i), shown(i, **options))[1])
    stream = TextStream(tokenizer)
    ids = [i % tokenizer.vocab_size for i in range(1000)]
    for index in ids:
        stream.push([index])
    assert seen == ids
