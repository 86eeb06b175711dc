"""A small vocabulary with words of several bytes, and random answers under a guide."""

from __future__ import annotations

import random
from copy import copy

import numpy as np
from byte_vocabulary import byte_vocabulary
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from landrace.text.guides import Guide, Walk
from landrace.text.tokenizer import Conventions, Spelling, Tokenizer

CONTROL = ("<|im_start|>", "<|im_end|>", "<|channel|>", "<|message|>", "<|start|>", "<|end|>")
_TEXTS = [
    '{"intent": "refund", "code": "AB1234", "people": 12, "summary": "The train was late."}',
    '{"name": "Ada", "tags": ["a", "bb", "ccc"], "nested": {"x": 1.5, "y": null, "ok": true}}',
    "<think>So the answer is yes, no, perhaps.</think>\n\n", "analysis final assistant",
]  # fmt: skip


def small_vocabulary(size: int = 380) -> Tokenizer:
    """Byte-level BPE that was trained on records, ChatML's and harmony's control tokens, and marks of thoughts that are
    ordinary added tokens."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(_TEXTS * 3, trainer)
    return _finished(backend)


def plain_bytes() -> Tokenizer:
    """A token for each byte."""
    return _finished(byte_vocabulary(control=()))


def _finished(backend: Backend) -> Tokenizer:
    backend.add_special_tokens([AddedToken(name, special=True) for name in CONTROL])
    backend.add_tokens([AddedToken(name, special=False, normalized=False) for name in ("<think>", "</think>")])
    end = backend.token_to_id("<|im_end|>")
    return Tokenizer(backend, Conventions(Spelling.BYTE_LEVEL, eos_ids=frozenset({end})))


def allowed(walk: Walk) -> list[int]:
    """The tokens that may come next."""
    bits = np.unpackbits(np.frombuffer(walk.mask, np.uint8), bitorder="little")
    return [int(index) for index in bits.nonzero()[0]]


def random_answer(tokenizer: Tokenizer, guide: Guide, seed: int, patience: int = 60) -> str:
    """The text of a random walk to the end: any allowed token at first, and later those that lead to an end."""
    rng = random.Random(seed)
    walk, ids = tokenizer.guides.walk(guide), []
    while not walk.complete:
        tokens = allowed(walk)
        assert tokens, (walk.error, tokenizer.decode(ids))
        if walk.forced:
            assert walk.forced[0] in tokens
            tokens = [walk.forced[0]]
        elif len(ids) > patience:
            tokens = _closing(tokenizer, tokens)
        token = rng.choice(tokens)
        if token in tokenizer.eos_ids:
            break
        ids.append(token)
        walk.record(token)
        assert len(ids) < 2000, tokenizer.decode(ids)
    return b"".join(map(tokenizer.token_bytes, ids)).decode()


def _closing(tokenizer: Tokenizer, tokens: list[int]) -> list[int]:
    if ends := [token for token in tokens if token in tokenizer.eos_ids]:
        return ends
    closers = (b'"', b"}", b"]", b'"}', b'"]')
    return [token for token in tokens if tokenizer.token_bytes(token) in closers] or tokens


def accepts(tokenizer: Tokenizer, guide: Guide, text: str) -> bool:
    """Whether a text, in whatever tokens, is an answer."""
    walk = copy(tokenizer.guides.walk(guide))
    for token in tokenizer.guides.vocabulary.encode(text):
        if token not in allowed(walk):
            return False
        walk.record(token)
    return walk.complete or bool(tokenizer.eos_ids & set(allowed(walk)))
