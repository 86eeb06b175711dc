"""`show --chat`: a conversation as the model reads it, text and tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from landrace.checkpoints import open_checkpoint
from landrace.checkpoints.store import ModelStore, default_home
from landrace.cli.console import out, print_json, styled
from landrace.errors import DataError
from landrace.model import open_tokenizer
from landrace.text import Tokenizer, chat_prompt

_KEYS = frozenset({"messages", "tools", "add_generation_prompt", "chat_template_kwargs"})


def show_prompt(name: str, file: Path, *, as_json: bool) -> None:
    """Prints the prompt that the model's template writes of the conversation in `file`, and its tokens, one a line."""
    asked = _read(file)
    tokenizer = open_tokenizer(open_checkpoint(ModelStore(default_home()).show(name).model.path))
    variables = asked.pop("chat_template_kwargs", {})
    prompt = chat_prompt(tokenizer, asked.pop("messages"), **asked, **variables)
    tokens = [_token(tokenizer, index) for index in prompt.token_ids]
    if as_json:
        print_json({"prompt": prompt.text, "tokens": tokens})
        return
    for line in prompt.text.split("\n"):
        out.print(styled(line), soft_wrap=True)
    out.print()
    width = max((len(str(token["id"])) for token in tokens), default=1)
    for token in tokens:
        special = token["special"]
        text = json.dumps(token["text"], ensure_ascii=False)
        mark = "  special" if special else ""
        out.print(styled(f"{token['id']:>{width}}  ", (text, "bold magenta" if special else ""), mark), soft_wrap=True)
    out.print(styled((f"{len(tokens)} tokens", "dim")))


def _token(tokenizer: Tokenizer, index: int) -> dict[str, Any]:
    """Bytes that are no whole character are spelled out."""
    text = tokenizer.token_bytes(index).decode("utf-8", errors="backslashreplace")
    return {"id": index, "text": text, "special": index in tokenizer.control_ids}


def _read(file: Path) -> dict[str, Any]:
    """The file's messages, and what goes with them to the template."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} cannot be read as JSON: {error}.") from error
    asked = {"messages": value} if isinstance(value, list) else value
    if not isinstance(asked, dict) or "messages" not in asked:
        raise DataError(
            f"{file} holds no conversation.",
            hint='Write a list of messages, or {"messages": [...], "tools": [...], "chat_template_kwargs": {...}}.',
        )
    unknown = sorted(asked.keys() - _KEYS)
    if unknown:
        raise DataError(
            f"{file} has the key {unknown[0]!r}, which is not known.", hint=f"Known are {', '.join(sorted(_KEYS))}."
        )
    variables = asked.get("chat_template_kwargs", {})
    if not isinstance(variables, dict) or variables.keys() & (_KEYS | {"tokenizer", "limit"}):
        raise DataError(f"The chat_template_kwargs of {file} are not an object of the template's own variables.")
    return asked
