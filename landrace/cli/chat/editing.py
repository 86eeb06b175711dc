"""Reading from a terminal: a line that can be edited, history, completion, pastes."""

from __future__ import annotations

import sys
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import DummyHistory, History
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.output import create_output
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.shortcuts import CompleteStyle

from landrace.cli.chat.completing import CommandCompleter
from landrace.cli.chat.history import HistoryFile
from landrace.cli.chat.reading import GOES_ON, PROMPT, LineDroppedError, goes_on
from landrace.safe_text import shown_line

_LONGEST_PASTE, _MOST_LINES = 4000, 40
"""A paste that is longer is folded: nobody edits it here, and drawing it again at each key would take seconds."""


class TerminalReader:
    """Messages as they are typed and edited."""

    def __init__(self, history: Path) -> None:
        self._pastes = Pastes()
        # One that asked where the cursor is would read the answer out of what was typed ahead.
        self._output = create_output(sys.stdout)
        if isinstance(self._output, Vt100_Output):
            self._output.enable_cpr = False
        self._messages = self._session(HistoryFile(history, self._pastes.unfolded), completes=True)
        self._results = self._session(DummyHistory(), completes=False)

    def read(self) -> str:
        hint = FormattedText([("ansibrightblack", "Type a message, or /help")])
        typed = self._messages.prompt(_bold(PROMPT), placeholder=hint)
        text = self._pastes.unfolded(typed)
        # A paste is no command.
        return f"/{text}" if text.startswith("/") and not typed.startswith("/") else text

    def read_result(self, name: str) -> str:
        return self._pastes.unfolded(self._results.prompt(_bold(f"{shown_line(name)}: ")))

    def _session(self, history: History, *, completes: bool) -> PromptSession[str]:
        return PromptSession(
            history=history,
            completer=CommandCompleter() if completes else None,
            complete_while_typing=False,
            complete_style=CompleteStyle.READLINE_LIKE,
            multiline=True,
            prompt_continuation=GOES_ON,
            enable_suspend=True,
            key_bindings=self._keys(),
            output=self._output,
        )

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("enter")
        def _(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            if not goes_on(buffer.text):
                buffer.validate_and_handle()
                return
            if not buffer.text.startswith('"""'):
                buffer.cursor_position = len(buffer.text)
                buffer.delete_before_cursor()
            buffer.newline(copy_margin=False)

        @keys.add("escape", "enter")
        def _(event: KeyPressEvent) -> None:
            event.current_buffer.newline(copy_margin=False)

        @keys.add("c-c")
        @keys.add("<sigint>")
        def _(event: KeyPressEvent) -> None:
            event.app.exit(exception=LineDroppedError(event.current_buffer.text), style="class:aborting")

        @keys.add(Keys.BracketedPaste)
        def _(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text(self._pastes.folded(event.data))

        return keys


def _bold(text: str) -> FormattedText:
    return FormattedText([("bold", text)])


class Pastes:
    """Long pastes, each of which is one word of what is typed."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def folded(self, data: str) -> str:
        """What a paste puts into the line."""
        text = data.replace("\r\n", "\n").replace("\r", "\n")
        n_lines = text.count("\n") + 1
        if len(text) <= _LONGEST_PASTE and n_lines <= _MOST_LINES:
            return text
        size = f"{n_lines:,} lines" if n_lines > 1 else f"{len(text):,} characters"
        sign = f"[paste {len(self._texts) + 1}: {size}]"
        self._texts[sign] = text
        return sign

    def unfolded(self, typed: str) -> str:
        """The whole text of what was typed."""
        for sign, text in self._texts.items():
            typed = typed.replace(sign, text)
        return typed
