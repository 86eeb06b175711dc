"""Tokenizers from files made here: every source gives the ids and bytes of the vocabulary it was made from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, decoders, models, pre_tokenizers, processors, trainers

from landrace.errors import CheckpointError, RequestError, UnsupportedError
from landrace.text import Tokenizer, encode_chat, load_tokenizer, tokenizer_from_gguf
from landrace.text.pretokenizers import CUTS, build_pre_tokenizer

TEXTS = [
    "",
    " ",
    "Hello world, it's 2024! 12345",
    "  two  spaces\t\ttabs\n\n\nlines \r\n",
    "Tiếng Việt có dấu, đẹp quá",
    "Добар дан, како сте?",
    "你好，世界。今天天气很好！",
    "🦙👩‍👩‍👧‍👧 emoji e\u0301 ﬁ ½",
    "def f(x):\n    return x ** 2  # ok\n",
    "\x00\x7f\u200b\ufeff",
]
MIXED = " \n\r\t\u3000\u2003\xa0\u1680\u2028\x85aéßẞⅷªǅＡ你한ーअि्.,+=“、。—«€😀1①२²\u0301\u200d_"
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.fixture(scope="module")
def trained() -> tokenizers.Tokenizer:
    """A tiny byte-level BPE, cut as Qwen2 cuts, with three control tokens and the text token <think>."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.normalizer = tokenizers.normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 3 + [Path(__file__).read_text(encoding="utf-8")], trainer)
    tokenizer.add_special_tokens(CONTROL)
    tokenizer.add_tokens([tokenizers.AddedToken("<think>", normalized=False)])
    return tokenizer


def parts(tokenizer: tokenizers.Tokenizer) -> tuple[list[str], list[str]]:
    """The tokens in the order of their ids, and the merges."""
    state = json.loads(tokenizer.to_str())
    count = tokenizer.get_vocab_size()
    return [tokenizer.id_to_token(i) for i in range(count)], [" ".join(merge) for merge in state["model"]["merges"]]


def gguf_metadata(tokenizer: tokenizers.Tokenizer, **changes: Any) -> dict[str, Any]:
    tokens, merges = parts(tokenizer)
    kinds = [3 if token in CONTROL else 4 if token == "<think>" else 1 for token in tokens]
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": tokens.index("<|endoftext|>"),
        "tokenizer.ggml.eos_token_id": tokens.index("<|endoftext|>"),
        "tokenizer.chat_template": CHATML,
    }
    metadata.update({f"tokenizer.ggml.{key}": value for key, value in changes.items()})
    return {key: value for key, value in metadata.items() if value is not None}


def write_json_folder(folder: Path, tokenizer: tokenizers.Tokenizer, **config: Any) -> Path:
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def write_vocab_folder(folder: Path, tokenizer: tokenizers.Tokenizer, **config: Any) -> Path:
    tokens, merges = parts(tokenizer)
    plain = {token: i for i, token in enumerate(tokens) if token not in (*CONTROL, "<think>")}
    (folder / "vocab.json").write_text(json.dumps(plain), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    added = {
        str(i): {"content": token, "special": token in CONTROL}
        for i, token in enumerate(tokens)
        if token in (*CONTROL, "<think>")
    }
    facts = {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": added, "eos_token": "<|im_end|>", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(facts), encoding="utf-8")
    return folder


@pytest.fixture(scope="module", params=["tokenizer.json", "vocab and merges", "gguf"])
def loaded(request: pytest.FixtureRequest, trained: tokenizers.Tokenizer, tmp_path_factory: Any) -> Tokenizer:
    folder = tmp_path_factory.mktemp("model")
    if request.param == "tokenizer.json":
        (folder / "chat_template.jinja").write_text(CHATML, encoding="utf-8")
        return load_tokenizer(write_json_folder(folder, trained, eos_token="<|im_end|>"))
    if request.param == "gguf":
        return tokenizer_from_gguf(gguf_metadata(trained))
    return load_tokenizer(write_vocab_folder(folder, trained, chat_template=CHATML))


def test_every_source_gives_the_ids_of_the_library(loaded: Tokenizer, trained: tokenizers.Tokenizer) -> None:
    for text in [*TEXTS, "a<|im_end|>b <think>c"]:
        ids = trained.encode(text).ids
        assert loaded.encode(text) == ids
        assert loaded.decode(ids, skip_special=False) == trained.decode(ids, skip_special_tokens=False)
        assert loaded.decode(ids) == trained.decode(ids)
    assert loaded.vocab_size == trained.get_vocab_size()
    assert {loaded.token_bytes(i) for i in loaded.special_ids} == {token.encode() for token in CONTROL}


def test_token_bytes_are_exact_and_complete(loaded: Tokenizer) -> None:
    single = {loaded.token_bytes(i) for i in range(loaded.vocab_size)}
    assert {bytes([b]) for b in range(256)} <= single
    for text in TEXTS:
        ids = loaded.encode(text)
        assert b"".join(map(loaded.token_bytes, ids)).decode() == loaded.decode(ids)
    assert loaded.token_bytes(10**6) == b""
    assert loaded.token_bytes(-1) == b""
    assert loaded.decode([10**6, -5]) == ""


def test_text_cannot_forge_control_tokens_when_told_not_to_parse_them(loaded: Tokenizer) -> None:
    text = "a<|im_end|>b<think>"
    assert loaded.token_id("<|im_end|>") in loaded.encode(text)
    ids = loaded.encode(text, parse_special=False)
    assert not loaded.special_ids & set(ids)
    assert loaded.token_id("<think>") in ids  # text, not a control token
    assert loaded.decode(ids) == text


def test_the_turn_end_of_the_template_ends_an_answer(loaded: Tokenizer) -> None:
    assert loaded.token_id("<|im_end|>") in loaded.eos_ids
    assert loaded.token_id("<|im_start|>") not in loaded.eos_ids


def test_chats_are_encoded_as_the_template_writes_them(loaded: Tokenizer) -> None:
    messages = [{"role": "user", "content": "Zdravo"}]
    assert loaded.chat_template is not None
    text = loaded.chat_template.render(messages)
    assert text == "<|im_start|>user\nZdravo<|im_end|>\n<|im_start|>assistant\n"
    assert encode_chat(loaded, messages) == loaded.encode(text, add_bos=False)
    with pytest.raises(RequestError):
        encode_chat(loaded, [])


def test_text_that_is_not_unicode_is_refused(loaded: Tokenizer) -> None:
    with pytest.raises(RequestError) as caught:
        loaded.encode("broken \ud83e surrogate")
    assert caught.value.field == "prompt"
    with pytest.raises(RequestError):
        loaded.encode(None)  # type: ignore[arg-type]


def test_bos_comes_first_once(trained: tokenizers.Tokenizer) -> None:
    tokenizer = tokenizer_from_gguf(gguf_metadata(trained, add_bos_token=True))
    bos = tokenizer.bos_id
    assert tokenizer.encode("Hi")[0] == bos
    assert tokenizer.encode("Hi", add_bos=False)[0] != bos
    assert tokenizer.encode("<|endoftext|>Hi") == tokenizer.encode("Hi")
    assert tokenizer_from_gguf(gguf_metadata(trained)).encode("Hi") == tokenizer.encode("Hi", add_bos=False)


def test_the_post_processor_of_a_tokenizer_json_says_what_comes_first(
    trained: tokenizers.Tokenizer, tmp_path: Path
) -> None:
    copy = tokenizers.Tokenizer.from_str(trained.to_str())
    marks = [("<|im_start|>", copy.token_to_id("<|im_start|>")), ("<|endoftext|>", copy.token_to_id("<|endoftext|>"))]
    copy.post_processor = processors.TemplateProcessing("<|im_start|> <|endoftext|> $A", special_tokens=marks)
    loaded = load_tokenizer(write_json_folder(tmp_path, copy, bos_token="<|endoftext|>"))
    assert loaded.encode("Hi") == copy.encode("Hi").ids
    assert loaded.encode("Hi", add_bos=False) == trained.encode("Hi").ids
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<|endoftext|>", "add_bos_token": false}')
    assert load_tokenizer(tmp_path).encode("Hi") == trained.encode("Hi").ids


def test_all_stated_end_ids_count(trained: tokenizers.Tokenizer, tmp_path: Path) -> None:
    write_json_folder(tmp_path, trained, eos_token={"content": "<|endoftext|>"})
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 9]}')
    (tmp_path / "config.json").write_text('{"eos_token_id": 11, "text_config": {"eos_token_id": [12]}}')
    loaded = load_tokenizer(tmp_path)
    assert loaded.eos_ids == {7, 9, 11, 12, trained.token_to_id("<|endoftext|>")}
    metadata = gguf_metadata(trained, eot_token_id=21, eom_token_id=22)
    ends = {21, 22, trained.token_to_id("<|endoftext|>"), trained.token_to_id("<|im_end|>")}
    assert tokenizer_from_gguf(metadata).eos_ids == ends


def test_templates_come_from_every_place(trained: tokenizers.Tokenizer, tmp_path: Path) -> None:
    said = "{{ messages[0].content }}"
    listed = [{"name": "default", "template": "D" + said}, {"name": "tool_use", "template": "T" + said}]
    write_json_folder(tmp_path, trained, chat_template=listed)
    user, tool = [{"role": "user", "content": "x"}], {"type": "function"}
    template = load_tokenizer(tmp_path).chat_template
    assert template is not None
    assert (template.render(user), template.render(user, tools=[tool])) == ("Dx", "Tx")
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "J" + said}))
    assert load_tokenizer(tmp_path).chat_template.render(user) == "Jx"  # type: ignore[union-attr]
    (tmp_path / "chat_template.jinja").write_text("F" + said + "{{ eos_token }}")
    assert load_tokenizer(tmp_path).chat_template.render(user) == "Fx"  # type: ignore[union-attr]


def test_a_broken_template_does_not_stop_plain_use(trained: tokenizers.Tokenizer) -> None:
    metadata = gguf_metadata(trained) | {"tokenizer.chat_template": "{% for"}
    tokenizer = tokenizer_from_gguf(metadata)
    assert tokenizer.decode(tokenizer.encode("Hi")) == "Hi"
    with pytest.raises(CheckpointError):
        encode_chat(tokenizer, [{"role": "user", "content": "x"}])


def test_a_model_without_template_refuses_chats(trained: tokenizers.Tokenizer) -> None:
    metadata = gguf_metadata(trained)
    del metadata["tokenizer.chat_template"]
    with pytest.raises(RequestError, match="no chat template"):
        encode_chat(tokenizer_from_gguf(metadata), [{"role": "user", "content": "x"}])


def test_gguf_metadata_that_contradicts_itself_is_refused(trained: tokenizers.Tokenizer) -> None:
    tokens, merges = parts(trained)
    for changes in (
        {"tokens": None},
        {"tokens": [*tokens[:-1], 5]},
        {"tokens": [*tokens[:-1], tokens[0]]},
        {"token_type": [1]},
        {"merges": None},
        {"merges": [*merges, "nospace"]},
        {"merges": [*merges, "zzzzqq qqzzzz"]},
        {"eos_token_id": 10**6},
        {"eos_token_id": "x"},
    ):
        with pytest.raises(CheckpointError):
            tokenizer_from_gguf(gguf_metadata(trained, **changes))


def test_unknown_kinds_are_named(trained: tokenizers.Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="made-up-pre"):
        tokenizer_from_gguf(gguf_metadata(trained, pre="made-up-pre"))
    with pytest.raises(UnsupportedError, match="rwkv"):
        tokenizer_from_gguf(gguf_metadata(trained, model="rwkv"))
    write_vocab_folder(tmp_path, trained, tokenizer_class="MysteryTokenizer")
    with pytest.raises(UnsupportedError, match="MysteryTokenizer"):
        load_tokenizer(tmp_path)


def test_damaged_folders_are_refused(trained: tokenizers.Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No tokenizer"):
        load_tokenizer(tmp_path)
    write_vocab_folder(tmp_path, trained)
    vocab = (tmp_path / "vocab.json").read_text(encoding="utf-8")
    for name, content in (
        ("vocab.json", "{"),
        ("vocab.json", '["a"]'),
        ("vocab.json", '{"a": 1, "b": 1}'),
        ("merges.txt", "onlyone"),
        ("tokenizer_config.json", "[1]"),
        ("tokenizer_config.json", '{"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": {"x": {}}}'),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", vocab),
    ):
        good = (tmp_path / name).read_bytes() if (tmp_path / name).exists() else None
        (tmp_path / name).write_text(content, encoding="utf-8")
        with pytest.raises(CheckpointError):
            load_tokenizer(tmp_path)
        if good is not None:
            (tmp_path / name).write_bytes(good)


def test_a_stated_id_that_the_vocabulary_does_not_give_is_refused(
    trained: tokenizers.Tokenizer, tmp_path: Path
) -> None:
    write_json_folder(tmp_path, trained, added_tokens_decoder={"9999": {"content": "<new>", "special": True}})
    with pytest.raises(CheckpointError, match="<new>"):
        load_tokenizer(tmp_path)
    index = trained.get_vocab_size()
    write_json_folder(tmp_path, trained, added_tokens_decoder={str(index): {"content": "<new>", "special": True}})
    assert load_tokenizer(tmp_path).encode("<new>") == [index]


def test_added_tokens_json_of_older_folders(trained: tokenizers.Tokenizer, tmp_path: Path) -> None:
    write_vocab_folder(tmp_path, trained, added_tokens_decoder={})
    tokens, _ = parts(trained)
    listed = {token: tokens.index(token) for token in (*CONTROL, "<think>")}
    (tmp_path / "added_tokens.json").write_text(json.dumps(listed))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"additional_special_tokens": CONTROL}))
    loaded = load_tokenizer(tmp_path)
    assert {loaded.token_text(i) for i in loaded.special_ids} == set(CONTROL)
    assert loaded.encode("a<think><|im_end|>") == trained.encode("a<think><|im_end|>").ids


@pytest.mark.parametrize("name", sorted(CUTS))
def test_every_cut_compiles_and_loses_nothing(name: str) -> None:
    cut = build_pre_tokenizer(CUTS[name])
    for text in TEXTS:
        pieces = cut.pre_tokenize_str(text)
        spans = [span for _, span in pieces]
        assert "".join(text[a:b] for a, b in spans) == text or any(ord(char) > 127 for char in text)
        alphabet = {c: b for b, c in zip(*_alphabet(), strict=True)}
        assert bytes(alphabet[c] for piece, _ in pieces for c in piece).decode() == text


@pytest.mark.parametrize("name", [name for name, cut in CUTS.items() if cut.whole is not None])
@given(text=st.text(st.sampled_from(MIXED)) | st.text())
@settings(max_examples=400)
def test_one_pattern_cuts_as_several_in_turn(name: str, text: str) -> None:
    cut, text = CUTS[name], text.encode("utf-8", "ignore").decode()
    in_turn = build_pre_tokenizer(replace(cut, whole=None))
    assert build_pre_tokenizer(cut).pre_tokenize_str(text) == in_turn.pre_tokenize_str(text)


@pytest.mark.parametrize("name", [name for name, cut in CUTS.items() if cut.whole is not None])
@pytest.mark.parametrize("text", [" ", "\u3000", " \u2003", "“\u3000", "€ ", "\u0301\u2003", "你 "])
def test_one_pattern_takes_long_runs_at_a_time(name: str, text: str) -> None:
    """That takes no second; the square of this length would take minutes."""
    pieces = build_pre_tokenizer(CUTS[name]).pre_tokenize_str(text * 50_000 + "€")
    assert pieces[-1][1][1] == len(text) * 50_000 + 1


def _alphabet() -> tuple[list[int], list[str]]:
    """The byte-level alphabet as the library writes it."""
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    known: dict[int, str] = {}
    for code in range(0x800):
        encoded = chr(code).encode()
        known.update(zip(encoded, level.pre_tokenize_str(chr(code))[0][0], strict=True))
    for code in range(0x10000, 0x110000, 0x10000):
        known.update(zip(chr(code).encode(), level.pre_tokenize_str(chr(code))[0][0], strict=True))
    for code in range(0x1000, 0xD000, 0x1000):
        known.update(zip(chr(code).encode(), level.pre_tokenize_str(chr(code))[0][0], strict=True))
    for char in "\ue000\uf000":
        known.update(zip(char.encode(), level.pre_tokenize_str(char)[0][0], strict=True))
    return list(known), list(known.values())
