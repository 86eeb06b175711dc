"""Builds `tokenizers` backends from vocabularies that come as parts: tokens, merges, ranks or scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from landrace.errors import CheckpointError
from landrace.text.pretokenizers import Cut, build_normalizer, build_pre_tokenizer

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.models import Model

Merge = tuple[str, str]


def added_token(content: str, *, special: bool, normalized: bool = False) -> AddedToken:
    """A token that is matched in the text before any cutting, and before normalising unless `normalized`."""
    from tokenizers import AddedToken

    return AddedToken(content, special=special, normalized=normalized)


def byte_level_backend(
    vocab: Mapping[str, int], merges: Sequence[Merge], cut: Cut, added: Iterable[AddedToken]
) -> Tokenizer:
    """Byte-level BPE. Every added token must be in `vocab`, so that its id is the stated one."""
    from tokenizers import Tokenizer, decoders

    backend = Tokenizer(bpe_model(vocab, merges, ignore_merges=cut.ignore_merges))
    normalizer = build_normalizer(cut)
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.pre_tokenizer = build_pre_tokenizer(cut)
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens(list(added))
    return backend


def bpe_model(
    vocab: Mapping[str, int],
    merges: Sequence[Merge],
    *,
    ignore_merges: bool = False,
    unk_token: str | None = None,
    byte_fallback: bool = False,
) -> Model:
    """A BPE model; CheckpointError where a merge does not fit the vocabulary."""
    from tokenizers import models

    try:
        return models.BPE(
            vocab=dict(vocab),
            merges=list(merges),
            ignore_merges=ignore_merges,
            unk_token=unk_token,
            fuse_unk=unk_token is not None,
            byte_fallback=byte_fallback,
        )
    except Exception as error:  # the library raises bare Exception for a merge outside the vocabulary
        raise CheckpointError(f"The tokenizer's merges do not fit its vocabulary: {error}.") from error


def parse_merges(lines: Iterable[str]) -> list[Merge]:
    """Merges written as two tokens parted by a space, as merges.txt and GGUF files write them."""
    merges = []
    for line in lines:
        left, space, right = line.partition(" ")
        if not (left and space and right):
            raise CheckpointError(f"The tokenizer has a merge that is not two tokens: {line!r}.")
        merges.append((left, right))
    return merges


def merges_by_priority(priority: Mapping[str, float], parts: Mapping[str, int]) -> list[Merge]:
    """The merges a vocabulary implies when it gives each token a priority instead of listing merges.

    Both SentencePiece BPE (score) and tiktoken (rank) join the neighbours whose joined token comes first, so every
    way of splitting a token into two `parts` is a merge, in the order of `priority` (smallest first).
    """
    merges: list[tuple[float, int, Merge]] = []
    for token, order in priority.items():
        for at in range(1, len(token)):
            left, right = token[:at], token[at:]
            if left in parts and right in parts:
                merges.append((order, at, (left, right)))
    merges.sort(key=lambda merge: merge[:2])
    return [merge for _, _, merge in merges]


def unique_ids(tokens: Sequence[str]) -> dict[str, int]:
    """Token to id; CheckpointError where a token comes twice, because its id would be ambiguous."""
    ids = {token: index for index, token in enumerate(tokens)}
    if len(ids) != len(tokens):
        twice = next(token for index, token in enumerate(tokens) if ids[token] != index)
        raise CheckpointError(f"The tokenizer lists the token {twice!r} twice.")
    return ids
