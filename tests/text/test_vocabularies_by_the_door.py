"""Every vocabulary of the shared data, opened as users open it: published ids, round trips, and what llama.cpp makes of
the same file."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pytest
import shared_vocabularies
from shared_vocabularies import byte_level_metadata, doors, texts, vectors
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, trainers

from landrace.checkpoints.gguf_write import write_gguf
from landrace.errors import UnsupportedError
from landrace.text import Tokenizer, load_tokenizer, tokenizer_from_gguf
from landrace.text.gguf_vocabulary import PROBES
from landrace.text.pretokenizers import CUTS
from landrace.text.tokenizer import Conventions, Spelling

NFC = ("qwen1", "qwen2.5", "qwen3")
CASED, MARKS, WIDE = PROBES[2], PROBES[3], PROBES[5]
NOT_LLAMA_CPPS = {
    **dict.fromkeys(("gpt-4o", "llama4", "minimax-m2", "kanana2", "talkie", "tekken", "kimi-k2"), (CASED, MARKS)),
    "youtu": (CASED,),
    **dict.fromkeys(("deepseek-llm", "deepseek-coder"), (WIDE,)),
}
"""Texts that llama.cpp cuts otherwise than the pattern of the model's own tokenizer.json: it knows lower and upper case
of ASCII only, and takes no ideographic space for one."""


@pytest.fixture(scope="module", params=shared_vocabularies.NAMES)
def opened(
    request: pytest.FixtureRequest, shared: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[str, Tokenizer]]:
    return request.param, doors(shared, request.param, tmp_path_factory.mktemp("folders"))


def test_published_ids(opened: tuple[str, dict[str, Tokenizer]], shared: Path) -> None:
    name, tokenizers = opened
    for by in tokenizers.values():
        for source, text, ids in vectors(shared, name):
            special = text == "<|endoftext|>"  # The one text of a vector that is a token of its own.
            found = by.encode(text, add_bos=False, parse_special=special or source == "llama.cpp")
            assert found == ids, text


def test_every_language_comes_back(opened: tuple[str, dict[str, Tokenizer]], shared: Path) -> None:
    name, tokenizers = opened
    seen = 0
    for language, text in texts(shared, 2000):
        expected = unicodedata.normalize("NFC", text) if name in NFC else text
        ids = [by.encode(text, add_bos=False, parse_special=False) for by in tokenizers.values()]
        assert ids[0] == ids[-1], language
        assert next(iter(tokenizers.values())).decode(ids[0]) == expected, language
        seen += 1
    assert seen >= 45


@pytest.mark.parametrize("name", ["llama3", "o200k", "qwen1"])
def test_a_rank_file_alone_is_known_by_its_content(shared: Path, tmp_path: Path, name: str) -> None:
    folder = shared_vocabularies.folder_of(shared, name, tmp_path)
    listed = load_tokenizer(folder)
    (folder / "tokenizer_config.json").unlink(missing_ok=True)
    alone = load_tokenizer(folder)
    for index in listed.special_ids:
        assert alone.token_text(index) == listed.token_text(index) and index in alone.special_ids
    assert alone.encode("") == ([128000] if name == "llama3" else [])
    file = next(file for file in folder.iterdir() if file.suffix in (".tiktoken", ".model"))
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(UnsupportedError, match="does not tell how text is cut"):
        load_tokenizer(folder)


def metadata_for_llama_cpp(own: dict[str, Any], eos: int) -> dict[str, Any]:
    return {
        "general.architecture": "llama",
        "llama.context_length": 64,
        "llama.embedding_length": 32,
        "llama.feed_forward_length": 32,
        "llama.block_count": 1,
        "llama.attention.head_count": 2,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": 16,
        **own,
        "tokenizer.ggml.bos_token_id": eos,
        "tokenizer.ggml.eos_token_id": eos,
    }


def by_llama_cpp(metadata: dict[str, Any], file: Path, said: list[str]) -> list[list[int]]:
    llama_cpp = pytest.importorskip("llama_cpp")
    write_gguf(file, metadata, {})
    theirs = llama_cpp.Llama(str(file), vocab_only=True, verbose=False)
    return [theirs.tokenize(text.encode(), add_bos=False, special=False) for text in said]


@pytest.fixture(scope="module")
def crossing() -> Backend:
    """Merges that were learnt without any cut, so that every cut shows in the ids."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=1500, min_frequency=1, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(list(PROBES) * 2, trainer)
    backend.add_special_tokens(["<|endoftext|>"])
    return backend


@pytest.mark.parametrize("name", sorted(CUTS))
def test_a_cut_is_that_of_llama_cpp(crossing: Backend, tmp_path: Path, name: str) -> None:
    whole = Tokenizer(crossing, Conventions(Spelling.BYTE_LEVEL))
    own = byte_level_metadata(whole, name)
    ours = tokenizer_from_gguf(own)
    said = [unicodedata.normalize("NFC", text) for text in PROBES if text not in NOT_LLAMA_CPPS.get(name, ())]
    theirs = by_llama_cpp(metadata_for_llama_cpp(own, whole.vocab_size - 1), tmp_path / "vocab.gguf", said)
    for text, ids in zip(said, theirs, strict=True):
        assert ours.encode(text, add_bos=False, parse_special=False) == ids, text
