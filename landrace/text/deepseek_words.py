"""How DeepSeek's first vocabularies cut text, as the patterns that their files name, and as one pattern each.

Five and six patterns, each over what the one before it left, take most of the time in which a text becomes tokens, and
`\\s+$` takes the square of the length of a run of spaces. One pattern finds the same pieces in a third of the time and
in time linear in the length. It needs classes of characters that no two of the patterns share, since a piece of one
pattern is cut again by those behind it:

- a word takes one white space before it, and is cut where its characters change between `_FAR` and others;
- so the white space before a word stays with its first characters only where both are in `_FAR` or neither is.

`_N` names characters outside `_FAR` (near), `_F` those in it.
"""

from __future__ import annotations

_FAR = r"\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}"
"""Han, Hangul, and much else from Devanagari to general punctuation."""
_LINE = r"[\r\n]"

CODER = (_LINE, r"\s?\p{L}+", r"\s?\p{P}+", f"[{_FAR}]+", r"\p{N}")

_SPACE_N, _SPACE_F = rf"[\s&&[^\r\n{_FAR}]]", rf"[\s&&[{_FAR}]]"
_LETTER_N, _LETTER_F = rf"[\p{{L}}&&[^{_FAR}]]", rf"[\p{{L}}&&[{_FAR}]]"
_STOP_N, _STOP_F = rf"[\p{{P}}&&[^{_FAR}]]", rf"[\p{{P}}&&[{_FAR}]]"
_OTHER_F = rf"[{_FAR}&&[^\p{{L}}\p{{P}}\p{{N}}\s]]"

CODER_WHOLE = "|".join(
    (
        f"{_SPACE_N}?{_LETTER_N}+",
        f"{_SPACE_N}?{_STOP_N}+",
        _LINE,
        f"{_SPACE_F}?{_LETTER_F}+",
        f"{_SPACE_F}?{_STOP_F}+",
        r"\p{N}",
        f"{_SPACE_F}(?={_LETTER_N}|{_STOP_N})",
        f"{_SPACE_N}(?={_LETTER_F}|{_STOP_F})",
        rf"(?:{_OTHER_F}|{_SPACE_F}(?![\p{{L}}\p{{P}}]))+",
    )
)

_CASED = (
    r"A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}\x{295}-\x{2AF}"
    r"\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}"
    r"\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}"
    r"\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}"
    r"\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}"
    r"\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}"
    r"\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}"
    r"\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}"
    r"\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}"
    r"\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F}\x{A771}-\x{A787}"
    r"\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}"
    r"\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}"
    r"\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}"
)
_QUOTED = r"!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}"
"""Punctuation, and the letters of ASCII, which makes a step of its own between those and other letters."""

LLM = (_LINE, rf"\s?[{_CASED}]+", rf"\s?[{_QUOTED}]+", r"\s+$", f"[{_FAR}]+", r"\p{N}+")

# The ideographic space is white space and punctuation: before a letter it is one, else the other.
_WIDE = r"\x{3000}"
_WIDE_STOP = rf"(?:{_WIDE}(?![{_CASED}]))"
_BLANK_N, _BLANK_F, _BLANK = _SPACE_N, rf"[\s&&[{_FAR}]&&[^{_WIDE}]]", rf"[\s&&[^\r\n{_WIDE}]]"
_ASCII, _CASED_N, _CASED_F = rf"[{_CASED}&&[{_QUOTED}]]", rf"[{_CASED}&&[^{_QUOTED}{_FAR}]]", rf"[{_CASED}&&[{_FAR}]]"
_QUOTED_N, _QUOTED_F = rf"[{_QUOTED}&&[^{_CASED}{_FAR}\s]]", rf"[{_QUOTED}&&[{_FAR}]&&[^\s]]"
_DIGIT_N, _DIGIT_F = rf"[\p{{N}}&&[^{_FAR}]]", rf"[\p{{N}}&&[{_FAR}]]"
_REST_N, _REST_F = rf"[^{_CASED}{_QUOTED}{_FAR}\s\p{{N}}]", rf"[{_FAR}&&[^{_CASED}{_QUOTED}\s\p{{N}}]]"
_WORD = rf"(?:[{_CASED}{_QUOTED}&&[^{_WIDE}]]|{_WIDE_STOP})"
"""What takes the white space before it."""
_NO_WORD = rf"[^\s{_CASED}{_QUOTED}]"


def _rest(blank: str, rest: str) -> tuple[str, str]:
    """What is no word, with the white space in it; and white space at its end, which `\\s+$` parts from it."""
    return (
        f"(?:{blank}*+{rest})++(?:{blank}++(?={_BLANK}*+{_NO_WORD}))?",
        f"(?:{blank}(?!{_WORD}))++",
    )


_REST_OF_N, _END_N = _rest(_BLANK_N, _REST_N)
_REST_OF_F, _END_F = _rest(_BLANK_F, _REST_F)

LLM_WHOLE = "|".join(
    (
        f"{_BLANK_N}?{_ASCII}+",
        f"{_BLANK_N}?{_CASED_N}+",
        f"{_BLANK_N}?{_QUOTED_N}+",
        f"{_DIGIT_N}+",
        _LINE,
        f"{_BLANK_F}?{_CASED_F}+",
        _REST_OF_F,
        f"{_BLANK_F}?(?:{_WIDE_STOP}*+{_QUOTED_F})++(?:{_WIDE_STOP}++(?={_QUOTED_N}))?",
        f"{_BLANK_F}?{_WIDE_STOP}++",
        _WIDE,
        f"{_DIGIT_F}+",
        f"{_BLANK_N}(?={_WORD})",
        f"{_BLANK_F}(?={_WORD})",
        _REST_OF_N,
        _END_N,
        _END_F,
    )
)
