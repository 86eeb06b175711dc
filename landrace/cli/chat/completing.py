"""Tab: commands, their words, and names of files."""

from __future__ import annotations

from collections.abc import Iterable

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document

from landrace.cli.chat.commands import COMMANDS
from landrace.cli.chat.settings import SHOWN
from landrace.safe_text import shown_line


class CommandCompleter(Completer):
    """Completes a line that begins with a slash, and nothing else."""

    def __init__(self) -> None:
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        line = document.text_before_cursor
        if not line.startswith("/") or line.startswith("//") or "\n" in line:
            return
        name, space, argument = line[1:].partition(" ")
        if not space:
            yield from _beginning_with(name, COMMANDS)
            return
        command = COMMANDS.get(name)
        if command is None:
            return
        first, space, rest = argument.partition(" ")
        if space and name == "set" and first in SHOWN:
            yield from _beginning_with(rest, ("on", "off"))
        elif not space:
            yield from _beginning_with(first, command.words)
        if command.takes_file:
            for one in self._paths.get_completions(Document(argument), complete_event):
                shown = shown_line(one.display_text)
                yield Completion(one.text, one.start_position, display=shown)


def _beginning_with(text: str, words: Iterable[str]) -> Iterable[Completion]:
    return (Completion(word, -len(text)) for word in words if word.startswith(text))
