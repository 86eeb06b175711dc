"""A tokenizer with a token for each byte."""

from __future__ import annotations

from collections.abc import Sequence

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers


def byte_vocabulary(control: Sequence[str] = ("<|im_start|>", "<|im_end|>")) -> tokenizers.Tokenizer:
    """With these control tokens behind the bytes; ChatML's, unless others are wanted."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(name, special=True) for name in control])
    return backend
