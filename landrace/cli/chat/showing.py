"""An answer as it comes: thoughts apart from what is said, calls of tools as a reader can check them."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Protocol

from rich.console import RenderableType
from rich.segment import Segment, Segments
from rich.style import Style

from landrace.cli.chat.inline import PLAIN
from landrace.cli.chat.markdown import MarkdownText
from landrace.cli.chat.wrapping import WrappedText
from landrace.cli.console import carries_unicode, out, styled
from landrace.safe_text import ShownStream, shown_line

if TYPE_CHECKING:
    from landrace.cli.chat.conversation import Turn
    from landrace.engine import StepOutput
    from landrace.text.answers import ToolCall

_DIM = Style(dim=True)
_BORDER = "\n\n---\n\n"
"""Between thought and answer, where nothing else shows them apart."""


class AnswerPrinter(Protocol):
    """Takes what each step brought."""

    def __call__(self, output: StepOutput) -> None: ...

    def end(self) -> None:
        """Nothing more comes: ends the line, if there is one."""


def answer_printer(*, raw: bool, markdown: bool = True) -> AnswerPrinter:
    """As it is for a file or a pipe; for a terminal with what it would obey made visible, and where it has styles, in
    them. `raw`: what comes is text, and no answer to a chat."""
    if not out.is_terminal or out.is_dumb_terminal:
        return PlainPrinter(raw=raw, as_is=not out.is_terminal)
    return StyledPrinter(raw=raw, markdown=markdown and not raw)


class PlainPrinter:
    """Writes an answer as it is."""

    def __init__(self, *, raw: bool, as_is: bool) -> None:
        self._raw = raw
        self._as_shown = str if as_is else ShownStream()
        self._in_thought, self._written = False, False

    def __call__(self, output: StepOutput) -> None:
        reasoning, content, calls = _parts(output, raw=self._raw)
        for text, thought in ((reasoning, True), (content, False)):
            if text:
                self._write(text, thought=thought)
        for call in calls:
            line = json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False)
            self._write(f"\n{line}" if self._written and not self._in_thought else line, thought=False)
        sys.stdout.flush()

    def end(self) -> None:
        if self._in_thought:
            sys.stdout.write(_BORDER.rstrip())
        if self._written:
            sys.stdout.write("\n")
        sys.stdout.flush()

    def _write(self, text: str, *, thought: bool) -> None:
        if thought != self._in_thought:
            sys.stdout.write("" if thought else _BORDER)
            self._in_thought = thought
        sys.stdout.write(self._as_shown(text))
        self._written = True


class StyledPrinter:
    """Shows an answer on a terminal: thoughts dimmed, Markdown as it is meant."""

    def __init__(self, *, raw: bool, markdown: bool) -> None:
        self._raw = raw
        self._safe = ShownStream()
        self._screen = ConsoleScreen()
        self._thoughts = Lines(self._screen, _DIM)
        self._content = MarkdownText(self._screen) if markdown else Lines(self._screen, PLAIN, wraps=False)
        self._in_thought = False

    def __call__(self, output: StepOutput) -> None:
        reasoning, content, calls = _parts(output, raw=self._raw)
        if reasoning:
            self._in_thought = True
            self._thoughts.push(self._safe(reasoning))
        if content:
            self._end_thought()
            self._content.push(self._safe(content))
        for call in calls:
            self._end_thought()
            self._end_line()
            self._screen.show(styled(("call ", "cyan"), (call.name, "bold"), _arguments(call)))
        sys.stdout.flush()

    def end(self) -> None:
        if self._in_thought:
            self._thoughts.end()
        self._end_line()
        sys.stdout.flush()

    def _end_thought(self) -> None:
        if self._in_thought:
            self._thoughts.end()
            self._screen.put("\n\n", PLAIN)
            self._in_thought = False

    def _end_line(self) -> None:
        self._content.end()
        if not self._screen.at_beginning:
            self._screen.put("\n", PLAIN)


class Lines:
    """Text in one style, by words if it `wraps`."""

    def __init__(self, screen: ConsoleScreen, style: Style, *, wraps: bool = True) -> None:
        self._screen, self._style = screen, style
        self._words = WrappedText(screen.put, lambda: screen.width) if wraps else None

    def push(self, text: str) -> None:
        if self._words is None:
            self._screen.put(text, self._style)
            return
        first, *others = text.split("\n")
        self._words.write(first, self._style)
        for line in others:
            self._words.line()
            self._words.write(line, self._style)

    def end(self) -> None:
        if self._words is not None:
            self._words.end()


class ConsoleScreen:
    """Standard output, where it is a terminal."""

    def __init__(self) -> None:
        self.at_beginning = True
        """Whether the next character is the first of its line."""
        self._waiting = False

    @property
    def width(self) -> int:
        return out.width

    @property
    def unicode(self) -> bool:
        return carries_unicode(sys.stdout)

    def put(self, text: str, style: Style) -> None:
        self._resume()
        out.print(Segments([Segment(text, style)]), end="", soft_wrap=True)
        self.at_beginning = text.endswith("\n")

    def show(self, block: RenderableType) -> None:
        self._resume()
        out.print(block)
        self.at_beginning = True

    def wait(self, text: str) -> None:
        self._resume()
        out.print(styled((text, "dim")), end="")
        out.file.flush()
        self._waiting = True

    def _resume(self) -> None:
        if self._waiting:
            out.file.write("\r\x1b[K")
            self._waiting = False


def told_speed(turn: Turn, left: int | None) -> str:
    """How fast an answer came, and how much of the context is left."""
    done = turn.completion
    n_tokens = len(done.token_ids)
    writing = turn.seconds - turn.first_seconds
    parts = [f"{n_tokens:,} tokens"]
    if n_tokens > 1 and writing > 0:
        parts.append(f"{(n_tokens - 1) / writing:.1f} tokens/s")
    parts.append(f"first after {turn.first_seconds:.2f} s")
    again = f" ({done.cached_prompt_tokens:,} of them kept from before)" if done.cached_prompt_tokens else ""
    parts.append(f"prompt {done.prompt_tokens:,}{again}")
    if left is not None:
        parts.append(f"{left:,} tokens of context left")
    return ", ".join(parts)


def _parts(output: StepOutput, *, raw: bool) -> tuple[str, str, tuple[ToolCall, ...]]:
    from landrace.text.answers import Parts

    parts = Parts("", output.text, ()) if raw else Parts.of(output.events)
    return parts.reasoning, parts.content, parts.calls


def _arguments(call: ToolCall) -> str:
    values = (f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in call.arguments.items())
    return shown_line(f"({', '.join(values)})")
