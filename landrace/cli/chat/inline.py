"""Emphasis and code within a line of Markdown, told from what only looks like it."""

from __future__ import annotations

import re

from rich.style import Style

LONGEST_OPEN = 400
"""Characters for which a mark waits for the one that closes it."""
CODE = Style(color="cyan")
PLAIN = Style()
_BOLD, _ITALIC, _STRIKE = Style(bold=True), Style(italic=True), Style(strike=True)
_STYLES = {
    "*": _ITALIC,
    "_": _ITALIC,
    "**": _BOLD,
    "***": _BOLD + _ITALIC,
    "~~": _STRIKE,
}
_ANYWHERE = ("**", "***", "~~")
"""Marks that may stand within a word, as they do in text without spaces."""
_MARK = re.compile(r"\\|`+|\*+|_+|~+")
_BACKQUOTES = re.compile("`+")
_ESCAPABLE = "\\`*_~#|"

Span = tuple[str, Style]


def spans(text: str, style: Style = PLAIN, *, whole: bool = True, before: str = "") -> tuple[list[Span], str]:
    """Text in its styles, and what waits for more of the line unless this is the `whole` rest of it.

    A mark without a partner is text. `before`: the character before `text`.
    """
    found: list[Span] = []
    at = 0
    while (match := _MARK.search(text, at)) is not None:
        start, mark = match.start(), match[0]
        if start > at:
            found.append((text[at:start], style))
            before = text[start - 1]
        if match.end() == len(text) and not whole:
            return found, text[start:]  # the mark itself may go on
        inner, end = _inside(text, start, mark, before, len(text) + whole)
        if inner is None:
            if not whole and _opens(text, match.end(), mark, before) and len(text) - start < LONGEST_OPEN:
                return found, text[start:]
            inner, end = [(mark, style)], match.end()
        else:
            inner = [(part, style + own) for part, own in inner]
        found += inner
        at, before = end, text[end - 1]
    if at < len(text):
        found.append((text[at:], style))
    return found, ""


def _inside(text: str, start: int, mark: str, before: str, until: int) -> tuple[list[Span] | None, int]:
    """What the mark at `start` and its partner enclose, and where that ends; None where it has none that ends
    before `until`."""
    inside = start + len(mark)
    if mark == "\\":
        following = text[inside : inside + 1]
        return ([(following, PLAIN)], inside + 1) if following and following in _ESCAPABLE else (None, inside)
    if not _opens(text, inside, mark, before):
        return None, inside
    end = _code_end(text, inside, mark, until) if mark[0] == "`" else _end(text, inside, mark, until)
    if end is None:
        return None, inside
    inner = text[inside:end]
    if mark[0] == "`":
        if len(inner) > 2 and inner[0] == inner[-1] == " " and inner.strip():
            inner = inner[1:-1]
        return [(inner, CODE)], end + len(mark)
    return spans(inner, _STYLES[mark])[0], end + len(mark)


def _opens(text: str, inside: int, mark: str, before: str) -> bool:
    """Whether a mark can open something. Products and names in prose do not: 2*3*4, max_new_tokens."""
    if mark[0] == "`":
        return True
    following = text[inside : inside + 1]
    if mark not in _STYLES or not following or following.isspace():
        return False
    return mark in _ANYWHERE or not _in_word(before, mark)


def _code_end(text: str, at: int, mark: str, until: int) -> int | None:
    runs = (match for match in _BACKQUOTES.finditer(text, at) if match[0] == mark and match.end() < until)
    return next((match.start() for match in runs), None)


def _end(text: str, at: int, mark: str, until: int) -> int | None:
    """Where the partner of `mark` stands, outside of code."""
    first = at
    while (match := _MARK.search(text, at)) is not None:
        at = match.end()
        if match[0] == "\\":
            at += 1
        elif match[0][0] == "`":
            end = _code_end(text, at, match[0], until)
            if end is None and until == len(text):
                return None  # what follows may close it
            at = at if end is None else end + len(match[0])
        elif match[0] == mark and match.start() > first and _closes(text, match.start(), at, mark):
            return match.start() if at < until else None
    return None


def _closes(text: str, start: int, after: int, mark: str) -> bool:
    return not text[start - 1].isspace() and (mark in _ANYWHERE or not _in_word(text[after : after + 1], mark))


def _in_word(beside: str, mark: str) -> bool:
    """Whether the character on the far side of a mark makes it part of a word."""
    return beside.isalnum() if mark[0] == "_" else beside.isalnum() and beside.isascii()
