"""A tokenizer from the files of a model folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from landrace.errors import CheckpointError, UnsupportedError
from landrace.text import encoder_tokenizers, sentencepiece, tiktoken
from landrace.text.bpe import byte_level_backend, parse_merges
from landrace.text.built_in import built_in_template
from landrace.text.end_tokens import ids_in_config, turn_end_id
from landrace.text.folder_config import FolderConfig
from landrace.text.pretokenizers import find_cut
from landrace.text.tokenizer import Conventions, Spelling, Tokenizer
from landrace.text.whole_texts import Frame, fairseq_frame
from landrace.text.wordpiece import CONTINUES

if TYPE_CHECKING:
    import tokenizers

MAX_FILE = 256 * 1024 * 1024
# The tokenizer classes whose vocabularies come as vocab.json and merges.txt, and how each cuts text.
_VOCAB_CLASSES = {
    "Qwen2Tokenizer": "qwen2",
    "Qwen3_5Tokenizer": "qwen35",
    "GPT2Tokenizer": "gpt-2",
    "CohereTokenizer": "command-r",
    "RobertaTokenizer": "gpt-2",
}
_FAIRSEQ_CLASSES = ("RobertaTokenizer",)


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a model folder.

    Sources, in this order: tokenizer.json; vocab.json with merges.txt; tokenizer.model (SentencePiece or tiktoken
    ranks); *.tiktoken; of encoders vocab.txt (WordPiece) and sentencepiece.bpe.model. Raises CheckpointError where
    there is none or it contradicts itself, and UnsupportedError where the files do not tell how text is cut.
    """
    folder = Path(path)
    config = FolderConfig.read(folder)
    ranked = sorted(folder.glob("*.tiktoken"))
    model = folder / "tokenizer.model"
    if (folder / "tokenizer.json").is_file():
        return _from_json(folder / "tokenizer.json", config)
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return _from_vocab(folder, config)
    if model.is_file() and not tiktoken.is_rank_file(model):
        return _from_sentencepiece(model, config)
    ranked += [file for file in (model, folder / "tiktoken.model") if file.is_file()]
    if len(ranked) == 1:
        return _from_ranks(ranked[0], config)
    if (folder / "vocab.txt").is_file():
        return encoder_tokenizers.from_pieces(folder, config)
    if (folder / "sentencepiece.bpe.model").is_file():
        return encoder_tokenizers.from_fairseq(folder, config)
    raise CheckpointError(
        f"No tokenizer was found in {folder}.",
        hint="A model folder holds tokenizer.json, vocab.json with merges.txt, vocab.txt, tokenizer.model or one "
        "*.tiktoken file.",
    )


def _from_json(file: Path, config: FolderConfig) -> Tokenizer:
    import tokenizers

    if file.stat().st_size > MAX_FILE:
        raise CheckpointError(f"{file.name} is larger than {MAX_FILE:,} bytes.")
    try:
        text = file.read_text(encoding="utf-8")
        parsed = json.loads(text)
        backend = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception for a file it cannot read
        raise CheckpointError(f"{file.name} is not a readable tokenizer: {error}.") from error
    backend.no_truncation()
    backend.no_padding()
    missing = [token for index, token in config.added.items() if backend.id_to_token(index) is None]
    backend.add_tokens([token.as_added() for token in missing])
    config.check_ids(backend)
    spelling, adds_space = _spelling(parsed.get("decoder"))
    frame = Frame.of(backend)
    prefix = None if config.adds_bos is not None else frame.prefix
    return _assemble(backend, config, spelling, adds_space=adds_space, adds_bos=False, prefix=prefix, frame=frame)


def _from_vocab(folder: Path, config: FolderConfig) -> Tokenizer:
    name = (config.tokenizer_class or "").removesuffix("Fast")
    if name not in _VOCAB_CLASSES:
        raise UnsupportedError(
            f"The files in {folder} do not tell how text is cut into words (tokenizer class {name or 'not stated'!r}).",
            hint="Add the model's tokenizer.json to the folder.",
        )
    cut = find_cut(_VOCAB_CLASSES[name])
    vocab = _vocab(folder / "vocab.json")
    lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    merges = parse_merges(line for line in lines if line and not line.startswith("#version"))
    backend = byte_level_backend(
        {**vocab, **{token.content: index for index, token in config.added.items()}},
        merges,
        cut,
        [token.as_added() for token in config.added.values()],
    )
    config.check_ids(backend)
    frame = fairseq_frame(backend) if name in _FAIRSEQ_CLASSES else None
    return _assemble(backend, config, Spelling.BYTE_LEVEL, adds_space=False, adds_bos=cut.adds_bos, frame=frame)


def _from_sentencepiece(file: Path, config: FolderConfig) -> Tokenizer:
    model = sentencepiece.read_model(file)
    pieces = list(model.pieces)
    for index, token in sorted(config.added.items()):
        if index > len(pieces):
            raise CheckpointError(f"The added token {token.content!r} has the id {index}, which leaves a gap.")
        kind = sentencepiece.Kind.CONTROL if token.special else sentencepiece.Kind.USER_DEFINED
        if index == len(pieces):
            pieces.append(sentencepiece.Piece(token.content, 0.0, kind))
        elif pieces[index].kind != sentencepiece.Kind.UNKNOWN:
            # A config may give a piece another name, as Yi's does, and may make a user-defined piece a control one.
            pieces[index] = sentencepiece.Piece(token.content, pieces[index].score, kind)
    model = replace(model, pieces=tuple(pieces), space_every_segment=config.legacy)
    own = {"bos_token": model.bos_id, "eos_token": model.eos_id}
    defaults = {name: pieces[index].text for name, index in own.items() if index is not None}
    config = replace(config, named_tokens={**defaults, **config.named_tokens})
    backend = sentencepiece.build_backend(model)
    config.check_ids(backend)
    return _assemble(backend, config, Spelling.SENTENCEPIECE, adds_space=model.add_dummy_prefix, adds_bos=True)


def _from_ranks(file: Path, config: FolderConfig) -> Tokenizer:
    family = tiktoken.family_of(file, config.tokenizer_class)
    if family is None:
        raise UnsupportedError(
            f"{file.name} does not tell how text is cut into words (tokenizer class "
            f"{config.tokenizer_class or 'not stated'!r}).",
            hint="Add the model's tokenizer.json to the folder.",
        )
    ranks = tiktoken.read_ranks(file)
    control = family.control(config.added)
    control |= {token.content: index for index, token in config.added.items() if token.special}
    text = {token.content: index for index, token in config.added.items() if not token.special}
    backend = tiktoken.build_backend(ranks, find_cut(family.cut), control, text)
    prefix = [index for token in family.prefix if (index := backend.token_to_id(token)) is not None]
    if len(prefix) != len(family.prefix):
        raise CheckpointError(f"tokenizer_config.json does not list the tokens {' and '.join(family.prefix)}.")
    return _assemble(
        backend, config, Spelling.BYTE_LEVEL, adds_space=False, adds_bos=False, prefix=tuple(prefix) if prefix else None
    )


def _assemble(
    backend: tokenizers.Tokenizer,
    config: FolderConfig,
    spelling: Spelling,
    *,
    adds_space: bool,
    adds_bos: bool,
    prefix: tuple[int, ...] | None = None,
    frame: Frame | None = None,
) -> Tokenizer:
    bos = _id_of(backend, config.named_tokens.get("bos_token"))
    if prefix is None:
        wanted = adds_bos if config.adds_bos is None else config.adds_bos
        prefix = (bos,) if wanted and bos is not None else ()
    eos = _id_of(backend, config.named_tokens.get("eos_token"))
    frame = frame or Frame()
    if not frame.suffix and config.adds_eos and eos is not None:
        frame = replace(frame, suffix=(eos,))
    ends = {eos}
    ends |= ids_in_config(config.generation_config) | ids_in_config(config.model_config)
    template = config.chat_template() or built_in_template(
        config.model_config.get("model_type"),
        config.named_tokens,
        config.generation_config,
        backend.token_to_id,
        backend.id_to_token,
    )
    if template is not None:
        added = backend.get_added_tokens_decoder()
        ends.add(turn_end_id(template, {token.content: i for i, token in added.items() if token.special}))
    conventions = Conventions(
        spelling=spelling,
        prefix_ids=prefix,
        bos_id=bos,
        eos_ids=frozenset(end for end in ends if end is not None),
        adds_space=adds_space,
    )
    return Tokenizer(backend, frame.around(conventions), template)


def _spelling(decoder: Any) -> tuple[Spelling, bool]:
    """How a tokenizer.json spells bytes, and whether decoding takes a leading space away."""
    steps = _flat(decoder)
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"]:
        return Spelling.BYTE_LEVEL, False
    if kinds == ["WordPiece"] and steps[0].get("prefix") == CONTINUES:
        return Spelling.WORDPIECE, True
    if kinds and set(kinds) <= {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}:
        strips = any(step.get("type") == "Strip" and step.get("start") for step in steps)
        spaced = any(
            step.get("type") == "Metaspace" and step.get("prepend_scheme", "always") != "never" for step in steps
        )
        return Spelling.SENTENCEPIECE, strips or spaced
    raise UnsupportedError(
        f"The tokenizer.json has a decoder that is not supported: {', '.join(map(str, kinds)) or 'none'}."
    )


def _flat(decoder: Any) -> list[Mapping[str, Any]]:
    if not isinstance(decoder, Mapping):
        return []
    if decoder.get("type") == "Sequence":
        return [step for inner in decoder.get("decoders", []) for step in _flat(inner)]
    return [decoder]


def _id_of(backend: tokenizers.Tokenizer, token: str | None) -> int | None:
    return None if token is None else backend.token_to_id(token)


def _vocab(file: Path) -> dict[str, int]:
    try:
        vocab = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file.name} is not readable JSON: {error}.") from error
    if not isinstance(vocab, dict) or not all(isinstance(index, int) for index in vocab.values()):
        raise CheckpointError(f"{file.name} is not a table of tokens and ids.")
    if len(set(vocab.values())) != len(vocab):
        raise CheckpointError(f"{file.name} gives two tokens the same id.")
    return vocab
