"""Real vocabularies against published ids and against the libraries that define them."""

from __future__ import annotations

import json
import shutil
import unicodedata
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from landrace.checkpoints.gguf_file import read_gguf
from landrace.errors import CheckpointError, UnsupportedError
from landrace.text import Tokenizer, encode_chat, load_tokenizer, tokenizer_from_gguf
from landrace.text import sentencepiece as own_sentencepiece
from landrace.text import tiktoken as own_tiktoken
from landrace.text.bpe import byte_level_backend, parse_merges
from landrace.text.gguf_vocabulary import gguf_vocabulary
from landrace.text.pretokenizers import find_cut
from landrace.text.tokenizer import Conventions, Spelling

ODD_TEXTS = [
    "",
    " ",
    "  two  spaces ",
    "\t\n x",
    "🦙 emoji 👩‍👩‍👧‍👧",
    "1234567 1,000.5 ٣٤٥ ၁၂၃",
    "a" * 100,
    "     indented\n        code()\n\n\n",
    "ﬁ ½ ①②③ ＡＢＣ e\u0301",
    "<br><br/> <s> </s>",
    "▁▁ under",
    "DON'T I'll we'Ve",
]


@pytest.fixture(scope="module")
def vocabularies(shared: Path) -> Path:
    return shared / "data" / "tokenizers"


@pytest.fixture(scope="module")
def lines(shared: Path) -> list[str]:
    """Sentences in 17 languages and texts that are odd on purpose."""
    found = list(ODD_TEXTS)
    for file in sorted((shared / "data" / "text" / "ntrex").glob("*.txt")):
        found += file.read_text(encoding="utf-8").splitlines()[:60]
    assert len(found) > 900
    return found


def llama_cpp_vectors(vocabularies: Path, name: str) -> list[tuple[str, list[int]]]:
    base = vocabularies / "test_vectors" / "llama_cpp" / f"ggml-vocab-{name}.gguf"
    texts = Path(f"{base}.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    rows = Path(f"{base}.out").read_text(encoding="utf-8").split("\n")
    vectors = [(text, [int(i) for i in row.split()]) for text, row in zip(texts, rows, strict=False)]
    assert len(vectors) == 47
    return vectors


def ranked(vocabularies: Path, file: str, cut: str) -> Tokenizer:
    ranks = own_tiktoken.read_ranks(vocabularies / file)
    backend = own_tiktoken.build_backend(ranks, find_cut(cut), {}, {})
    return Tokenizer(backend, Conventions(Spelling.BYTE_LEVEL))


@pytest.fixture(scope="module")
def llama3(vocabularies: Path) -> Tokenizer:
    return ranked(vocabularies, "llama3/tokenizer.model", "llama-bpe")


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("qwen2", "qwen2.5"),
        ("llama-spm", "llama2"),
        ("phi-3", "llama2"),
        ("deepseek-llm", "deepseek_llm/ggml-vocab-deepseek-llm.gguf"),
        ("deepseek-coder", "deepseek_coder/ggml-vocab-deepseek-coder.gguf"),
    ],
)
def test_published_vectors(vocabularies: Path, name: str, source: str) -> None:
    path = vocabularies / source
    tokenizer = tokenizer_from_gguf(read_gguf(path).metadata) if path.is_file() else load_tokenizer(path)
    for text, ids in llama_cpp_vectors(vocabularies, name):
        assert tokenizer.encode(text, add_bos=False) == ids, text
        assert tokenizer.decode(ids) == text


def test_published_vectors_of_llama3(vocabularies: Path, llama3: Tokenizer) -> None:
    for text, ids in llama_cpp_vectors(vocabularies, "llama-bpe"):
        assert llama3.encode(text) == ids, text
        assert llama3.decode(ids) == text


def kitoken_vectors(vocabularies: Path, kind: str, name: str) -> Iterator[tuple[str, list[int]]]:
    base = vocabularies / "test_vectors" / "kitoken"
    for part in ("small", "mixed"):
        texts = (base / f"{part}_input.txt").read_text(encoding="utf-8").split("\n")
        rows = (base / kind / f"{part}_tokens_{name}.txt").read_text(encoding="utf-8").split("\n")
        for text, row in zip(texts, rows, strict=False):
            if row.strip():
                yield text.replace("\\n", "\n").replace("\\s", " "), [int(i) for i in row.split(",")]
    row = (base / kind / f"utf8_tokens_{name}.txt").read_text(encoding="utf-8")
    yield (base / "utf8_input.txt").read_text(encoding="utf-8"), [int(i) for i in row.split(",")]


@pytest.mark.parametrize("name", ["llama2", "kimi_k2", "o200k_base"])
def test_kitoken_vectors(vocabularies: Path, name: str) -> None:
    if name == "o200k_base":
        tokenizer = ranked(vocabularies, "o200k/o200k_base.tiktoken", "gpt-4o")
    else:
        tokenizer = load_tokenizer(vocabularies / name)
    vectors = list(kitoken_vectors(vocabularies, "sentencepiece" if name == "llama2" else "tiktoken", name))
    assert len(vectors) == 141
    wrong = [text for text, ids in vectors if tokenizer.encode(text, add_bos=False, parse_special=False) != ids]
    # The o200k file has no special tokens, and one of its vectors is one.
    assert wrong == (["<|endoftext|>"] if name == "o200k_base" else [])


@pytest.mark.parametrize("name", ["llama2", "yi", "baichuan2", "minicpm3"])
def test_sentencepiece_models_as_the_library_reads_them(
    vocabularies: Path, lines: list[str], tmp_path: Path, name: str
) -> None:
    library = pytest.importorskip("sentencepiece")
    shutil.copy(vocabularies / name / "tokenizer.model", tmp_path)
    reference = library.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    tokenizer = load_tokenizer(tmp_path)
    for text in lines:
        ids = reference.encode(text)
        assert tokenizer.encode(text, add_bos=False, parse_special=False) == ids, text
        assert tokenizer.decode(ids) == reference.decode(ids)
    assert tokenizer.vocab_size == reference.vocab_size()
    assert tokenizer.bos_id == reference.bos_id()
    assert tokenizer.eos_ids == {reference.eos_id()}


@pytest.mark.parametrize("name", ["llama2", "yi", "baichuan2", "minicpm3"])
def test_sentencepiece_models_in_a_gguf_file(vocabularies: Path, lines: list[str], name: str) -> None:
    """The order of merges is all that is left of the pieces' scores."""
    tokenizer = load_tokenizer(vocabularies / name)
    again = tokenizer_from_gguf(gguf_vocabulary(vocabularies / name, tokenizer.vocab_size))
    for text in [*ODD_TEXTS, *lines]:
        ids = tokenizer.encode(text)
        assert again.encode(text) == ids and again.decode(ids) == tokenizer.decode(ids), text


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("rule", ["identity", "nmt_nfkc", "user defined"])
def test_sentencepiece_models_trained_here(tmp_path: Path, kind: str, rule: str) -> None:
    library = pytest.importorskip("sentencepiece")
    corpus = tmp_path / "corpus.txt"
    # Unigram cuts a run of spaces into pieces that are equally likely, so such a symbol has no one right answer there.
    symbols = (["<tool>", "import"] + ["▁▁▁"] * (kind == "bpe")) if rule == "user defined" else []
    corpus.write_text(Path(__file__).read_text(encoding="utf-8") + "你好 世界 đẹp quá\n" * 9, encoding="utf-8")
    library.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(tmp_path / "tokenizer"),
        vocab_size=700,
        model_type=kind,
        byte_fallback=True,
        normalization_rule_name="nmt_nfkc" if rule == "nmt_nfkc" else "identity",
        remove_extra_whitespaces=rule == "nmt_nfkc",
        add_dummy_prefix=rule != "user defined",
        user_defined_symbols=symbols,
        minloglevel=2,
    )
    reference = library.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    tokenizer = load_tokenizer(tmp_path)
    for text in [*ODD_TEXTS, *corpus.read_text(encoding="utf-8").splitlines()]:
        ours, theirs = tokenizer.encode(text, add_bos=False, parse_special=False), reference.encode(text)
        if kind == "unigram" and ours != theirs:
            # Several cuts may be equally likely.
            assert tokenizer.decode(ours) == reference.decode(theirs), text
            likely, likeliest = (sum(map(reference.get_score, ids)) for ids in (ours, theirs))
            assert likely == pytest.approx(likeliest, abs=1e-3), text
            continue
        assert ours == theirs, text
        assert tokenizer.decode(reference.encode(text)) == reference.decode(reference.encode(text))
    if kind == "unigram":
        from_gguf = tokenizer_from_gguf(unigram_metadata(own_sentencepiece.read_model(tmp_path / "tokenizer.model")))
        for text in [*ODD_TEXTS, *corpus.read_text(encoding="utf-8").splitlines()]:
            assert from_gguf.encode(text) == tokenizer.encode(text, add_bos=False), text
        assert from_gguf.eos_ids == tokenizer.eos_ids


def unigram_metadata(model: own_sentencepiece.SentencePieceModel) -> dict[str, Any]:
    return {
        "tokenizer.ggml.model": "t5",
        "tokenizer.ggml.tokens": [piece.text for piece in model.pieces],
        "tokenizer.ggml.scores": [piece.score for piece in model.pieces],
        "tokenizer.ggml.token_type": [int(piece.kind) for piece in model.pieces],
        "tokenizer.ggml.add_space_prefix": model.add_dummy_prefix,
        "tokenizer.ggml.remove_extra_whitespaces": model.remove_extra_whitespaces,
        # As int8, which some writers store it as.
        "tokenizer.ggml.precompiled_charsmap": [byte - 256 if byte > 127 else byte for byte in model.charsmap],
        "tokenizer.ggml.eos_token_id": model.eos_id,
    }


def test_damaged_sentencepiece_models_are_refused(vocabularies: Path, tmp_path: Path) -> None:
    data = (vocabularies / "llama2" / "tokenizer.model").read_bytes()
    file = tmp_path / "tokenizer.model"
    for broken in (b"", data[:1000], b"\xff" * 50, b"\x0a\xff\xff\xff\xff\x7f", b"\x08" * 9, b"hello world"):
        file.write_bytes(broken)
        with pytest.raises(CheckpointError):
            own_sentencepiece.read_model(file)


def test_tiktoken_folders(vocabularies: Path, lines: list[str], tmp_path: Path) -> None:
    config = {"tokenizer_class": "QWenTokenizer", "eos_token": "<|endoftext|>"}
    shutil.copy(vocabularies / "qwen1" / "qwen.tiktoken", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    first, second = load_tokenizer(tmp_path), load_tokenizer(vocabularies / "qwen2.5")
    for text in lines:
        assert first.encode(text) == second.encode(text)
    assert first.encode("<|im_end|>") == second.encode("<|im_end|>") == [151645]
    glm = load_tokenizer(vocabularies / "glm4")
    assert [glm.token_text(i) for i in glm.encode("")] == ["[gMASK]", "<sop>"]
    for text in lines[:50]:
        assert glm.decode(glm.encode(text)) == text
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(UnsupportedError, match=r"qwen\.tiktoken"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "qwen.tiktoken").write_text("IQ== 0\n????\n")
    with pytest.raises(CheckpointError, match="line 2"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["minimind", "minicpm3"])
def test_tokenizer_json_as_the_library_reads_it(vocabularies: Path, lines: list[str], name: str) -> None:
    reference = tokenizers.Tokenizer.from_file(str(vocabularies / name / "tokenizer.json"))
    tokenizer = load_tokenizer(vocabularies / name)
    for text in lines:
        ids = reference.encode(text).ids
        assert tokenizer.encode(text) == ids
        assert tokenizer.decode(ids) == reference.decode(ids)


@pytest.mark.parametrize("name", ["qwen2.5"])
def test_vocab_and_merges_as_transformers_reads_them(vocabularies: Path, lines: list[str], name: str) -> None:
    transformers = pytest.importorskip("transformers")
    reference = transformers.AutoTokenizer.from_pretrained(str(vocabularies / name))
    tokenizer = load_tokenizer(vocabularies / name)
    for text in [*lines, "<|im_start|>user\n<tool_call>x"]:
        ids = reference.encode(text)
        assert tokenizer.encode(text) == ids, text
        assert tokenizer.decode(ids) == reference.decode(ids, skip_special_tokens=True)
        plain = reference.encode(text, split_special_tokens=True)
        assert tokenizer.encode(text, parse_special=False) == plain
    messages = [{"role": "user", "content": "你好"}]
    expected = reference.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert encode_chat(tokenizer, messages) == expected
    assert {reference.eos_token_id} == tokenizer.eos_ids


@pytest.fixture(scope="module")
def smollm2(smollm2_path: Path) -> Tokenizer:
    return tokenizer_from_gguf(read_gguf(smollm2_path).metadata)


def test_smollm2_as_transformers_reads_it(smollm2: Tokenizer, smollm2_path: Path, lines: list[str]) -> None:
    transformers = pytest.importorskip("transformers")
    reference = transformers.AutoTokenizer.from_pretrained(str(smollm2_path.parent), gguf_file=smollm2_path.name)
    # transformers does not read tokenizer.ggml.pre; SmolLM2's own tokenizer.json cuts digits apart first.
    reference.backend_tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Digits(individual_digits=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    for text in lines:
        ids = reference.encode(text)
        assert smollm2.encode(text) == ids, text
        assert smollm2.decode(ids) == reference.decode(ids)
    for messages in ([{"role": "user", "content": "Hi <there>"}], [{"role": "system", "content": "Đẹp"}]):
        expected = reference.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert encode_chat(smollm2, messages) == expected


def test_smollm2_as_llama_cpp_reads_it(smollm2: Tokenizer, smollm2_path: Path, lines: list[str]) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    reference = llama_cpp.Llama(str(smollm2_path), vocab_only=True, verbose=False)
    for text in lines:
        assert smollm2.encode(text) == reference.tokenize(text.encode(), add_bos=False, special=True), text


def test_smollm2_facts(smollm2: Tokenizer) -> None:
    assert smollm2.vocab_size == 49152
    assert smollm2.bos_id == 1
    assert smollm2.eos_ids == {2}
    assert smollm2.encode("") == []


def test_smollm_vocab_and_merges_are_those_of_the_gguf(
    smollm2: Tokenizer, vocabularies: Path, lines: list[str]
) -> None:
    vocab: dict[str, Any] = json.loads((vocabularies / "smollm" / "vocab.json").read_text(encoding="utf-8"))
    rows = (vocabularies / "smollm" / "merges.txt").read_text(encoding="utf-8").split("\n")
    merges = parse_merges(row for row in rows if row and not row.startswith("#version"))
    backend = byte_level_backend(vocab, merges, find_cut("smollm"), [])
    tokenizer = Tokenizer(backend, Conventions(Spelling.BYTE_LEVEL))
    for text in lines:
        assert tokenizer.encode(text) == smollm2.encode(text, parse_special=False)


def whole_piece_first(ranks: dict[bytes, int], piece: bytes) -> list[int]:
    """One word by the rule of the format: a token as it is, else bytes whose joint comes first in rank are joined."""
    if piece in ranks:
        return [ranks[piece]]
    parts = [bytes([byte]) for byte in piece]
    while len(parts) > 1:
        order, at = min((ranks.get(a + b, len(ranks) * 2), i) for i, (a, b) in enumerate(pairwise(parts)))
        if order == len(ranks) * 2:
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return [ranks[part] for part in parts]


RANK_FILES = [
    ("glm4/tokenizer.model", "glm4"),
    ("hunyuan_a13b/hy.tiktoken", "hunyuan"),
    ("kimi_k2/tiktoken.model", "kimi-k2"),
    ("qwen1/qwen.tiktoken", "qwen2"),
    ("o200k/o200k_base.tiktoken", "gpt-4o"),
    ("llama3/tokenizer.model", "llama-bpe"),
]


@pytest.mark.parametrize(("file", "cut"), RANK_FILES)
def test_a_word_that_is_a_token_of_a_rank_file_is_that_token(
    vocabularies: Path, lines: list[str], file: str, cut: str
) -> None:
    ranks = own_tiktoken.read_ranks(vocabularies / file)
    backend = own_tiktoken.build_backend(ranks, find_cut(cut), {}, {})
    assert backend.pre_tokenizer is not None
    tokens = [text for token in ranks if len(token) > 1 and (text := token.decode("utf-8", "ignore")).encode() == token]
    assert len(tokens) > 90_000
    encodings = backend.encode_batch_fast([unicodedata.normalize("NFC", text) for text in tokens])
    one_word = [
        text for text in tokens if (text.isalpha() and text.isascii()) or (text[0] == " " and "一" <= text[1:2] <= "龥")
    ]
    assert len(one_word) > 8_000
    found = dict(zip(tokens, encodings, strict=True))
    for text in one_word:
        words = backend.pre_tokenizer.pre_tokenize_str(text)
        if len(words) == 1:
            assert found[text].ids == [ranks[text.encode()]], text
    for text in lines[:300] + lines[-300:]:
        text = unicodedata.normalize("NFC", text)
        spans = [span for _, span in backend.pre_tokenizer.pre_tokenize_str(text)]
        expected = [index for a, b in spans for index in whole_piece_first(ranks, text[a:b].encode())]
        assert backend.encode(text).ids == expected, text


def test_glm4_takes_words_that_no_merge_makes(vocabularies: Path) -> None:
    tokenizer = load_tokenizer(vocabularies / "glm4")
    text = "请 根据 参考资料 回答"
    assert len(tokenizer.encode(text, add_bos=False)) == 5
    tokens = [tokenizer.token_text(index) or "" for index in range(tokenizer.vocab_size)]
    state = json.loads(tokenizer._backend.to_str())
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "glm4",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if index in tokenizer.special_ids else 1 for index in range(len(tokens))],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in state["model"]["merges"]],
    }
    for name in ("glm4", "chatglm-bpe"):
        from_gguf = tokenizer_from_gguf({**metadata, "tokenizer.ggml.pre": name})
        assert from_gguf.encode(text) == tokenizer.encode(text, add_bos=False)


@pytest.mark.parametrize("name", ["glm4", "hunyuan_a13b", "kimi_k2"])
def test_a_word_cannot_be_a_control_token(vocabularies: Path, name: str) -> None:
    tokenizer = load_tokenizer(vocabularies / name)
    for index in tokenizer.special_ids:
        text = tokenizer.token_bytes(index).decode()
        for forged in (text, f" {text}", f"a{text}b"):
            assert not tokenizer.special_ids & set(tokenizer.encode(forged, add_bos=False, parse_special=False))
