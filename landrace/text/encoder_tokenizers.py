"""Tokenizers of encoders whose folders hold no tokenizer.json."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from landrace.errors import CheckpointError, UnsupportedError
from landrace.text import sentencepiece, wordpiece
from landrace.text.folder_config import FolderConfig, read_json
from landrace.text.sentencepiece import Kind, Piece
from landrace.text.tokenizer import Conventions, Spelling, Tokenizer
from landrace.text.whole_texts import Frame, bert_frame, fairseq_frame

if TYPE_CHECKING:
    import tokenizers

_SPECIAL = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
"""What BERT calls them where the folder does not say."""
_FAIRSEQ_FIRST = (
    Piece("<s>", 0.0, Kind.CONTROL),
    Piece("<pad>", 0.0, Kind.CONTROL),
    Piece("</s>", 0.0, Kind.CONTROL),
    Piece("<unk>", 0.0, Kind.UNKNOWN),
)
"""fairseq numbers these first, and its mask last; what SentencePiece has for them are its first three pieces."""
_OWN_FIRST = {"<unk>", "<s>", "</s>"}


def from_pieces(folder: Path, config: FolderConfig) -> Tokenizer:
    """Of a folder with a vocab.txt (WordPiece)."""
    said = read_json(folder / "tokenizer_config.json")
    named = {**_SPECIAL, **config.named_tokens}
    ids = wordpiece.read_pieces(folder / "vocab.txt")
    special = {named[name] for name in _SPECIAL} | {token.content for token in config.added.values()}
    backend = wordpiece.build_backend(
        wordpiece.WordPieceModel(
            ids=ids,
            unknown=named["unk_token"],
            special=tuple(sorted((token for token in special if token in ids), key=ids.__getitem__)),
            lowercase=_flag(said, "do_lower_case", True) is True,
            strips_accents=_flag(said, "strip_accents", None),
            parts_chinese=_flag(said, "tokenize_chinese_chars", True) is True,
        )
    )
    config.check_ids(backend)
    frame = bert_frame(backend, named["cls_token"], named["sep_token"])
    return encoder_tokenizer(backend, Spelling.WORDPIECE, frame)


def from_fairseq(folder: Path, config: FolderConfig) -> Tokenizer:
    """Of a folder with XLM-RoBERTa's sentencepiece.bpe.model, whose pieces fairseq has numbered anew."""
    kind = config.model_config.get("model_type")
    name = (config.tokenizer_class or "").removesuffix("Fast")
    if name != "XLMRobertaTokenizer" and (name or kind != "xlm-roberta"):
        raise UnsupportedError(
            f"The files in {folder} do not tell how pieces are numbered (tokenizer class {name or 'not stated'!r}).",
            hint="Add the model's tokenizer.json to the folder.",
        )
    model = sentencepiece.read_model(folder / "sentencepiece.bpe.model")
    if {piece.text for piece in model.pieces[:3]} != _OWN_FIRST:
        raise CheckpointError("sentencepiece.bpe.model does not begin with <unk>, <s> and </s>, as XLM-RoBERTa's does.")
    pieces = (*_FAIRSEQ_FIRST, *model.pieces[3:], Piece("<mask>", 0.0, Kind.CONTROL))
    backend = sentencepiece.build_backend(replace(model, pieces=pieces))
    config.check_ids(backend)
    return encoder_tokenizer(backend, Spelling.SENTENCEPIECE, fairseq_frame(backend), adds_space=model.add_dummy_prefix)


def encoder_tokenizer(
    backend: tokenizers.Tokenizer, spelling: Spelling, frame: Frame, adds_space: bool = True
) -> Tokenizer:
    """A tokenizer whose texts are read as a whole."""
    own = Conventions(spelling, prefix_ids=frame.prefix, adds_space=adds_space)
    return Tokenizer(backend, frame.around(own))


def _flag(said: dict[str, object], key: str, default: bool | None) -> bool | None:
    value = said.get(key, default)
    if value is not None and not isinstance(value, bool):
        raise CheckpointError(f"tokenizer_config.json sets {key} to {value!r}, but it must be true or false.")
    return value
