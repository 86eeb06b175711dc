"""What the small JSON files beside a tokenizer say about it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from landrace.errors import CheckpointError
from landrace.text.chat_template import ChatTemplate

if TYPE_CHECKING:
    import tokenizers

MAX_FILE = 64 * 1024 * 1024


@dataclass(frozen=True)
class AddedEntry:
    """One added token as tokenizer_config.json describes it."""

    content: str
    special: bool
    normalized: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False

    def as_added(self) -> tokenizers.AddedToken:
        """The same for the `tokenizers` library."""
        import tokenizers

        return tokenizers.AddedToken(
            self.content,
            special=self.special,
            normalized=self.normalized,
            lstrip=self.lstrip,
            rstrip=self.rstrip,
            single_word=self.single_word,
        )


@dataclass(frozen=True)
class FolderConfig:
    """The facts of tokenizer_config.json, special_tokens_map.json, added_tokens.json and the model's own configs.

    `adds_bos` is None where the files do not say; `adds_eos` is of texts that are not continued. `legacy` is the
    SentencePiece convention of that name: the space before a text is also put after control tokens. `templates` are the
    chat templates by name.
    """

    added: Mapping[int, AddedEntry]
    named_tokens: Mapping[str, str]
    tokenizer_class: str | None
    adds_bos: bool | None
    adds_eos: bool
    legacy: bool
    templates: Mapping[str, str]
    model_config: Mapping[str, Any]
    generation_config: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> FolderConfig:
        """Reads what is there; CheckpointError for a file that is not valid JSON."""
        config = read_json(folder / "tokenizer_config.json")
        tokens_map = read_json(folder / "special_tokens_map.json")
        model_config = read_json(folder / "config.json")
        named = _named_tokens(config, tokens_map)
        adds_bos = config.get("add_bos_token")
        stated_class = config.get("tokenizer_class", model_config.get("tokenizer_class"))
        return cls(
            added=_added(config, tokens_map, read_json(folder / "added_tokens.json"), set(named.values())),
            named_tokens=named,
            tokenizer_class=stated_class if isinstance(stated_class, str) else None,
            adds_bos=adds_bos if isinstance(adds_bos, bool) else None,
            adds_eos=config.get("add_eos_token") is True,
            legacy=config.get("legacy") is not False,
            templates=_templates(folder, config),
            model_config=model_config,
            generation_config=read_json(folder / "generation_config.json"),
        )

    def chat_template(self) -> ChatTemplate | None:
        """The folder's chat template, if it has one."""
        return ChatTemplate(self.templates, tokens=self.named_tokens) if "default" in self.templates else None

    def check_ids(self, backend: tokenizers.Tokenizer) -> None:
        """Raises CheckpointError if an added token did not get the id the folder states."""
        for index, token in self.added.items():
            if backend.token_to_id(token.content) != index:
                raise CheckpointError(
                    f"The added token {token.content!r} should have the id {index}, "
                    f"but the vocabulary gives it {backend.token_to_id(token.content)}."
                )


def read_json(file: Path) -> dict[str, Any]:
    """An object from a JSON file; empty where there is no such file."""
    if not file.is_file():
        return {}
    if file.stat().st_size > MAX_FILE:
        raise CheckpointError(f"{file.name} is larger than {MAX_FILE:,} bytes.")
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file.name} is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file.name} is not a JSON object.")
    return value


def _content(value: Any) -> str | None:
    """A token given as text or as an object with a `content`."""
    text = value.get("content") if isinstance(value, Mapping) else value
    return text if isinstance(text, str) and text else None


def _named_tokens(config: Mapping[str, Any], tokens_map: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens that have a name: bos_token, eos_token and so on, and those of the model's own (image_token).

    As `transformers` finds them: every key that ends in `_token`, and the tables of further ones.
    """
    found = {**tokens_map, **config}
    for table in ("extra_special_tokens", "model_specific_special_tokens"):
        if isinstance(config.get(table), Mapping):
            found |= config[table]
    tokens = {name: _content(value) for name, value in found.items() if name.endswith("_token")}
    return {name: token for name, token in tokens.items() if token}


def _added(
    config: Mapping[str, Any], tokens_map: Mapping[str, Any], listed: Mapping[str, Any], named: set[str]
) -> dict[int, AddedEntry]:
    """Added tokens by id, from tokenizer_config.json or from the older added_tokens.json."""
    described = config.get("added_tokens_decoder")
    if isinstance(described, Mapping) and described:
        return dict(sorted(_described(key, entry) for key, entry in described.items()))
    extra = config.get("additional_special_tokens") or tokens_map.get("additional_special_tokens") or []
    special = named | {text for item in extra if (text := _content(item))}
    if not all(isinstance(index, int) and index >= 0 for index in listed.values()):
        raise CheckpointError("added_tokens.json is not a table of tokens and ids.")
    return {index: AddedEntry(token, token in special) for token, index in sorted(listed.items(), key=lambda e: e[1])}


def _described(key: str, entry: Any) -> tuple[int, AddedEntry]:
    content = _content(entry)
    if content is None or not str(key).isdigit():
        raise CheckpointError(f"tokenizer_config.json has an added token without id or content: {key!r}.")
    flags = {
        name: bool(entry.get(name, False)) for name in ("special", "normalized", "lstrip", "rstrip", "single_word")
    }
    return int(key), AddedEntry(content, **flags)


def _templates(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Chat templates by name; a file of its own goes before the entry in tokenizer_config.json."""
    templates: dict[str, str] = {}
    entry = config.get("chat_template")
    if isinstance(entry, str):
        templates["default"] = entry
    elif isinstance(entry, list):
        named = [item for item in entry if isinstance(item, Mapping)]
        templates |= {
            str(item.get("name")): item["template"] for item in named if isinstance(item.get("template"), str)
        }
    older = read_json(folder / "chat_template.json").get("chat_template")
    if isinstance(older, str):
        templates["default"] = older
    files = {"default": folder / "chat_template.jinja"}
    files |= {file.stem: file for file in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    for name, file in files.items():
        if file.is_file():
            templates[name] = file.read_text(encoding="utf-8")
    return templates
