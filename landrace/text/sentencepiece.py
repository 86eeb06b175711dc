"""SentencePiece vocabularies: reads `tokenizer.model` and builds a backend that gives the same ids.

The file is a protocol-buffer message (sentencepiece_model.proto, field numbers below). Only the fields that decide
how text is encoded are read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING

from landrace.errors import CheckpointError, UnsupportedError
from landrace.text.bpe import added_token, bpe_model, merges_by_priority, unique_ids

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.models import Model
    from tokenizers.normalizers import Normalizer

WORD_START = "▁"
_NEVER = -1e6
_USER_DEFINED = -0.1
MAX_FILE = 64 * 1024 * 1024


class Kind(IntEnum):
    """What a piece is; GGUF files use the same numbers in `tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


_ADDED = frozenset({Kind.CONTROL, Kind.USER_DEFINED, Kind.UNKNOWN})


class Algorithm(IntEnum):
    """How text is cut into pieces."""

    UNIGRAM = 1
    BPE = 2


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary; its id is its place in the list."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class SentencePieceModel:
    """What decides the encoding. The defaults are those of the format for fields a file leaves out.

    `space_every_segment`: the space before a text is also put after each added token inside it, as llama.cpp and the
    older `transformers` do (SentencePiece itself never sees more than one segment); otherwise it stands at the very
    start only.
    """

    pieces: tuple[Piece, ...]
    algorithm: int = Algorithm.UNIGRAM
    charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    escape_whitespaces: bool = True
    bos_id: int | None = None
    eos_id: int | None = None
    space_every_segment: bool = True


def read_model(path: Path) -> SentencePieceModel:
    """Reads a `tokenizer.model` file; CheckpointError where it is not one."""
    if path.stat().st_size > MAX_FILE:
        raise CheckpointError(f"{path.name} is larger than any SentencePiece model ({MAX_FILE:,} bytes).")
    try:
        return _parse_model(path.read_bytes())
    except (IndexError, struct.error, UnicodeDecodeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path.name} is not a readable SentencePiece model: {error}.") from error


def _parse_model(data: bytes) -> SentencePieceModel:
    pieces: list[Piece] = []
    trainer = {3: int(Algorithm.UNIGRAM), 41: 1, 42: 2}
    flags, charsmap = {3: 1, 4: 1, 5: 1}, b""
    for number, value in _fields(data):
        if number == 1:
            pieces.append(_parse_piece(_message(value)))
        elif number == 2:
            trainer |= {key: item for key, item in _fields(_message(value)) if key in trainer and isinstance(item, int)}
        elif number == 3:
            for key, item in _fields(_message(value)):
                if key == 2 and isinstance(item, bytes):
                    charsmap = item
                elif key in flags and isinstance(item, int):
                    flags[key] = item
    if not pieces:
        raise ValueError("it has no pieces")
    return SentencePieceModel(
        tuple(pieces),
        algorithm=trainer[3],
        charsmap=charsmap,
        add_dummy_prefix=bool(flags[3]),
        remove_extra_whitespaces=bool(flags[4]),
        escape_whitespaces=bool(flags[5]),
        # A disabled id is written as -1, which reads as a huge number.
        bos_id=trainer[41] if trainer[41] < len(pieces) else None,
        eos_id=trainer[42] if trainer[42] < len(pieces) else None,
    )


def _parse_piece(data: bytes) -> Piece:
    values = dict(_fields(data))
    score, kind = values.get(2, b"\0\0\0\0"), values.get(3, int(Kind.NORMAL))
    if not isinstance(kind, int):
        raise ValueError("a piece has no valid type")
    return Piece(_message(values.get(1, b"")).decode("utf-8"), struct.unpack("<f", _message(score))[0], kind)


def _message(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a field has the wrong type")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protocol-buffer message: (number, integer or raw bytes)."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            number, at = _varint(data, at)
            yield key >> 3, number
            continue
        if kind == 2:
            size, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind} at byte {at}")
        if at + size > len(data):
            raise ValueError("it ends early")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    raise ValueError("a number is too long")


def build_backend(model: SentencePieceModel) -> Tokenizer:
    """A `tokenizers` backend that encodes as SentencePiece does. The decoder is ours, see `Tokenizer.decode`."""
    from tokenizers import Tokenizer, normalizers, pre_tokenizers

    if not model.escape_whitespaces:
        raise UnsupportedError("The SentencePiece model keeps spaces as they are, which is not supported.")
    if model.algorithm == Algorithm.BPE:
        backend = Tokenizer(_bpe(model.pieces))
    elif model.algorithm == Algorithm.UNIGRAM:
        backend = Tokenizer(_unigram(model.pieces))
    else:
        raise UnsupportedError(f"SentencePiece models of type {model.algorithm} (word or char) are not supported.")
    steps: list[normalizers.Normalizer] = []
    if model.charsmap:
        steps.append(normalizers.Precompiled(model.charsmap))
    if model.remove_extra_whitespaces:
        steps += [normalizers.Strip(), _squeeze_spaces()]
    if model.add_dummy_prefix and model.space_every_segment:
        steps.append(normalizers.Prepend(WORD_START))
    steps.append(normalizers.Replace(" ", WORD_START))
    backend.normalizer = normalizers.Sequence(steps)
    if model.add_dummy_prefix and not model.space_every_segment:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(WORD_START, prepend_scheme="first", split=False)
    prepends = model.add_dummy_prefix and model.space_every_segment
    # A unigram model weighs user-defined pieces against the others; a BPE model always takes them.
    kinds = _ADDED if model.algorithm == Algorithm.BPE else _ADDED - {Kind.USER_DEFINED}
    backend.add_tokens([_added(piece, prepends) for piece in model.pieces if piece.kind in kinds and piece.text])
    return backend


def _added(piece: Piece, prepends: bool) -> AddedToken:
    # Pieces such as a run of spaces can only be found once spaces are marked. The library also normalises the piece
    # itself, which a normaliser that prepends a mark would spoil.
    marked = WORD_START in piece.text and piece.kind == Kind.USER_DEFINED
    return added_token(piece.text, special=piece.kind != Kind.USER_DEFINED, normalized=marked and not prepends)


def _squeeze_spaces() -> Normalizer:
    from tokenizers import Regex, normalizers

    return normalizers.Replace(Regex(" {2,}"), " ")


def _bpe(pieces: Sequence[Piece]) -> Model:
    vocab = unique_ids([piece.text for piece in pieces])
    usable = {piece.text: vocab[piece.text] for piece in pieces if piece.kind in (Kind.NORMAL, Kind.USER_DEFINED)}
    merged = {piece.text: -piece.score for piece in pieces if piece.kind == Kind.NORMAL}
    unknown = next((piece.text for piece in pieces if piece.kind == Kind.UNKNOWN), None)
    return bpe_model(
        vocab,
        merges_by_priority(merged, usable),
        unk_token=unknown,
        byte_fallback=any(piece.kind == Kind.BYTE for piece in pieces),
    )


def _unigram(pieces: Sequence[Piece]) -> Model:
    from tokenizers import models

    unknown = next((index for index, piece in enumerate(pieces) if piece.kind == Kind.UNKNOWN), None)
    if unknown is None:
        raise CheckpointError("The SentencePiece model has no unknown piece.")
    vocab = [(piece.text, _unigram_score(piece)) for piece in pieces]
    return models.Unigram(vocab, unk_id=unknown, byte_fallback=any(piece.kind == Kind.BYTE for piece in pieces))


def _unigram_score(piece: Piece) -> float:
    """The score by which SentencePiece weighs a piece: user-defined ones win over almost any others.

    Control and byte pieces are never found in text there; here they get a score that never wins.
    """
    if piece.kind == Kind.USER_DEFINED:
        return _USER_DEFINED
    return piece.score if piece.kind == Kind.NORMAL else _NEVER
