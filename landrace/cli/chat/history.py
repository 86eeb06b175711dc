"""What was typed in earlier chats, in a file that only its owner can read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from prompt_toolkit.history import History

FILE_NAME = "chat-history.jsonl"
_MOST_LINES = 1000
_LONGEST = 20_000
"""Characters of a message that is kept: a longer one came from a file, and is there."""


class HistoryFile(History):
    """One JSON text a line, the newest last. A file that cannot be read or written is no history, and no error."""

    def __init__(self, path: Path, whole: Callable[[str], str]) -> None:
        """`whole`: the message that a typed line stands for."""
        super().__init__()
        self._path = path
        self._whole = whole

    def load_history_strings(self) -> Iterable[str]:
        try:
            lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []
        if len(lines) > 2 * _MOST_LINES:
            lines = lines[-_MOST_LINES:]
            self._write(lines, os.O_TRUNC)
        texts = []
        for line in lines:
            with suppress(ValueError, RecursionError):  # half a line of a process that was killed
                texts.append(json.loads(line))
        return [text for text in reversed(texts) if isinstance(text, str)]

    def store_string(self, string: str) -> None:
        text = self._whole(string)
        if len(text) <= _LONGEST:
            self._write([json.dumps(text)], os.O_APPEND)

    def _write(self, lines: Iterable[str], how: int) -> None:
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | how, 0o600)
            with open(file, "w", encoding="utf-8") as stream:
                os.fchmod(file, 0o600)
                stream.write("".join(f"{line}\n" for line in lines))
