"""Conversations and declarations of tools in JSON files."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from landrace.errors import DataError, RequestError

_KEYS = frozenset({"messages", "tools", "add_generation_prompt", "chat_template_kwargs"})


def read_json(file: Path) -> Any:
    """DataError for what cannot be read."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{file} cannot be read as JSON: {reason}.") from error


def read_chat(file: Path) -> dict[str, Any]:
    """The file's messages, and what goes with them to the template. DataError for what is no conversation."""
    value = read_json(file)
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


def write_chat(file: Path, messages: Sequence[Any], tools: Sequence[Any], variables: Mapping[str, Any]) -> None:
    """In one piece or not at all. DataError for a file that cannot be written, or that holds something else."""
    if file.exists():
        try:
            read_chat(file)
        except DataError:
            raise DataError(
                f"{file} is there already and holds no conversation.", hint="Choose another name."
            ) from None
    chat = {
        "messages": list(messages),
        **({"tools": list(tools)} if tools else {}),
        **({"chat_template_kwargs": dict(variables)} if variables else {}),
    }
    text = json.dumps(chat, ensure_ascii=False, indent=2) + "\n"
    try:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=file.parent, prefix=".chat-", delete=False) as new:
            try:
                new.write(text)
                new.close()
                os.replace(new.name, file)
            except BaseException:
                os.unlink(new.name)
                raise
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{file} cannot be written: {reason}.") from error


def read_tools(file: Path) -> list[dict[str, Any]]:
    """Declarations of functions as the OpenAI API has them. DataError that names the place of a fault."""
    value = read_json(file)
    tools = checked_tools(file, value.get("tools") if isinstance(value, dict) and "tools" in value else value)
    if not tools:
        raise DataError(f"{file} declares no tools.")
    return tools


def checked_tools(file: Path, declared: Any) -> list[dict[str, Any]]:
    """What was read from `file` as declarations of functions."""
    from landrace.server.openai import conversation

    try:
        return conversation.checked_tools(declared)
    except RequestError as error:
        raise DataError(
            f"{file} declares no tools: {error.message}",
            hint='Write a list of {"type": "function", "function": {"name": ..., "parameters": {...}}}.',
        ) from error
