"""A tokenizer from the metadata of a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from landrace.errors import CheckpointError, UnsupportedError
from landrace.text.bpe import added_token, byte_level_backend, merges_by_priority, parse_merges, unique_ids
from landrace.text.built_in import built_in_template
from landrace.text.chat_template import ChatTemplate
from landrace.text.end_tokens import turn_end_id
from landrace.text.pretokenizers import find_cut
from landrace.text.sentencepiece import Algorithm, Kind, Piece, SentencePieceModel, build_backend
from landrace.text.tokenizer import Conventions, Spelling, Tokenizer

_KEY = "tokenizer.ggml."
_END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
_NAMED = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
    "sep_token": "seperator_token_id",  # as the format spells it
    "cls_token": "cls_token_id",
    "mask_token": "mask_token_id",
}
MAX_TOKENS = 4_000_000


@dataclass(frozen=True)
class _Defaults:
    """What holds for a kind of SentencePiece vocabulary where the file does not say."""

    algorithm: Algorithm
    adds_space: bool
    adds_bos: bool
    ids: Mapping[str, int]


_SENTENCEPIECE = {
    "llama": _Defaults(Algorithm.BPE, True, True, {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}),
    "t5": _Defaults(Algorithm.UNIGRAM, False, False, {"eos_token_id": 1, "unknown_token_id": 2}),
}


def tokenizer_from_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that a GGUF file carries in its metadata (key to value; arrays as any sequence).

    Supports the models `gpt2` (byte-level BPE), `llama` (SentencePiece BPE) and `t5` (SentencePiece unigram).
    Raises UnsupportedError for another model or an unknown pre-tokenizer, CheckpointError for metadata that
    contradicts itself.
    """
    model = metadata.get(_KEY + "model")
    if model not in ("gpt2", *_SENTENCEPIECE):
        raise UnsupportedError(
            f"The GGUF file has a tokenizer of the kind {model!r}, which is not supported.",
            hint="Supported kinds are 'gpt2' (byte-level BPE), 'llama' and 't5' (SentencePiece BPE and unigram).",
        )
    tokens = _tokens(metadata)
    kinds = _kinds(metadata, len(tokens))
    if model == "gpt2":
        return _byte_level(metadata, tokens, kinds)
    return _sentencepiece(metadata, tokens, kinds, _SENTENCEPIECE[model])


def _byte_level(metadata: Mapping[str, Any], tokens: list[str], kinds: list[int]) -> Tokenizer:
    name = metadata.get(_KEY + "pre", "default")
    cut = find_cut(str(name))
    vocab = unique_ids(tokens)
    listed = metadata.get(_KEY + "merges")
    if listed is not None:
        merges = parse_merges(_strings(listed, "merges"))
    elif name == "kimi-k2":
        # The one kind of file that leaves the merges out: its ids are tiktoken ranks.
        normal = {token: index for token, index in vocab.items() if kinds[index] == Kind.NORMAL}
        merges = merges_by_priority(normal, normal)
    else:
        raise CheckpointError("The GGUF file has a BPE tokenizer without merges.")
    added = [
        added_token(token, special=kind != Kind.USER_DEFINED)
        for token, kind in zip(tokens, kinds, strict=True)
        if kind in (Kind.CONTROL, Kind.UNKNOWN, Kind.USER_DEFINED) and token
    ]
    backend = byte_level_backend(vocab, merges, cut, added)
    return _assemble(metadata, backend, tokens, kinds, Spelling.BYTE_LEVEL, adds_bos=cut.adds_bos, adds_space=False)


def _sentencepiece(metadata: Mapping[str, Any], tokens: list[str], kinds: list[int], defaults: _Defaults) -> Tokenizer:
    scores = [float(score) for score in _sized(metadata, "scores", len(tokens))]
    adds_space = bool(metadata.get(_KEY + "add_space_prefix", defaults.adds_space))
    charsmap = metadata.get(_KEY + "precompiled_charsmap")
    backend = build_backend(
        SentencePieceModel(
            pieces=tuple(map(Piece, tokens, scores, kinds)),
            algorithm=defaults.algorithm,
            charsmap=b"" if charsmap is None else bytes(int(byte) & 0xFF for byte in charsmap),
            add_dummy_prefix=adds_space,
            remove_extra_whitespaces=bool(metadata.get(_KEY + "remove_extra_whitespaces", False)),
        )
    )
    facts = {**{_KEY + name: index for name, index in defaults.ids.items()}, **metadata}
    return _assemble(
        facts, backend, tokens, kinds, Spelling.SENTENCEPIECE, adds_bos=defaults.adds_bos, adds_space=adds_space
    )


def _assemble(
    metadata: Mapping[str, Any],
    backend: Any,
    tokens: list[str],
    kinds: list[int],
    spelling: Spelling,
    *,
    adds_bos: bool,
    adds_space: bool,
) -> Tokenizer:
    bos = _token_id(metadata, "bos_token_id", len(tokens))
    ends = {_token_id(metadata, key, len(tokens)) for key in _END_KEYS}
    template = _template(metadata, tokens, backend)
    if template is not None:
        control = {token: i for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind == Kind.CONTROL}
        ends.add(turn_end_id(template, control))
    prefixed = bool(metadata.get(_KEY + "add_bos_token", adds_bos)) and bos is not None
    conventions = Conventions(
        spelling=spelling,
        prefix_ids=(bos,) if prefixed and bos is not None else (),
        bos_id=bos,
        eos_ids=frozenset(end for end in ends if end is not None),
        adds_space=adds_space,
        unused_ids=frozenset(index for index, kind in enumerate(kinds) if kind == Kind.UNUSED),
    )
    return Tokenizer(backend, conventions, template)


def _template(metadata: Mapping[str, Any], tokens: list[str], backend: Any) -> ChatTemplate | None:
    prefix = "tokenizer.chat_template"
    sources = {key.removeprefix(prefix + "."): text for key, text in metadata.items() if key.startswith(prefix + ".")}
    if prefix in metadata:
        sources["default"] = metadata[prefix]
    sources = {name: text for name, text in sources.items() if isinstance(text, str)}
    ids = {name: _token_id(metadata, key, len(tokens)) for name, key in _NAMED.items()}
    named = {name: tokens[index] for name, index in ids.items() if index is not None}
    if "default" in sources:
        return ChatTemplate(sources, tokens=named)
    kind = metadata.get("general.architecture")
    return built_in_template(kind, named, {}, backend.token_to_id, backend.id_to_token)


def _tokens(metadata: Mapping[str, Any]) -> list[str]:
    tokens = _strings(metadata.get(_KEY + "tokens"), "tokens")
    if not tokens:
        raise CheckpointError("The GGUF file has no tokens.")
    if len(tokens) > MAX_TOKENS:
        raise CheckpointError(f"The GGUF file has {len(tokens):,} tokens, more than {MAX_TOKENS:,}.")
    return tokens


def _kinds(metadata: Mapping[str, Any], count: int) -> list[int]:
    if metadata.get(_KEY + "token_type") is None:
        return [int(Kind.NORMAL)] * count
    return [int(kind) for kind in _sized(metadata, "token_type", count)]


def _sized(metadata: Mapping[str, Any], key: str, count: int) -> Sequence[Any]:
    values = metadata.get(_KEY + key)
    if values is None or isinstance(values, str) or not hasattr(values, "__len__") or len(values) != count:
        raise CheckpointError(f"The GGUF file does not have one {_KEY}{key} for each of its {count:,} tokens.")
    return values  # type: ignore[no-any-return]


def _strings(values: Any, key: str) -> list[str]:
    found = [] if values is None or isinstance(values, str) else list(values)
    if not all(isinstance(value, str) for value in found):
        raise CheckpointError(f"The GGUF file has {_KEY}{key} that are not all text.")
    return found


def _token_id(metadata: Mapping[str, Any], key: str, count: int) -> int | None:
    value = metadata.get(_KEY + key)
    if value is None:
        return None
    try:
        index = int(value)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"The GGUF file has a {_KEY}{key} that is not a number.") from error
    if index in (-1, 0xFFFFFFFF):
        return None
    if not 0 <= index < count:
        raise CheckpointError(f"The GGUF file has {_KEY}{key} {index}, but only {count:,} tokens.")
    return index
