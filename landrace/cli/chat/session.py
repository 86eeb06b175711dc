"""The chat: reads a line, does what it says, tells what came of it. What fails says why, and the chat goes on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby

from rich.table import Table

from landrace.checkpoints.store import default_home
from landrace.cli.chat.commands import Reply, State, message_in, run_command
from landrace.cli.chat.conversation import Conversation, Message, OnOutput, Turn
from landrace.cli.chat.reading import LineDroppedError, LineReader, Reader, unquoted
from landrace.cli.chat.settings import Display
from landrace.cli.chat.showing import answer_printer, told_speed
from landrace.cli.console import err, fail, out, styled
from landrace.cli.endings import Ended, interrupts_noted
from landrace.errors import LandraceError, PromptTooLongError, RequestError

Ask = Callable[[OnOutput, Callable[[], bool]], Turn]


def chat(talk: Conversation) -> None:
    """Until the end of input, or a command that ends it."""
    session = _Session(talk)
    typed = sys.stdin.isatty()
    while True:
        try:
            if not session.take_line():
                return
        except Ended:
            raise
        except KeyboardInterrupt:  # between two things that know what to do with one
            if not typed:
                raise


class _Session:
    def __init__(self, talk: Conversation) -> None:
        self._talk = talk
        self._reader = _reader()
        self._state = State(talk, Display())
        if isinstance(self._reader, LineReader):
            _say("Type a message. /help lists commands, /exit or Ctrl-D ends the chat.")

    def take_line(self) -> bool:
        """Does what the next line says; False at the end."""
        try:
            line = self._reader.read().strip()
        except EOFError:
            return False
        except LineDroppedError as dropped:
            if not dropped.text:
                _say("Ctrl-D or /exit ends the chat.")
            return True
        try:
            return not line or self._do(line)
        except LandraceError as error:
            fail(error)
            return True

    def _do(self, line: str) -> bool:
        message = message_in(line)
        if message is not None:
            check_text("message", message)
            self._answer(partial(self._talk.ask, message))
            return True
        with interrupts_noted():
            reply = run_command(self._state, line)
            _tell(reply)
        if reply.next == "retry":
            self._answer(self._talk.retry)
        return reply.next != "end"

    def _answer(self, ask: Ask) -> None:
        """Until the model has said what it has to say, calls of tools included."""
        self._turn(ask)
        while calls := self._talk.open_calls:
            results = self._results(calls)
            if results is None:
                self._talk.drop_calls()
                _say("No result; the call is not kept.")
                return
            self._turn(partial(self._talk.give_results, results))

    def _turn(self, ask: Ask) -> None:
        printer = answer_printer(raw=self._talk.raw, markdown=self._state.display.markdown)
        with interrupts_noted() as interrupted:
            try:
                turn = ask(printer, interrupted)
            except PromptTooLongError as error:
                raise RequestError(
                    error.message,
                    hint="/clear forgets the conversation; --context-overflow shift goes on without its oldest part.",
                ) from error
            finally:
                printer.end()
            self._tell_turn(turn)
            if out.is_terminal:
                out.print()

    def _tell_turn(self, turn: Turn) -> None:
        tell_dropped(turn)
        if turn.stopped:
            kept = "What was said so far is kept" if turn.kept else "Nothing was said yet, so the message is not kept"
            _say(f"Stopped. {kept}; /retry answers again.")
        tell_cut(self._talk, turn)
        if self._state.display.stats:
            used = turn.completion.prompt_tokens + len(turn.completion.token_ids)
            _say(told_speed(turn, max(0, self._talk.context - used)))

    def _results(self, calls: Sequence[Message]) -> list[str] | None:
        """What each call returned, as the user says; None where one has no result."""
        _say("Type what each call returned; nothing, or Ctrl-C, goes on without.")
        results = []
        for call in calls:
            try:
                result = unquoted(self._reader.read_result(call["function"]["name"]))
            except (EOFError, LineDroppedError):
                return None
            if not result.strip():
                return None
            check_text("result", result)
            results.append(result)
        return results


def _reader() -> Reader:
    """For a terminal that can move its cursor, one that edits lines."""
    if not sys.stdin.isatty() or not out.is_terminal or out.is_dumb_terminal:
        return LineReader()
    from landrace.cli.chat.editing import TerminalReader
    from landrace.cli.chat.history import FILE_NAME

    return TerminalReader(default_home() / FILE_NAME)


def _tell(reply: Reply) -> None:
    for paired, lines in groupby(reply.told, lambda one: isinstance(one, tuple)):
        if paired:
            table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
            table.add_column(no_wrap=True, style="bold")
            table.add_column(overflow="fold")
            for one in lines:
                table.add_row(*one)
            err.print(table)
        else:
            for line in "\n".join(map(str, lines)).split("\n"):
                err.print(styled((line, "dim")))


def _say(text: str) -> None:
    err.print(styled((text, "dim")))


def check_text(what: str, text: str) -> None:
    """RequestError for bytes that were no text in the encoding they came in; Python keeps them as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            f"The {what} is not valid text in this terminal's encoding: character {error.start + 1} cannot be read.",
            field="prompt",
            hint="Convert it to UTF-8, or set PYTHONIOENCODING to the encoding it has.",
        ) from None


def tell_cut(talk: Conversation, turn: Turn) -> None:
    if turn.completion.finish_reason != "length":
        return
    cut = "The answer" if talk.guide is None else "The answer was cut before it was whole: it"
    full = len(turn.completion.token_ids) < talk.params.max_tokens
    _say(f"{cut} reached {'the end of the context; /clear forgets what was said' if full else 'max_tokens'}.")


def tell_dropped(turn: Turn) -> None:
    if turn.completion.dropped_tokens:
        _say(f"The model went on without {turn.completion.dropped_tokens} tokens from the beginning.")
