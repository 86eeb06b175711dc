"""Byte-level BPE vocabularies for models with random weights: generated, or taken from a GGUF file or a model folder.

A vocabulary is held as the `tokenizer.*` metadata of a GGUF file and can be written as a folder's files.
"""

from __future__ import annotations

import json
import string
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from landrace.checkpoints.gguf_file import read_gguf
from landrace.checkpoints.write import write_json
from landrace.errors import CheckpointError, OptionError, UnsupportedError
from landrace.text.bpe import added_token, byte_level_backend, parse_merges, unique_ids
from landrace.text.byte_level import BYTE_TO_CHAR
from landrace.text.folder_config import FolderConfig, read_json
from landrace.text.pretokenizers import CUTS, find_cut
from landrace.text.sentencepiece import Kind

KEY = "tokenizer.ggml."
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_UNUSED = 5
"""GGUF's token type for rows of the embedding that no text becomes."""


def generated(size: int) -> dict[str, Any]:
    """`size` tokens cut as Qwen cuts text: the bytes, pairs of letters, the control tokens of ChatML, and padding."""
    room = size - len(BYTE_TO_CHAR) - len(CONTROL)
    if room < 0:
        raise OptionError(f"A vocabulary of {size} tokens is too small for the 256 bytes and {len(CONTROL)} marks.")
    pairs = list(product(BYTE_TO_CHAR[ord(" ")] + string.ascii_lowercase, string.ascii_lowercase))[:room]
    normal = [*BYTE_TO_CHAR.values(), *("".join(pair) for pair in pairs)]
    ids = {token: len(normal) + index for index, token in enumerate(CONTROL)}
    tokens = {
        KEY + "model": "gpt2",
        KEY + "pre": "qwen2",
        KEY + "tokens": [*normal, *CONTROL],
        KEY + "token_type": [int(Kind.NORMAL)] * len(normal) + [int(Kind.CONTROL)] * len(CONTROL),
        KEY + "merges": [" ".join(pair) for pair in pairs],
        KEY + "bos_token_id": ids["<|endoftext|>"],
        KEY + "eos_token_id": ids["<|im_end|>"],
        KEY + "padding_token_id": ids["<|endoftext|>"],
        KEY + "add_bos_token": False,
        "tokenizer.chat_template": CHATML,
    }
    return padded(tokens, size)


def taken(path: Path, size: int) -> dict[str, Any]:
    """The byte-level BPE vocabulary of a `.gguf` file, or of a model folder with a tokenizer.json; `size` tokens.

    UnsupportedError for a vocabulary of another kind, OptionError for one with more than `size` tokens.
    """
    metadata = _of_folder(path) if path.is_dir() else _of_gguf(path)
    return padded(metadata, size)


def padded(metadata: Mapping[str, Any], size: int) -> dict[str, Any]:
    """The same with unused tokens at the end, `size` in all."""
    tokens, kinds = metadata[KEY + "tokens"], metadata[KEY + "token_type"]
    missing = size - len(tokens)
    if missing < 0:
        raise OptionError(f"The vocabulary has {len(tokens):,} tokens, more than the model's {size:,}.")
    filler = [f"[PAD{index}]" for index in range(len(tokens), size)]
    return {**metadata, KEY + "tokens": [*tokens, *filler], KEY + "token_type": [*kinds, *[_UNUSED] * missing]}


def write_files(metadata: Mapping[str, Any], folder: Path) -> list[Path]:
    """tokenizer.json and tokenizer_config.json in `folder`."""
    tokens: Sequence[str] = metadata[KEY + "tokens"]
    kinds = metadata[KEY + "token_type"]
    added = [
        added_token(token, special=kind == Kind.CONTROL)
        for token, kind in zip(tokens, kinds, strict=True)
        if kind in (Kind.CONTROL, Kind.USER_DEFINED)
    ]
    merges = parse_merges(metadata[KEY + "merges"])
    backend = byte_level_backend(unique_ids(tokens), merges, find_cut(metadata[KEY + "pre"]), added)
    backend.save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False}
    for name, key in (("bos_token", "bos_token_id"), ("eos_token", "eos_token_id"), ("pad_token", "padding_token_id")):
        if KEY + key in metadata:
            settings[name] = tokens[metadata[KEY + key]]
    if "tokenizer.chat_template" in metadata:
        settings["chat_template"] = metadata["tokenizer.chat_template"]
    write_json(folder / "tokenizer_config.json", settings)
    return [folder / "tokenizer.json", folder / "tokenizer_config.json"]


def _of_gguf(path: Path) -> dict[str, Any]:
    found = {key: value for key, value in read_gguf(path).metadata.items() if key.startswith("tokenizer.")}
    if found.get(KEY + "model") != "gpt2" or KEY + "merges" not in found:
        raise UnsupportedError(f"{path.name} has no byte-level BPE vocabulary.")
    found.setdefault(KEY + "pre", "default")
    found.setdefault(KEY + "token_type", [int(Kind.NORMAL)] * len(found[KEY + "tokens"]))
    return found


def _of_folder(folder: Path) -> dict[str, Any]:
    described = read_json(folder / "tokenizer.json")
    model = described.get("model", {})
    if model.get("type") != "BPE":
        raise UnsupportedError(f"{folder} has no tokenizer.json with a byte-level BPE vocabulary.")
    texts = {index: token for token, index in model["vocab"].items()}
    kinds = dict.fromkeys(texts, int(Kind.NORMAL))
    for entry in described.get("added_tokens", []):
        texts[entry["id"]] = entry["content"]
        kinds[entry["id"]] = int(Kind.CONTROL if entry["special"] else Kind.USER_DEFINED)
    if set(texts) != set(range(len(texts))):
        raise CheckpointError(f"The ids of {folder / 'tokenizer.json'} leave gaps.")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    config = FolderConfig.read(folder)
    ids = {text: index for index, text in texts.items()}
    named = (("bos_token", "bos_token_id"), ("eos_token", "eos_token_id"), ("pad_token", "padding_token_id"))
    found = {KEY + key: ids[config.named_tokens[name]] for name, key in named if name in config.named_tokens}
    if "default" in config.templates:
        found["tokenizer.chat_template"] = config.templates["default"]
    return {
        KEY + "model": "gpt2",
        KEY + "pre": _cut_name(described),
        KEY + "tokens": [texts[index] for index in range(len(texts))],
        KEY + "token_type": [kinds[index] for index in range(len(texts))],
        KEY + "merges": merges,
        KEY + "add_bos_token": bool(config.adds_bos),
        **found,
    }


def _cut_name(described: Mapping[str, Any]) -> str:
    """What GGUF files call the way this tokenizer.json cuts text."""
    patterns = tuple(
        step["pattern"]["Regex"] for step in _steps(described.get("pre_tokenizer")) if step["type"] == "Split"
    )
    nfc = [step["type"] for step in _steps(described.get("normalizer"))] == ["NFC"]
    ignores = bool(described["model"].get("ignore_merges"))
    for name, cut in CUTS.items():
        if (cut.patterns, cut.nfc, cut.ignore_merges) == (patterns, nfc, ignores):
            return name
    raise UnsupportedError(
        f"GGUF files have no name for how this tokenizer.json cuts text: {json.dumps(patterns)}.",
        hint="Take the vocabulary from a GGUF file of the model.",
    )


def _steps(described: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(described, Mapping):
        inner = described.get("pretokenizers") or described.get("normalizers")
        if inner is None:
            yield described
        else:
            for step in inner:
                yield from _steps(step)
