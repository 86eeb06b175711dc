"""Tokenizers of encoders: WordPiece and XLM-RoBERTa's pieces from every file that they come in, against transformers,
and texts that are read as a whole or in pairs."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers

from landrace.errors import CheckpointError, RequestError, UnsupportedError
from landrace.text import Tokenizer, load_tokenizer, tokenizer_from_gguf

PIECES = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *"abcdefghijklmnopqrstuvwxyz0123456789.,!?'()[]-#北京",
    *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz0123456789"),
    *("the", "##ing", "##er", "hello", "world", "un", "##aff", "##able", "straße", "##é", "É", "Paris", "▁"),
]
CASED = {"É", "Paris"}
TEXTS = [
    "Hello, world! The unaffable waiter isn't waiting.",
    "Ünïcode naïve café É Paris\u0301 STRASSE straße",
    "北京hello京 mixed北x",
    "tabs\tand\nlines\r\n and\u00a0nbsp\u2003wide  zero\u200bwidth \u0000null \ufffd replaced \x07bell",
    "###ing ##able [CLS] [SEP] text [MASK] [UNK]",
    "a" * 99 + " " + "b" * 100 + " " + "c" * 101,
    "",
    "   ",
    "e\u0301 vs é ﬁ ligature Ⅷ ½ 😀 emoji",
    "(a)[b]{c}--d__e ‘quoted’ “such” … ¿que?",
]


def vocabulary(folder: Path, pieces: list[str] = PIECES, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")
    if config:
        facts = {"tokenizer_class": "BertTokenizer", **config}
        (folder / "tokenizer_config.json").write_text(json.dumps(facts), encoding="utf-8")
    return folder


def bert(folder: Path, **config: Any) -> Any:
    """transformers' own, which reads special tokens in texts as such."""
    return transformers.BertTokenizer(vocab=str(folder / "vocab.txt"), **config)


def plain(text: str) -> bool:
    return not any(mark in text for mark in ("[CLS]", "[SEP]", "[MASK]", "[UNK]", "[PAD]"))


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"do_lower_case": False},
        {"do_lower_case": True, "strip_accents": False},
        {"do_lower_case": False, "strip_accents": True, "tokenize_chinese_chars": False},
    ],
    ids=str,
)
def test_pieces_of_a_vocabulary_alone(tmp_path: Path, config: dict[str, Any]) -> None:
    folder = vocabulary(tmp_path / "m", **config)
    ours, theirs = load_tokenizer(folder), bert(folder, **config)
    for text in filter(plain, TEXTS):
        assert ours.encode_whole(text) == theirs(text)["input_ids"], text


def test_the_same_out_of_tokenizer_json(tmp_path: Path) -> None:
    folder = vocabulary(tmp_path / "m", do_lower_case=True)
    bare = load_tokenizer(folder)
    bert(folder).save_pretrained(folder)
    assert (folder / "tokenizer.json").is_file()
    whole = load_tokenizer(folder)
    assert whole.conventions == bare.conventions
    for text in TEXTS:
        assert whole.encode_whole(text) == bare.encode_whole(text)
        assert whole.decode(whole.encode_whole(text)) == bare.decode(bare.encode_whole(text))


def test_the_same_out_of_gguf(tmp_path: Path) -> None:
    """Both ways in which converters have marked the pieces that begin a word."""
    lower = [piece for piece in PIECES if piece not in CASED]
    folder = vocabulary(tmp_path / "m", lower)
    wanted = load_tokenizer(folder)
    for marks_all in (False, True):
        tokens = [phantom(piece, marks_all) for piece in lower]
        read = tokenizer_from_gguf(bert_metadata(tokens))
        for text in TEXTS:
            assert read.encode_whole(text) == wanted.encode_whole(text), text
        assert read.encode_pair("hello the", "world") == wanted.encode_pair("hello the", "world")


def phantom(piece: str, marks_all: bool) -> str:
    special = PIECES.index(piece) < 5 if marks_all else piece.startswith("[") and piece.endswith("]")
    if special:
        return piece
    return piece[2:] if piece.startswith("##") else f"\u2581{piece}"


def bert_metadata(tokens: list[str]) -> dict[str, Any]:
    kinds = [3 if n < 5 else 1 for n in range(len(tokens))]
    ids = {"unknown_token_id": 1, "cls_token_id": 2, "seperator_token_id": 3, "padding_token_id": 0, "mask_token_id": 4}
    own = {"model": "bert", "tokens": tokens, "token_type": kinds, **ids}
    return {"general.architecture": "bert", **{f"tokenizer.ggml.{key}": value for key, value in own.items()}}


def test_letters_stay_where_a_gguf_vocabulary_has_capital_ones() -> None:
    read = tokenizer_from_gguf(bert_metadata([phantom(piece, True) for piece in PIECES]))
    assert read.encode_whole("Paris É") == [2, PIECES.index("Paris"), PIECES.index("É"), 3]


def test_what_spells_out_a_control_token_is_text(tmp_path: Path) -> None:
    ours = load_tokenizer(vocabulary(tmp_path / "m"))
    ids = ours.encode_whole("the [SEP] [CLS]")
    assert [index for index in ids if index in ours.special_ids] == [2, 3]
    assert ours.decode(ids) == "the [ sep ] [ cls ]"


def test_pairs_and_truncation(tmp_path: Path) -> None:
    """As `longest_first` cuts: every length of both, and every room."""
    folder = vocabulary(tmp_path / "m")
    ours, theirs = load_tokenizer(folder), bert(folder)
    for n in range(7):
        for m in range(1, 7):  # transformers takes an empty second text for none
            one, other = " ".join("abcdefg"[:n]), " ".join("0123456"[:m])
            for room in (4, 5, 6, 7, 8, 9, 30, None):
                cut = {} if room is None else {"truncation": "longest_first", "max_length": room}
                expected = theirs(one, other, **cut)
                found = ours.encode_pair(one, other, max_length=room)
                assert found == (expected["input_ids"], expected["token_type_ids"]), (n, m, room)
        for room in (3, 4, 8):
            assert ours.encode_whole(one, max_length=room) == theirs(one, truncation=True, max_length=room)["input_ids"]
    for too_small in (2, 0):
        with pytest.raises(RequestError, match="leave no room"):
            ours.encode_whole("a", max_length=too_small)
    with pytest.raises(RequestError, match="not valid Unicode"):
        ours.encode_whole("a\ud800")


def test_long_texts_are_cut_into_pieces_that_change_nothing(tmp_path: Path) -> None:
    ours = load_tokenizer(vocabulary(tmp_path / "m"))
    draw = random.Random(1)
    text = " ".join("".join(draw.choices("abcdé,.北'", k=draw.randint(1, 12))) for _ in range(30_000))
    whole = ours.backend.encode(text, add_special_tokens=False).ids
    assert ours.encode_whole(text) == [2, *whole, 3]
    assert ours.encode_whole(text, max_length=500) == [2, *whole[:498], 3]


@pytest.fixture(scope="module")
def spm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small SentencePiece unigram model, as XLM-RoBERTa's is made."""
    sentencepiece = pytest.importorskip("sentencepiece")
    draw = random.Random(4)
    words = ["".join(draw.choices("abcdefghikläöü北京", k=draw.randint(1, 7))) for _ in range(400)]

    def lines() -> Iterator[str]:
        for _ in range(500):
            yield " ".join(draw.choices(words, k=8)) + draw.choice((".", "!", " 12", " <mk/s>"))

    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines(), model_writer=file, vocab_size=200, model_type="unigram", character_coverage=1.0
    )
    path = tmp_path_factory.mktemp("spm") / "sentencepiece.bpe.model"
    path.write_bytes(file.getvalue())
    return path


def fairseq_ids(spm: Path, text: str) -> list[int]:
    """SentencePiece's own ids as fairseq numbers them."""
    import sentencepiece

    own = sentencepiece.SentencePieceProcessor(model_file=str(spm))
    return [0, *(3 if index == own.unk_id() else index + 1 for index in own.encode(text)), 2]


def xlmr(spm: Path, folder: Path, config: dict[str, Any]) -> Tokenizer:
    folder.mkdir()
    (folder / spm.name).write_bytes(spm.read_bytes())
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return load_tokenizer(folder)


def test_fairseq_numbers(spm: Path, tmp_path: Path) -> None:
    ours = xlmr(spm, tmp_path / "m", {"tokenizer_class": "XLMRobertaTokenizer"})
    for text in [*TEXTS, "  abc\u3000ｄｅｆ  北京 ", "</s> <mask> <s>"]:
        assert ours.encode_whole(text) == fairseq_ids(spm, text), text
    pair, types = ours.encode_pair("abc", "def")
    one, other = (fairseq_ids(spm, text)[1:-1] for text in ("abc", "def"))
    assert pair == [0, *one, 2, 2, *other, 2]
    assert set(types) == {0}
    assert ours.token_text(ours.vocab_size - 1) == "<mask>"


def test_fairseq_numbers_in_gguf(spm: Path) -> None:
    """As llama.cpp's converter writes them."""
    import sentencepiece

    own = sentencepiece.SentencePieceProcessor(model_file=str(spm))
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *(own.id_to_piece(n) for n in range(3, len(own))), "<mask>"]
    scores = [0.0] * 4 + [own.get_score(n) for n in range(3, len(own))] + [0.0]
    kinds = [3, 3, 3, 2, *([1] * (len(own) - 3)), 3]
    facts = {
        "model": "t5", "pre": "default", "tokens": tokens, "scores": scores, "token_type": kinds,
        "add_space_prefix": True, "remove_extra_whitespaces": True, "precompiled_charsmap": list(charsmap(spm)),
        "bos_token_id": 0, "eos_token_id": 2, "unknown_token_id": 3, "seperator_token_id": 2, "padding_token_id": 1,
        "add_bos_token": True, "add_eos_token": True,
    }  # fmt: skip
    read = tokenizer_from_gguf(
        {"general.architecture": "bert", **{f"tokenizer.ggml.{key}": value for key, value in facts.items()}}
    )
    for text in ["abc def", "  abc\u3000ｄｅｆ  北京 ", "ab!"]:
        assert read.encode_whole(text) == fairseq_ids(spm, text), text
    one, other = (fairseq_ids(spm, text)[1:-1] for text in ("abc", "def"))
    assert read.encode_pair("abc", "def")[0] == [0, *one, 2, 2, *other, 2]


def charsmap(spm: Path) -> bytes:
    from landrace.text.sentencepiece import read_model

    return read_model(spm).charsmap


def test_prompts_of_decoders_get_no_suffix(tmp_path: Path) -> None:
    """A tokenizer.json that ends texts, as those of embedding models made of decoders do."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "b": 1, "<end>": 2}, []))
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens(["<end>"])
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A <end>", pair="$A <end> $B:1 <end>:1", special_tokens=[("<end>", 2)]
    )
    backend.save(str(tmp_path / "tokenizer.json"))
    ours = load_tokenizer(tmp_path)
    assert (ours.encode("ab"), ours.encode_whole("ab")) == ([0, 1], [0, 1, 2])
    assert ours.encode_pair("a", "b") == ([0, 2, 1, 2], [0, 0, 1, 1])


@pytest.mark.parametrize(
    ("pieces", "config", "error", "says"),
    [
        (PIECES[1:], {}, None, None),
        (PIECES[2:], {}, CheckpointError, r"lacks the token '\[UNK\]'"),
        ([*PIECES, "the"], {}, CheckpointError, "different pieces"),
        ([], {}, CheckpointError, "different pieces"),
        (PIECES, {"do_lower_case": "yes"}, CheckpointError, "do_lower_case"),
    ],
)
def test_vocabularies_that_are_none(
    tmp_path: Path, pieces: list[str], config: dict[str, Any], error: type[Exception] | None, says: str | None
) -> None:
    folder = vocabulary(tmp_path / "m", pieces, **config)
    if error is None:
        assert load_tokenizer(folder).encode_whole("the") == [1, pieces.index("the"), 2]
        return
    with pytest.raises(error, match=says):
        load_tokenizer(folder)


def test_pieces_that_nobody_numbers(spm: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="CamembertTokenizer"):
        xlmr(spm, tmp_path / "m", {"tokenizer_class": "CamembertTokenizer"})
