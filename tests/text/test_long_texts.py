"""Long texts: cut where it changes nothing, refused by length, and without stopping other threads."""

from __future__ import annotations

import re
import threading
import unicodedata
from pathlib import Path

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matrix import mostly_long
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers
from turns import Turns

from landrace.checkpoints.gguf_file import read_gguf
from landrace.errors import PromptTooLongError, RequestError
from landrace.text import ChatTemplate, Tokenizer, borders, encode_chat, load_tokenizer, tokenizer_from_gguf
from landrace.text.borders import Borders
from landrace.text.bpe import byte_level_backend
from landrace.text.fewest_tokens import FewestTokens
from landrace.text.pretokenizers import CUTS
from landrace.text.tiktoken import build_backend, read_ranks
from landrace.text.tokenizer import Conventions, Spelling

FOLDERS = ("baichuan2", "glm4", "hunyuan_a13b", "kimi_k2", "llama2", "minicpm3", "minimind", "qwen2.5", "yi")
FILES = ("deepseek_coder/ggml-vocab-deepseek-coder.gguf", "deepseek_llm/ggml-vocab-deepseek-llm.gguf")
RANKED = (("o200k/o200k_base.tiktoken", "gpt-4o"), ("llama3/tokenizer.model", "llama-bpe"))
NAMES = (*FOLDERS, *FILES, *(file for file, _ in RANKED))

WORDS = [
    *("the", "don't", "we'LL", "I'd", "HTTPServer", "camelCase", "naïve", "straße", "Ωmega", "слово", "Það"),
    *(
        "好",
        "你好世界",
        "根据",
        " 根据",
        "こんにちは",
        "カタカナー",
        "한국어",
        "กำลังดี",
        "हिन्दी",
        "العربية",
        "e\u0301",
        "\u0301",
        "ﬁ",
    ),
    *("7", "1234", "12345678", "٣٤٥", "½²", "1,000.5", "3.14", "0x7f"),
    *(" ", "  ", "   ", "\n", "\n\n", " \n", "\r\n", "\t", "\u3000", "\xa0", "\u200b", "▁", " ▁"),
    *(".", "...", ",", "!", "?!", "'", "''", "`", "~", "^", "<", "|", "-", "—", "。", "，", "《", "”", "、", "/", "_"),
    *("😀", "👩‍👩‍👧", "\x00", "\ufeff", "</s>", "<s>", "<|im_end|>", "<|im_start|>", "<think>", "<", "|>", "[gMASK]"),
]
TEXTS = st.lists(st.sampled_from(WORDS) | st.text(max_size=4), min_size=1, max_size=40).map("".join)
FEW = settings(max_examples=60, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module", params=NAMES)
def tokenizer(request: pytest.FixtureRequest, shared: Path) -> Tokenizer:
    path = shared / "data" / "tokenizers" / request.param
    if request.param in FOLDERS:
        return load_tokenizer(path)
    if request.param in FILES:
        return tokenizer_from_gguf(read_gguf(path).metadata)
    backend = build_backend(read_ranks(path), CUTS[dict(RANKED)[request.param]], {}, {})
    return Tokenizer(backend, Conventions(Spelling.BYTE_LEVEL))


@pytest.fixture
def tiny_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(borders, "PIECE", 3)
    monkeypatch.setattr(borders, "_STEP_AFTER_TOKEN", 1)


@pytest.mark.usefixtures("tiny_pieces")
@given(text=TEXTS)
@FEW
def test_pieces_give_the_ids_of_the_whole(tokenizer: Tokenizer, text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    for special in (True, False):
        backend = tokenizer._backend if special else tokenizer._plain_backend
        whole = backend.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text, add_bos=False, parse_special=special) == whole
        assert tokenizer._fewest_tokens.count(text) <= len(whole)


@pytest.mark.usefixtures("tiny_pieces")
def test_real_texts_are_cut_and_give_the_ids_of_the_whole(tokenizer: Tokenizer, shared: Path) -> None:
    for file in sorted((shared / "data" / "text" / "ntrex").glob("*.txt")):
        text = " ".join(file.read_text(encoding="utf-8").splitlines()[:12])
        whole = tokenizer._backend.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text, add_bos=False) == whole, file.name
        if file.stem == "src.eng":
            assert len(list(tokenizer._borders.pieces(text))) > len(text.split()) / 2


@pytest.mark.long
@pytest.mark.usefixtures("tiny_pieces")
@pytest.mark.parametrize("name", sorted(CUTS))
@given(text=TEXTS)
@settings(FEW, max_examples=150)
def test_no_pattern_matches_across_a_border(name: str, text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    alphabet = {char: index for index, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = byte_level_backend(alphabet, [], CUTS[name], [])
    found = Borders.of(backend)
    assert found.pattern is not None
    words = [backend.pre_tokenizer.pre_tokenize_str(piece) for piece in found.pieces(text)]
    whole = backend.pre_tokenizer.pre_tokenize_str(text)
    assert [word for piece in words for word, _ in piece] == [word for word, _ in whole]


def test_letters_of_borders_are_letters_and_stay_as_they_are() -> None:
    letters = re.compile(f"[{borders._LETTERS}{borders._MORE_LETTERS}{borders._EASTERN_LETTERS}]")
    found = letters.findall("".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)])))
    assert len(found) > 30_000
    for letter in found:
        assert unicodedata.category(letter).startswith("L"), letter
        assert unicodedata.normalize("NFC", letter) == letter
        assert all(unicodedata.normalize("NFC", letter + stop) == letter + stop for stop in " .,!?;")


@pytest.mark.parametrize("prepends", [False, True])
def test_control_tokens_are_borders_of_any_tokenizer(monkeypatch: pytest.MonkeyPatch, prepends: bool) -> None:
    monkeypatch.setattr(borders, "PIECE", 3)
    backend = tokenizers.Tokenizer(models.BPE({"a": 0, "b": 1, "\u2581": 2, "ab": 3, "\u2581a": 4}, [("a", "b")]))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("a+"), behavior="merged_with_next")
    if prepends:
        backend.normalizer = normalizers.Prepend("\u2581")
    backend.add_special_tokens([AddedToken("<x>", special=True), AddedToken("x><", special=True)])
    backend.add_tokens([AddedToken("<y>", normalized=True), AddedToken("<z>", rstrip=True)])
    tokenizer = Tokenizer(backend, Conventions(Spelling.SENTENCEPIECE))
    for text in ("abab<x>abba<x>ab", "abaa<x><x>ab<x><x>a", "ab<y>ab<y>abab<y>", "<z> <x>ab<z>  <x>", "b<x>" * 30):
        assert tokenizer.encode(text) == backend.encode(text).ids
    assert len(list(tokenizer._borders.pieces("abab<x>abba<x>ab"))) == 3
    assert len(list(tokenizer._plain_borders.pieces("abab<x>abba<x>ab"))) == 1


@pytest.fixture(scope="module")
def qwen(shared: Path) -> Tokenizer:
    return load_tokenizer(shared / "data" / "tokenizers" / "qwen2.5")


def test_what_cannot_fit_is_refused_before_it_is_encoded(qwen: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Borders, "pieces", None)
    for text in ("a" * 3_000_000, "\u597d" * 1_000_000, " " * 3_000_000):
        with pytest.raises(PromptTooLongError, match=r"length is 2000 tokens; the prompt has at least [0-9]+"):
            qwen.encode(text, limit=2000)


def test_a_conversation_that_cannot_fit_is_not_written(qwen: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    template = ChatTemplate("{% for m in messages %}{{ m.content | trim }}{% endfor %}")
    monkeypatch.setattr(qwen, "chat_template", template)
    # White space may be trimmed and thoughts left out, so neither counts before the template has written.
    padded = [{"role": "user", "content": " " * 1_000_000 + "hi"}, {"role": "assistant", "content": "\n" * 1_000_000}]
    assert qwen.decode(encode_chat(qwen, padded, limit=100)) == "hi"
    monkeypatch.setattr(template, "_run", None)
    for content in ("a" * 1_000_000, [{"type": "text", "text": "\u597d"}] * 100_000):
        with pytest.raises(PromptTooLongError):
            encode_chat(qwen, [{"role": "user", "content": content}], limit=100)
    with pytest.raises(PromptTooLongError):
        encode_chat(qwen, [{"role": "user", "content": "a"}] * 101, limit=100)


def test_encoding_stops_when_the_limit_is_reached(qwen: Tokenizer) -> None:
    text = "to be or not to be, that is the question. " * 50_000
    with pytest.raises(PromptTooLongError) as caught:
        qwen.encode(text, limit=20_000)
    counted = int(re.findall(r"at least ([0-9]+)", caught.value.message)[0])
    assert 20_000 < counted < 40_000
    assert caught.value.field == "prompt"
    ids = qwen.encode(text[:42_000])
    assert qwen.encode(text[:42_000], limit=len(ids)) == ids
    with pytest.raises(PromptTooLongError, match=f"length is {len(ids) - 1} tokens"):
        qwen.encode(text[:42_000], limit=len(ids) - 1)


def test_a_stretch_that_cannot_be_cut_is_named(qwen: Tokenizer) -> None:
    ids = qwen.encode("a" * borders.MAX_STRETCH)
    assert qwen.decode(ids[:8]) == "a" * len(qwen.decode(ids[:8]))
    with pytest.raises(RequestError, match=f"stretch of more than {borders.MAX_STRETCH:,} characters") as caught:
        qwen.encode("a" * (borders.MAX_STRETCH + borders.PIECE))
    assert caught.value.field == "prompt" and caught.value.hint


def test_the_bound_knows_what_is_left_out() -> None:
    backend = tokenizers.Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    assert FewestTokens.of(backend).count("zzz") == 0  # no byte fallback: nothing remains
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    assert FewestTokens.of(backend).count("zzz" * 100) == 0 == len(backend.encode("zzz").ids)
    assert FewestTokens.of(backend).count("ab" * 100) == 100
    backend.add_tokens([AddedToken("<m>", lstrip=True)])
    assert FewestTokens.of(backend).count("ab" * 100) == 0
    backend = tokenizers.Tokenizer(models.BPE({"a": 0}, []))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", behavior="removed"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    assert FewestTokens.of(backend).count(" a" * 100) == 0


KINDS = {
    "letter": "a",
    "spaces": " ",
    "digits": "7",
    "emoji": "\U0001f600",
    "ideographs": "\u597d\u4e16\u754c",
    "newlines": "\n",
    "prose": "To be, or not to be: that is the question. ",
    "marks": "a\u0301\u0323",
    "mix": "a1 \u597d\n\U0001f600!\t",
    "control": "<|im_end|>",
}


@pytest.mark.parametrize("kind", mostly_long(KINDS, ("letter", "emoji")))
@pytest.mark.parametrize("limit", [None, 131_072])
def test_other_threads_run_while_a_long_text_is_encoded(qwen: Tokenizer, kind: str, limit: int | None) -> None:
    qwen.warm_up()
    text = (KINDS[kind] * 1_000_000)[:1_000_000]
    running = threading.Event()

    def encode() -> None:
        try:
            qwen.encode(text, limit=limit)
        except RequestError:
            pass
        finally:
            running.set()

    turns, kept = Turns(), []
    thread = threading.Thread(target=encode)
    thread.start()
    while not running.wait(0.005):
        kept.append(turns.tick())
    kept.append(turns.tick())
    thread.join()
    assert max(kept) < 0.25
