"""Markdown on a terminal while it comes: what is shown, and that nothing of a text is lost, however it is cut."""

from __future__ import annotations

import io
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.style import Style

from landrace.cli.chat.inline import spans
from landrace.cli.chat.markdown import MarkdownText
from landrace.cli.chat.wrapping import WrappedText

SAMPLE = """# Heading

Some **bold** text, *italic*, `co**de`, 2*3*4, max_new_tokens, __init__, an unclosed *star.

- item one that is long enough to be continued on another line
  - nested *item*
12. twelve
> quoted text that is long enough to be continued, with **bold** words

```python
def f(x):
    \"\"\"Two
    lines\"\"\"
    return x  # done
```

| name | 数量 |
|:-----|-----:|
| alpha | **12** |
| 中文 | a \\| b |

中文段落没有空格,需要在任何字符之间换行。**重点**内容。
---
"""


class Page:
    """A screen of so many columns, and what was put on it."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.unicode = True
        self.parts: list[tuple[str, Style]] = []
        self.waits: list[str] = []

    def put(self, text: str, style: Style) -> None:
        self.parts.append((text, style))

    def show(self, block: RenderableType) -> None:
        console = Console(width=self.width, file=io.StringIO(), color_system=None)
        with console.capture() as capture:
            console.print(block)
        self.parts.append((capture.get(), Style()))

    def wait(self, text: str) -> None:
        self.waits.append(text)

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.parts)

    def styled(self, **wanted: bool) -> str:
        """The text in a style."""
        (name,) = wanted
        return "".join(text for text, style in self.parts if getattr(style, name))


def shown(text: str, width: int = 80, pieces: int = 0) -> Page:
    """`text` on a page, pushed in so many random pieces."""
    page = Page(width)
    markdown = MarkdownText(page)
    cuts = sorted(random.Random(pieces).choices(range(len(text) + 1), k=pieces))
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        markdown.push(text[start:end])
    markdown.end()
    return page


@pytest.mark.parametrize("width", [12, 40, 200])
def test_pieces_change_nothing(width: int) -> None:
    whole = shown(SAMPLE, width)
    for pieces in (5, 40, 400):
        assert shown(SAMPLE, width, pieces).text == whole.text


def test_a_page() -> None:
    page = shown(SAMPLE, 40)
    lines = page.text.split("\n")
    assert lines[0] == "Heading"
    assert page.styled(bold=True).startswith("Headingbold")
    assert "2*3*4, max_new_tokens, __init__" in page.text.replace("\n", " ")
    assert "an unclosed *star." in page.text.replace("\n", " ")
    assert "\u2022 item one that is long enough to be\n  continued on another line\n" in page.text
    assert "  \u2022 nested item\n12. twelve\n" in page.text
    assert "\u2502 quoted text that is long enough to be\n\u2502 continued, with bold words\n" in page.text
    assert '```python\ndef f(x):\n    """Two\n    lines"""\n    return x  # done\n```\n' in page.text
    assert [line.rstrip() for line in lines if "alpha" in line or "\u4e2d\u6587 " in line] == [
        "alpha      12",
        "中文    a | b",
    ]
    assert all(cell_len(line) <= 40 for line in lines)


def test_code_has_colours_and_stays_as_it_is() -> None:
    code = 'x = """a\nb"""\n\tif  y:\n\n' + "z = 1  # " + "long " * 60
    page = shown(f"```py\n{code}\n```\n", 30)
    assert page.text == f"```py\n{code}\n```\n"
    assert any(style.color for _, style in page.parts)
    unknown = shown(f"~~~no-such-language\n{code}\n~~~", 30)
    assert unknown.text == f"~~~no-such-language\n{code}\n~~~"


@pytest.mark.parametrize("text", ["| a | b |\n| c", "| just a bar", "|", "|x|\n|--|--|\n", "a | b\n- | -"])
def test_what_is_no_table_is_text(text: str) -> None:
    assert re.sub(r"\s", "", shown(text).text.replace("\u2022", "-")) == re.sub(r"\s", "", text)


def test_a_table_on_a_narrow_terminal_is_a_list() -> None:
    rows = "| a | b | c | d |\n|---|---|---|---|\n| 1 | 2 | 3 | 4 |\n| 5 |\n"
    assert shown(rows, 20).text == "a: 1\nb: 2\nc: 3\nd: 4\n\na: 5\nb: \nc: \nd: \n"
    waits = shown(rows, 80).waits
    assert waits == [f"a table, line {n}" for n in range(1, 5)]


@given(st.text(alphabet="ab *_`~#>-+|1.)\\\n\u4e2d\u3002\u0e01", max_size=60), st.integers(1, 20), st.integers(0, 9))
@settings(max_examples=300, deadline=None)
def test_no_letter_is_lost(text: str, width: int, pieces: int) -> None:
    """Marks may go; what they stand beside may not."""
    page = shown(text, width, pieces)
    letters = "[^ab1\u4e2d\u3002\u0e01]"
    assert re.sub(letters, "", page.text.replace("a table, line", "")) == re.sub(letters, "", text)
    assert shown(text).text == shown(text, pieces=pieces).text


@given(st.text(alphabet="ab *_`~\\", max_size=40), st.integers(0, 40))
@settings(max_examples=300, deadline=None)
def test_inline_marks_wait_for_their_partner(text: str, cut: int) -> None:
    whole, rest = spans(text)
    assert rest == ""
    beginning = text[:cut]
    first, waiting = spans(beginning, whole=False)
    before = beginning[: len(beginning) - len(waiting)][-1:]
    more, _ = spans(waiting + text[cut:], before=before)
    assert "".join(part for part, _ in [*first, *more]) == "".join(part for part, _ in whole)


def test_a_mark_does_not_wait_for_ever() -> None:
    found, rest = spans("*" + "a" * 1000, whole=False)
    assert (found[0][0], rest) == ("*", "")


@given(
    st.lists(st.text(alphabet="ab \u4e2d\u3002\uff0c\u0e01\u0e34\U0001f469", max_size=12), max_size=12),
    st.integers(2, 15),
)
@settings(max_examples=300, deadline=None)
def test_words_fit_the_terminal(pieces: list[str], width: int) -> None:
    put: list[str] = []
    words = WrappedText(lambda text, _: put.append(text), lambda: width)
    for piece in pieces:
        words.write(piece)
    words.end()
    lines = "".join(put).split("\n")
    assert re.sub(r"\s", "", "".join(lines)) == re.sub(r"\s", "", "".join(pieces))
    longest = max(map(cell_len, re.findall(r"[^\s\u4e2d]+", "".join(pieces))), default=0)
    if longest + 2 < width:  # what is wider, the terminal breaks
        assert all(cell_len(line) <= width for line in lines)
        begun = re.findall("(?<=\\s)[\u3002\uff0c\u0e34]", " ".join(pieces))
        assert begun or not any(re.match("[\u3002\uff0c\u0e34]", line) for line in lines[1:])


def test_a_terminal_that_changes_its_size() -> None:
    width, put = [40], []
    words = WrappedText(lambda text, _: put.append(text), lambda: width[0])
    words.write("one two three four five six ")
    width[0] = 10
    words.write("seven eight nine ten")
    words.end()
    assert "".join(put) == "one two three four five six\nseven\neight nine\nten"
