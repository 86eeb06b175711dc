"""Every vocabulary of the shared data behind the doors that users open: a model folder, and a GGUF file's metadata."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from landrace.checkpoints.gguf_file import read_gguf
from landrace.text import Tokenizer, load_tokenizer, tokenizer_from_gguf
from landrace.text.gguf_vocabulary import gguf_vocabulary

CUTS_OF_FOLDERS = {
    "qwen1": "qwen2",
    "qwen2.5": "qwen2",
    "qwen3": "qwen2",
    "glm4": "glm4",
    "hunyuan_a13b": "hunyuan",
    "kimi_k2": "kimi-k2",
    "llama3": "llama-bpe",
    "o200k": "gpt-4o",
    "minimind": "gpt-2",
}
"""The folders of byte-level vocabularies, and the name by which a GGUF file would tell how they cut text."""
SENTENCEPIECE = ("llama2", "yi", "baichuan2", "minicpm3")
FILES = {
    "deepseek_llm": "ggml-vocab-deepseek-llm.gguf",
    "deepseek_coder": "ggml-vocab-deepseek-coder.gguf",
}
PARTS = ("smollm",)
"""A vocabulary and merges that do not tell how they cut text, so that only a GGUF file can hold them."""
NAMES = (*CUTS_OF_FOLDERS, *SENTENCEPIECE, *FILES, *PARTS)


def folder_of(shared: Path, name: str, into: Path) -> Path:
    """The folder of a vocabulary as a model's would be, below `into`."""
    source = shared / "data" / "tokenizers"
    folder = into / name
    shutil.copytree(source / name, folder, copy_function=shutil.copyfile)
    if name == "qwen3":  # The added tokens go with the words of qwen2.5.
        for part in ("vocab.json", "merges.txt"):
            shutil.copyfile(source / "qwen2.5" / part, folder / part)
    if name == "o200k":
        (folder / "gpt-oss_tokenizer_config.json").rename(folder / "tokenizer_config.json")
    return folder


def doors(shared: Path, name: str, into: Path) -> dict[str, Tokenizer]:
    """The tokenizer by each door that the vocabulary has."""
    files = shared / "data" / "tokenizers" / name
    if name in FILES:
        return {"gguf": tokenizer_from_gguf(read_gguf(files / FILES[name]).metadata)}
    if name in PARTS:
        vocab = json.loads((files / "vocab.json").read_text(encoding="utf-8"))
        lines = (files / "merges.txt").read_text(encoding="utf-8").split("\n")
        merges = [line for line in lines if line and not line.startswith("#version")]
        tokens = sorted(vocab, key=vocab.__getitem__)
        return {"gguf": tokenizer_from_gguf(_metadata(tokens, [1] * len(tokens), merges, name))}
    folder = folder_of(shared, name, into)
    opened = load_tokenizer(folder)
    if name in SENTENCEPIECE:
        metadata = gguf_vocabulary(folder, opened.vocab_size)
    else:
        metadata = byte_level_metadata(opened, CUTS_OF_FOLDERS[name])
    return {"folder": opened, "gguf": tokenizer_from_gguf(metadata)}


def byte_level_metadata(tokenizer: Tokenizer, cut: str) -> dict[str, Any]:
    """What a GGUF file would say of a byte-level vocabulary."""
    merges = json.loads(tokenizer.backend.to_str())["model"]["merges"]
    added = tokenizer.backend.get_added_tokens_decoder()
    tokens = [tokenizer.token_text(index) or f"[PAD{index}]" for index in range(tokenizer.vocab_size)]
    kinds = [(3 if added[i].special else 4) if i in added else 1 for i in range(len(tokens))]
    return _metadata(tokens, kinds, [one if isinstance(one, str) else " ".join(one) for one in merges], cut)


def _metadata(tokens: list[str], kinds: list[int], merges: list[str], cut: str) -> dict[str, Any]:
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": cut,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.add_bos_token": False,
    }


def texts(shared: Path, size: int) -> Iterator[tuple[str, str]]:
    """About `size` characters of every text and language there is, by name."""
    folder = shared / "data" / "text"
    for file in sorted((folder / "ntrex").glob("*.txt")):
        yield file.stem, file.read_text(encoding="utf-8")[:size]
    for file in sorted((folder / "udhr").rglob("*.xml")):
        yield file.stem, "\n".join(ElementTree.parse(file).getroot().itertext())[:size]
    for file in sorted((folder / "chinese_poetry").rglob("*.json")):
        yield file.stem, file.read_text(encoding="utf-8")[:size]
    for file in sorted((folder / "tinyshakespeare").glob("*.txt")):
        yield file.stem, file.read_text(encoding="utf-8")[:size]


def vectors(shared: Path, name: str) -> Iterator[tuple[str, str, list[int]]]:
    """Published ids of a vocabulary: who published them, the text, the ids."""
    base = shared / "data" / "tokenizers" / "test_vectors"
    for published in LLAMA_CPP.get(name, ()):
        file = base / "llama_cpp" / f"ggml-vocab-{published}.gguf"
        parts = Path(f"{file}.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
        rows = Path(f"{file}.out").read_text(encoding="utf-8").split("\n")
        for text, row in zip(parts, rows, strict=False):
            yield "llama.cpp", text, [int(index) for index in row.split()]
    if name in KITOKEN:
        kind, file_name = KITOKEN[name]
        for part in ("small", "mixed", "utf8"):
            whole = (base / "kitoken" / f"{part}_input.txt").read_text(encoding="utf-8")
            rows = (base / "kitoken" / kind / f"{part}_tokens_{file_name}.txt").read_text(encoding="utf-8").split("\n")
            parts = [whole] if part == "utf8" else whole.split("\n")
            for text, row in zip(parts, rows, strict=False):
                if row.strip():
                    spelled = text if part == "utf8" else text.replace("\\n", "\n").replace("\\s", " ")
                    yield "kitoken", spelled, [int(index) for index in row.split(",")]


LLAMA_CPP = {
    "qwen1": ("qwen2",),
    "qwen2.5": ("qwen2",),
    "qwen3": ("qwen2",),
    "llama2": ("llama-spm", "phi-3"),
    "llama3": ("llama-bpe",),
    "deepseek_llm": ("deepseek-llm",),
    "deepseek_coder": ("deepseek-coder",),
}
KITOKEN = {
    "llama2": ("sentencepiece", "llama2"),
    "kimi_k2": ("tiktoken", "kimi_k2"),
    "o200k": ("tiktoken", "o200k_base"),
}
