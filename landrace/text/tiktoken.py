"""tiktoken vocabularies: a file of base64 tokens, each with the rank at which it is merged."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from landrace.errors import CheckpointError
from landrace.text.bpe import added_token, byte_level_backend, merges_by_priority
from landrace.text.byte_level import bytes_to_token
from landrace.text.pretokenizers import Cut

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tokenizers import Tokenizer

MAX_FILE = 64 * 1024 * 1024


@dataclass(frozen=True)
class RankedFamily:
    """What the tokenizer class named in tokenizer_config.json keeps in its code rather than in the files.

    `named` are its control tokens and `first_id` the id of the first; None where the config lists them itself.
    `prefix` is what it writes before a text.
    """

    cut: str
    named: tuple[str, ...] = ()
    first_id: int | None = None
    prefix: tuple[str, ...] = ()


FAMILIES: dict[str, RankedFamily] = {
    "QWenTokenizer": RankedFamily(
        "qwen2",
        named=("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205))),
        first_id=151643,
    ),
    "HYTokenizer": RankedFamily(
        "hunyuan",
        named=(
            *("<|endoftext|>", "<|startoftext|>", "<|bos|>", "<|eos|>", "<|pad|>"),
            *(f"<|extra_{i}|>" for i in range(205)),
        ),
        first_id=127957,
    ),
    "ChatGLM4Tokenizer": RankedFamily("glm4", prefix=("[gMASK]", "<sop>")),
    "TikTokenTokenizer": RankedFamily("kimi-k2"),
}


def is_rank_file(path: Path) -> bool:
    """Whether the file starts with a base64 token and a rank (SentencePiece files share the name tokenizer.model)."""
    with path.open("rb") as file:
        parts = file.readline(4096).split()
    if len(parts) != 2 or not parts[1].isdigit():
        return False
    try:
        base64.b64decode(parts[0], validate=True)
    except binascii.Error:
        return False
    return True


def read_ranks(path: Path) -> dict[bytes, int]:
    """Token bytes to rank, which is also the token's id."""
    if path.stat().st_size > MAX_FILE:
        raise CheckpointError(f"{path.name} is larger than any tiktoken vocabulary ({MAX_FILE:,} bytes).")
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise CheckpointError(f"{path.name}, line {number}: not a token and its rank.") from error
    if not ranks or len(set(ranks.values())) != len(ranks):
        raise CheckpointError(f"{path.name} has no tokens, or two with the same rank.")
    return ranks


def build_backend(
    ranks: Mapping[bytes, int], cut: Cut, control: Mapping[str, int], text: Mapping[str, int]
) -> Tokenizer:
    """Byte-level BPE that merges in the order of the ranks, after taking whole words that are tokens as they are.

    `control` are the special tokens and `text` the other added ones, with their ids.
    """
    tokens = {bytes_to_token(token): rank for token, rank in ranks.items()}
    taken = set(tokens.values())
    for token, index in {**control, **text}.items():
        if index in taken or token in tokens:
            raise CheckpointError(f"The added token {token!r} has the id or the text of another token.")
    merges = merges_by_priority(tokens, tokens)
    added = [added_token(token, special=token in control) for token in {**control, **text}]
    return byte_level_backend({**tokens, **control, **text}, merges, replace(cut, ignore_merges=True), added)
