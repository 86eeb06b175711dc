"""tiktoken vocabularies: a file of base64 tokens, each with the rank at which it is merged."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from landrace.errors import CheckpointError
from landrace.text.bpe import added_token, byte_level_backend, merges_by_priority
from landrace.text.byte_level import bytes_to_token
from landrace.text.pretokenizers import Cut

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from tokenizers import Tokenizer

MAX_FILE = 64 * 1024 * 1024


@dataclass(frozen=True)
class RankedFamily:
    """What the tokenizer class named in tokenizer_config.json keeps in its code rather than in the files.

    `named` are its control tokens and `first_id` the id of the first, for those that the config does not list itself.
    `prefix` is what it writes before a text.
    """

    cut: str
    named: tuple[str, ...] = ()
    first_id: int = 0
    prefix: tuple[str, ...] = ()

    def control(self, listed: Container[int]) -> dict[str, int]:
        """The named control tokens whose ids are not `listed`, with their ids."""
        return {token: index for index, token in enumerate(self.named, self.first_id) if index not in listed}


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
_LLAMA3 = RankedFamily(
    "llama-bpe",
    named=(
        *("<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>"),
        *("<|finetune_right_pad_id|>", "<|reserved_special_token_2|>", "<|start_header_id|>", "<|end_header_id|>"),
        *("<|eom_id|>", "<|eot_id|>", "<|python_tag|>"),
        *(f"<|reserved_special_token_{i}|>" for i in range(3, 248)),
    ),
    first_id=128000,
    prefix=("<|begin_of_text|>",),
)
_HARMONY = RankedFamily(
    "gpt-4o",
    named=(
        *("<|startoftext|>", "<|endoftext|>", "<|reserved_200000|>", "<|reserved_200001|>", "<|return|>"),
        *("<|constrain|>", "<|reserved_200004|>", "<|channel|>", "<|start|>", "<|end|>", "<|message|>"),
        *("<|reserved_200009|>", "<|reserved_200010|>", "<|reserved_200011|>", "<|call|>"),
        *(f"<|reserved_{i}|>" for i in range(200013, 200018)),
        "<|endofprompt|>",
        *(f"<|reserved_{i}|>" for i in range(200019, 201088)),
    ),
    first_id=199998,
)
_BY_CONTENT = {
    "82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55": _LLAMA3,
    "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d": _HARMONY,  # o200k_base
    "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186": FAMILIES["QWenTokenizer"],
}
"""SHA-256 of published rank files that come without the name of a class: Llama 3's, gpt-oss's and Qwen 1's."""


def family_of(file: Path, tokenizer_class: str | None) -> RankedFamily | None:
    """The family of a rank file: that of the class the folder names, or else that of these very ranks."""
    return FAMILIES.get(tokenizer_class or "") or _BY_CONTENT.get(hashlib.sha256(_content(file)).hexdigest())


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
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(_content(path).splitlines(), start=1):
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


def _content(path: Path) -> bytes:
    if path.stat().st_size > MAX_FILE:
        raise CheckpointError(f"{path.name} is larger than any tiktoken vocabulary ({MAX_FILE:,} bytes).")
    return path.read_bytes()


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
