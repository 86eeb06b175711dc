"""Training rows from JSONL files: chats and prompt/completion pairs, checked line by line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from landrace.errors import DataError

MAX_LINE_BYTES = 16 * 2**20
"""A longer line is refused before it is parsed: no example of this size can be trained on."""

FORMATS = 'A row is {"messages": [{"role": ..., "content": ...}, ...]} or {"prompt": "...", "completion": "..."}.'


@dataclass(frozen=True)
class ChatRow:
    """A conversation; every assistant turn in it is an answer to learn."""

    where: str
    """File and line, for messages about this row."""
    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...] | None = None


@dataclass(frozen=True)
class CompletionRow:
    """Plain text and what should follow it."""

    where: str
    prompt: str
    completion: str


Row = ChatRow | CompletionRow


def read_rows(path: Path) -> list[Row]:
    """All rows of a JSONL file; blank lines are skipped, keys beyond the two formats are left alone.

    The two formats may be mixed. DataError names file and line.
    """
    rows = [parse_row(value, where) for where, value in _json_lines(path)]
    if not rows:
        raise DataError(f"{path} has no rows.", hint=FORMATS)
    return rows


def parse_row(value: object, where: str) -> Row:
    """One row from its JSON value. `where` (file and line) goes into the DataError."""
    if not isinstance(value, dict):
        raise DataError(f"{where}: the row is {_kind(value)}, not an object.", hint=FORMATS)
    is_chat, is_completion = "messages" in value, "prompt" in value or "completion" in value
    if is_chat and is_completion:
        raise DataError(f"{where}: the row has both 'messages' and 'prompt' or 'completion'.", hint=FORMATS)
    if is_chat:
        return _chat_row(value, where)
    if is_completion:
        return _completion_row(value, where)
    raise DataError(f"{where}: the row has neither 'messages' nor 'prompt' and 'completion'.", hint=FORMATS)


def rows_sha256(rows: Iterable[Row]) -> str:
    """Hash of what the rows say, wherever they came from."""
    digest = hashlib.sha256()
    for row in rows:
        if isinstance(row, ChatRow):
            value: dict[str, Any] = {"messages": row.messages, "tools": row.tools}
        else:
            value = {"prompt": row.prompt, "completion": row.completion}
        digest.update(json.dumps(value, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def _json_lines(path: Path) -> Iterator[tuple[str, object]]:
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                where = f"{path}, line {number}"
                if len(line) > MAX_LINE_BYTES:
                    raise DataError(f"{where}: the line is longer than {MAX_LINE_BYTES >> 20} MiB.")
                text = _decode(line, where).removeprefix("\ufeff") if number == 1 else _decode(line, where)
                if text.strip():
                    yield where, _parse(text, where)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error


def _decode(line: bytes, where: str) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: the line is not UTF-8 (byte {error.start + 1}).") from error


def _parse(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where}: the line is not JSON: {error.msg} at column {error.colno}.",
            hint="Each line is one JSON object, without line breaks inside.",
        ) from error
    except (RecursionError, ValueError) as error:
        raise DataError(f"{where}: the line is nested too deep, or has a number too long, to be read.") from error


def _completion_row(value: Mapping[str, Any], where: str) -> CompletionRow:
    texts = [_text(value.get(name), f"'{name}'", where) for name in ("prompt", "completion")]
    return CompletionRow(where, texts[0], texts[1])


def _chat_row(value: Mapping[str, Any], where: str) -> ChatRow:
    messages, tools = value["messages"], value.get("tools")
    if not isinstance(messages, list) or not messages:
        raise DataError(f"{where}: 'messages' is not a list with at least one message.", hint=FORMATS)
    for index, message in enumerate(messages):
        _check_message(message, f"message {index + 1}", where)
    if not any(message["role"] == "assistant" for message in messages):
        raise DataError(f"{where}: no message has the role 'assistant', so there is no answer to learn.")
    if messages[0]["role"] == "assistant":
        raise DataError(f"{where}: the first message is the assistant's, so there is nothing that it answers.")
    if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        raise DataError(f"{where}: 'tools' is not a list of objects.")
    return ChatRow(where, tuple(messages), tuple(tools) if tools else None)


def _check_message(message: object, name: str, where: str) -> None:
    if not isinstance(message, dict):
        raise DataError(f"{where}: {name} is {_kind(message)}, not an object.", hint=FORMATS)
    role = _text(message.get("role"), f"'role' of {name}", where)
    if role == "assistant" and message.get("tool_calls") and not message.get("content"):
        return
    content = message.get("content")
    if role != "assistant" and content == "":
        return
    _text(content, f"'content' of {name}", where)


def _text(value: object, name: str, where: str) -> str:
    if value is None:
        raise DataError(f"{where}: {name} is missing.", hint=FORMATS)
    if not isinstance(value, str):
        raise DataError(f"{where}: {name} is {_kind(value)}, not a string.")
    if not value.strip():
        raise DataError(f"{where}: {name} is empty.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: {name} has half of a surrogate pair, which is no character.") from error
    return value


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return "null" if value is None else names[type(value)]
