"""An answer in Markdown, shown on a terminal while it comes.

Text is shown word by word, code line by line, a table when it is whole. Line breaks stay as the model wrote them, and
what is no Markdown stays as it is.
"""

from __future__ import annotations

import re
from typing import Protocol

from rich.cells import cell_len
from rich.console import RenderableType
from rich.style import Style

from landrace.cli.chat.code_block import FENCE, CodeBlock
from landrace.cli.chat.inline import PLAIN, spans
from landrace.cli.chat.table_block import table_of
from landrace.cli.chat.wrapping import WrappedText

_DIM = Style(dim=True)
_BULLET = Style(color="cyan")
_HEADINGS = {1: Style(bold=True, underline=True), 2: Style(bold=True)}
_DEEPER = Style(bold=True, italic=True)
_QUOTE = re.compile(r" {0,3}> ?")
_QUOTES = re.compile(r"( {0,3}> ?)*")
_FENCE = re.compile(r" *(```|~~~)")
_HEADING = re.compile(r" {0,3}(#{1,6}) +")
_ITEM = re.compile(r" *([-*+]|\d{1,9}[.)]) +(?=[^\s])")
_RULE = re.compile(r" {0,3}([-*_])( *\1){2,} *")
_UNDECIDED = re.compile(r" *(#{0,6} *|`{0,2}|~{0,2}|\d{1,9}[.)]? *|[+] *|([-*_])( *\2)* *)")
"""The beginning of a line that may become one of several things yet."""
_WHOLE = re.compile(r" *(\||```|~~~)")
"""The beginning of a line that says what it is at its end."""


class Screen(Protocol):
    """What Markdown is shown on."""

    def put(self, text: str, style: Style) -> None: ...

    def show(self, block: RenderableType) -> None:
        """Something that takes lines of its own."""

    def wait(self, text: str) -> None:
        """A word on what is held back, in place of the last one, until anything else is put."""

    @property
    def width(self) -> int: ...

    @property
    def unicode(self) -> bool:
        """Whether its encoding has the signs of lists and quotes."""


class MarkdownText:
    """Takes text in any pieces, which change nothing of what is shown."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._words = WrappedText(screen.put, lambda: screen.width)
        self._line = ""
        """What has come of the line and is not shown."""
        self._begun = False
        """Whether it is known what the line is, and its text is shown as it comes."""
        self._style = PLAIN
        self._last = ""
        """The last character of the line that is done with, a mark's included."""
        self._code: CodeBlock | None = None
        self._table: list[str] = []

    def push(self, text: str) -> None:
        first, *others = text.split("\n")
        self._add(first)
        for part in others:
            self._end_line()
            self._add(part)

    def end(self) -> None:
        """Nothing more comes."""
        if self._line or self._begun:
            self._show_line()
        self._end_table()
        self._words.end()

    def _add(self, part: str) -> None:
        self._line += part
        if not self._line or self._code is not None:
            return
        if not self._begun:
            rest = _QUOTES.sub("", self._line, count=1)
            if _UNDECIDED.fullmatch(rest) or _WHOLE.match(rest):
                return
            self._begin()
        self._stream(whole=False)

    def _end_line(self) -> None:
        self._show_line()
        if not self._table:
            self._words.line()
        self._line, self._begun, self._style, self._last = "", False, PLAIN, ""
        self._words.hang("")

    def _show_line(self) -> None:
        """The whole line, or what is left of it."""
        if self._code is not None:
            self._show_code(self._code)
        elif not self._begun and self._line.lstrip().startswith("|"):
            self._table.append(self._line)
            self._screen.wait(f"a table, line {len(self._table)}")
            self._line = ""
        elif not self._begun and _FENCE.match(self._line):
            self._end_table()
            self._code = CodeBlock(self._line)
            self._put_line(FENCE)
        elif not self._begun and _RULE.fullmatch(self._line):
            self._end_table()
            sign = "\u2500" if self._screen.unicode else "-"
            self._screen.put(sign * min(self._screen.width, 40), _DIM)
            self._line = ""
        else:
            if not self._begun:
                self._begin()
            self._stream(whole=True)

    def _show_code(self, block: CodeBlock) -> None:
        if block.closes(self._line):
            self._code = None
            self._put_line(FENCE)
            return
        for text, style in block.line(self._line):
            self._screen.put(text, style)
        self._line = ""

    def _put_line(self, style: Style) -> None:
        self._screen.put(self._line, style)
        self._line = ""

    def _begin(self) -> None:
        """Shows what the line begins with, and knows how its text is shown."""
        self._end_table()
        self._begun = True
        if not self._line.strip():
            return
        hanging = ""
        while (quote := _QUOTE.match(self._line)) is not None:
            bar = "\u2502 " if self._screen.unicode else "| "
            self._words.write(bar.rstrip(), _DIM)
            self._words.write(" ")
            hanging += bar
            self._line = self._line[quote.end() :]
        if (heading := _HEADING.match(self._line)) is not None:
            self._style = _HEADINGS.get(len(heading[1]), _DEEPER)
            self._line = self._line[heading.end() :]
        elif (item := _ITEM.match(self._line)) is not None:
            sign = "\u2022" if item[1] in "-*+" and self._screen.unicode else item[1]
            shown = item[0].replace(item[1], sign, 1)
            lead = len(shown) - len(shown.lstrip(" "))
            self._words.write(shown[:lead])
            self._words.write(sign, _BULLET)
            self._words.write(shown[lead + len(sign) :])
            hanging += " " * cell_len(shown)
            self._line = self._line[item.end() :]
        else:
            hanging += " " * (len(self._line) - len(self._line.lstrip(" ")))
        self._words.hang(hanging, _DIM)

    def _stream(self, *, whole: bool) -> None:
        line = self._line
        found, self._line = spans(line, self._style, whole=whole, before=self._last)
        self._last = line[: len(line) - len(self._line)][-1:] or self._last
        for text, style in found:
            self._words.write(text, style)

    def _end_table(self) -> None:
        lines, self._table = self._table, []
        if not lines:
            return
        table = table_of(lines, self._screen.width)
        if table is not None:
            self._screen.show(table)
            return
        for line in lines:
            for text, style in spans(line)[0]:
                self._words.write(text, style)
            self._words.line()
