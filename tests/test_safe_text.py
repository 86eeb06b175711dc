"""What is spelled out, what writing systems keep, and that pieces show what the whole shows."""

from __future__ import annotations

import sys
from unicodedata import category

import pytest
from hypothesis import given
from hypothesis import strategies as st

from landrace.safe_text import HIDDEN, ShownStream, shown, shown_line

ODD = st.sampled_from(
    "\x1b[2J\x07\r\n\t \x9b\u200b\u200c\u200d\u200f\u202e\u2066\ufeff\ufe0f\U000e0067\U000e007f\ud800"
)
TEXT = st.text(st.one_of(ODD, st.sampled_from("ab\u05d0\u0645\u0915\u17c1\U0001f3f4\U0001f468\u2764"), st.characters()))

VISIBLE_FORMATS = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD, *range(0x13430, 0x13440)}
"""Signs of Arabic, Syriac, Kaithi and Egyptian: format characters by category, with a picture."""


def test_no_control_or_format_character_is_forgotten() -> None:
    suspects = [
        code
        for code in range(sys.maxunicode + 1)
        if category(chr(code)) in ("Cc", "Cf", "Cs", "Zl", "Zp") and code not in VISIBLE_FORMATS
    ]
    assert len(suspects) > 2000
    assert [code for code in suspects if chr(code) not in "\n\t" and not HIDDEN.match(chr(code))] == []


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\x1b]52;c;aGk=\x07", r"\x1b]52;c;aGk=\x07"),
        ("\x9b2J\x7f\0", r"\x9b2J\x7f\x00"),
        ("done\rfail", r"done\x0dfail"),
        ("a\u2028b\u2029c\x85", r"a\u2028b\u2029c\x85"),
        ("ab\u202egnp.exe\u202c\u2066", r"ab\u202egnp.exe\u202c\u2066"),
        ("smol\u200blm\u200d\ufeff\u2060\u200e", r"smol\u200blm\u200d\ufeff\u2060\u200e"),
        ("hi\U000e0041\U000e0042", r"hi\U000e0041\U000e0042"),
        ("\u2764\ufe0f\ufe0f\ufe0f", "\u2764\ufe0f" + r"\ufe0f\ufe0f"),
        ("bytes \udcff", r"bytes \udcff"),
    ],
)
def test_hidden_characters_are_spelled_out(text: str, safe: str) -> None:
    assert shown(text) == safe
    assert shown_line(text) == safe


@pytest.mark.parametrize(
    "text",
    [
        "two\nlines\tand a tab",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian
        "\u0915\u094d\u200d\u0937 \u0915\u094d\u200c\u0937",  # Hindi
        "\u1797\u17b6\u179f\u17b6\u200b\u1781\u17d2\u1798\u17c2\u179a",  # Khmer
        "\u05e9\u05dc\u05d5\u05dd!\u200f",  # Hebrew
        "\U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f\u200d\U0001f525 \U0001f469\U0001f3fd\u200d\U0001f4bb",
        "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f #\ufe0f\u20e3",
        "\\x1b written out, [bold]brackets[/]",
    ],
)
def test_what_scripts_and_emoji_need_stays(text: str) -> None:
    assert shown(text) == text


def test_a_line_has_no_newline_and_an_end() -> None:
    assert shown_line("a\nb\tc") == r"a\x0ab\x09c"
    assert shown_line("x" * 1_000_000, 10) == "x" * 10 + "... (999,990 more characters)"


@given(TEXT)
def test_what_is_shown_is_safe_and_stays_as_it_is(text: str) -> None:
    once = shown(text)
    assert shown(once) == once
    assert not any(
        category(character) in ("Cc", "Cs", "Zl", "Zp") for character in once.replace("\n", "").replace("\t", "")
    )
    assert not set(once) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")
    assert "\n" not in shown_line(text)


@given(st.lists(TEXT))
def test_pieces_show_what_the_whole_shows(pieces: list[str]) -> None:
    stream = ShownStream()
    assert "".join(map(stream, pieces)) == shown("".join(pieces))
