"""WordPiece vocabularies (BERT): words are cut into the longest pieces that there are, from the left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from landrace.errors import CheckpointError
from landrace.text.bpe import added_token

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CONTINUES = "##"
"""What a piece begins with that does not begin a word."""
MAX_FILE = 64 * 1024 * 1024
_LONGEST_WORD = 100
"""Characters: a longer word is unknown."""


@dataclass(frozen=True)
class WordPieceModel:
    """What decides the encoding. `strips_accents` None: where letters become lower case."""

    ids: Mapping[str, int]
    """Of each piece, as BERT spells them."""
    unknown: str
    special: tuple[str, ...]
    """Control tokens, in order of their ids."""
    lowercase: bool
    strips_accents: bool | None = None
    parts_chinese: bool = True
    """Spaces are put around Chinese characters."""


def read_pieces(path: Path) -> dict[str, int]:
    """The ids of a vocab.txt, a piece a line. CheckpointError for what is not one."""
    if path.stat().st_size > MAX_FILE:
        raise CheckpointError(f"{path.name} is larger than any vocabulary ({MAX_FILE:,} bytes).")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path.name} is not UTF-8 text.") from error
    pieces = [line.rstrip("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]
    ids = {piece: index for index, piece in enumerate(pieces)}
    if len(ids) != len(pieces) or not ids:
        raise CheckpointError(f"{path.name} is not a list of different pieces, one a line.")
    return ids


def build_backend(model: WordPieceModel) -> Tokenizer:
    """A `tokenizers` backend that encodes as BERT's own tokenizer does. The decoder is ours, see `Tokenizer.decode`."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    if missing := {model.unknown, *model.special} - model.ids.keys():
        raise CheckpointError(f"The vocabulary lacks the token {min(missing)!r}.")
    backend = Tokenizer(
        models.WordPiece(
            dict(model.ids),
            unk_token=model.unknown,
            continuing_subword_prefix=CONTINUES,
            max_input_chars_per_word=_LONGEST_WORD,
        )
    )
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=model.parts_chinese,
        strip_accents=model.strips_accents,
        lowercase=model.lowercase,
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.add_tokens([added_token(token, special=True) for token in model.special])
    return backend
