"""How the command line talks: results on stdout, everything else on stderr.

A `str` that is printed here is one line of data: nothing in it is markup, and what a terminal would obey is spelled out
(`landrace/safe_text.py`). `styled` gives parts of a line a style.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterable
from typing import IO, Any, TextIO, cast

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType
from rich.measure import Measurement
from rich.segment import Segment
from rich.style import StyleType
from rich.table import Table
from rich.text import Text

from landrace.errors import LandraceError
from landrace.safe_text import HIDDEN, shown, shown_line
from landrace.training.interrupt import TuneInterrupted

LONGEST_MESSAGE = 2000
"""Characters of an error message; a file may have put more into it than anybody reads."""


class SafeConsole(Console):
    """A console that takes strings, also those in tables, as one line of data each, and never as markup.

    Whatever else is rendered passes through `shown` on its way out, and loses its hyperlinks.
    """

    @property
    def file(self) -> IO[str]:
        return _unguarded(super().file)

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file

    def print(self, *objects: Any, **how: Any) -> None:
        super().print(*(one if isinstance(one, ConsoleRenderable) else str(one) for one in objects), **how)

    def render_str(self, text: str, *, style: StyleType = "", **how: Any) -> Text:
        return Text(shown_line(text), style=style, justify=how.get("justify"), overflow=how.get("overflow"))

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                style = segment.style
                yield Segment(shown(segment.text), style.update_link() if style and style.link else style)

    def on_broken_pipe(self) -> None:
        raise  # the BrokenPipeError that is being handled: `main` gives it its exit status


class GuardedStream(io.TextIOBase):
    """Standard error for everybody else: warnings, logs and tracebacks hold text from outside as well."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(shown(text))
        return len(text)

    def flush(self) -> None:
        self.stream.flush()

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.stream.encoding


def _unguarded(stream: IO[str]) -> IO[str]:
    return stream.stream if isinstance(stream, GuardedStream) else stream


def prepare_streams() -> None:
    """Makes the process's streams survive every text in every encoding. Once, at the start of the command.

    What an output's encoding lacks is spelled out; input that does not fit the encoding becomes lone surrogates, which
    whoever reads it refuses; a stream that was closed from outside is empty.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  for the process's life
    for stream, errors in (
        (sys.stdin, "surrogateescape"),
        (sys.stdout, "backslashreplace"),
        (sys.stderr, "backslashreplace"),
    ):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)
    sys.stderr = cast(io.TextIOWrapper, GuardedStream(sys.stderr))


_LARGEST_WIDTH = 10_000
out = SafeConsole(highlight=False)
err = SafeConsole(stderr=True, highlight=False)


def styled(*parts: str | tuple[object, str]) -> Text:
    """One line of parts: data as it is, or a pair of data and its style."""
    pairs = [part if isinstance(part, tuple) else (part, "") for part in parts]
    return Text.assemble(*((shown_line(str(value)), style) for value, style in pairs))


def print_table(table: Table) -> None:
    """On a terminal as wide as that is; elsewhere as wide as it needs, so that nothing is cut from a file."""
    if out.is_terminal:
        out.print(table)
    else:
        whole = Measurement.get(out, out.options.update(max_width=_LARGEST_WIDTH), table)
        SafeConsole(file=out.file, highlight=False, width=whole.maximum).print(table)


def fail(error: LandraceError) -> None:
    """One sentence and, where there is one, a hint."""
    _say("error:", "bold red", error.message)
    if error.hint:
        _say("hint:", "bold", error.hint)


def note(stop: TuneInterrupted) -> None:
    """An interrupted run says where it was saved and how to go on."""
    err.print()
    _say("stopped:", "bold", stop.message)
    _say("hint:", "bold", stop.hint)


def notice(text: str | None) -> None:
    """What a user should know and need not act on."""
    if text:
        _say("note:", "bold", text)


def _say(head: str, style: str, text: str) -> None:
    # In a log it is one line; on a terminal, words are not broken.
    err.print(styled((head, style), " ", shown_line(text, LONGEST_MESSAGE)), soft_wrap=not err.is_terminal)


def print_json(value: Any) -> None:
    """For scripts: one JSON document on stdout, valid in every encoding and harmless on a terminal; a number that is
    not finite is null."""
    finite = json.loads(json.dumps(value), parse_constant=lambda _: None)
    text = json.dumps(finite, ensure_ascii=not carries_unicode(sys.stdout), indent=2)
    sys.stdout.write(HIDDEN.sub(lambda match: json.dumps(match[0])[1:-1], text) + "\n")


def carries_unicode(stream: IO[str]) -> bool:
    return str(getattr(stream, "encoding", None) or "utf-8").lower().startswith("utf")


def human_bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
