"""One small vocabulary behind both doors: a model folder and a GGUF file, with any chat template and its marks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

NAMED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
"""The special tokens that have a name; in the folder they are objects, as many real ones have them."""
_MARK = re.compile(r"<[|｜][^<>\n'\"{}+]{1,40}[|｜]>|</?seed:[a-z_]+>|\[e~\[|\]~b\]|\]~!b\[|\[gMASK\]|<sop>")


def marks_of(source: str) -> list[str]:
    """The control tokens that a template's source spells out."""
    return sorted({*_MARK.findall(source), "<|im_start|>", "<|im_end|>"} - set(NAMED.values()))


class Doors:
    """The vocabulary of a folder's tokenizer.json, without its own added tokens."""

    def __init__(self, folder: Path) -> None:
        self._state = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        listed = {entry["content"]: entry["id"] for entry in self._state["added_tokens"]}
        self._base = {text: index for text, index in self._state["model"]["vocab"].items() if text not in listed}
        # The ids of what was taken out are filled, so that they leave no gaps.
        self._base |= {f"unused{index}": index for index in listed.values()}

    def folder(self, folder: Path, source: str, control: Iterable[str], text: Iterable[str] = ()) -> Path:
        """Writes tokenizer.json, tokenizer_config.json and chat_template.jinja."""
        folder.mkdir()
        added = self._added(control, text)
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        entries = [{"id": i, "content": token, "special": special, **flags} for token, i, special in added]
        model = {**self._state["model"], "vocab": self._base}
        state = {**self._state, "model": model, "added_tokens": entries, "post_processor": None}
        (folder / "tokenizer.json").write_text(json.dumps(state), encoding="utf-8")
        described = {str(entry["id"]): {key: value for key, value in entry.items() if key != "id"} for entry in entries}
        named = {
            name: {"__type": "AddedToken", "content": token, **flags, "special": True} for name, token in NAMED.items()
        }
        config = {**named, "added_tokens_decoder": described, "tokenizer_class": "PreTrainedTokenizerFast"}
        (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        (folder / "chat_template.jinja").write_text(source, encoding="utf-8")
        return folder

    def metadata(self, source: str, control: Iterable[str], text: Iterable[str] = ()) -> dict[str, Any]:
        """The same as the metadata of a GGUF file."""
        tokens = sorted(self._base, key=self._base.__getitem__)
        kinds = [1] * len(tokens)
        added = self._added(control, text)
        tokens += [token for token, _, _ in added]
        kinds += [3 if special else 4 for _, _, special in added]
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in self._state["model"]["merges"]]
        names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
        return {
            "general.architecture": "llama",
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "gpt-2",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": kinds,
            "tokenizer.ggml.merges": merges,
            "tokenizer.chat_template": source,
            **{f"tokenizer.ggml.{names[name]}_token_id": tokens.index(token) for name, token in NAMED.items()},
        }

    def _added(self, control: Iterable[str], text: Iterable[str]) -> list[tuple[str, int, bool]]:
        special = [*NAMED.values(), *control]
        return [(token, len(self._base) + i, i < len(special)) for i, token in enumerate([*special, *text])]
