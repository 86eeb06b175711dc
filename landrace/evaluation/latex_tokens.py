"""The tokens of a mathematical answer in LaTeX, Unicode or plain text."""

from __future__ import annotations

import re

from landrace.evaluation.numbers import ascii_digits, decimal_comma

_FUNCTION_NAMES = """
sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log lg exp sqrt abs min max gcd lcm
"""
FUNCTIONS = frozenset(_FUNCTION_NAMES.split())
CONSTANTS = {"pi": "pi", "e": "e", "i": "i", "infty": "inf", "inf": "inf", "infinity": "inf", "oo": "inf"}
_UNICODE = str.maketrans(
    {
        "−": "-",
        "–": "-",
        "×": "\\times ",
        "·": "\\cdot ",
        "⋅": "\\cdot ",
        "÷": "\\div ",
        "π": "\\pi ",
        "∞": "\\infty ",
        "≤": "\\le ",
        "≥": "\\ge ",
        "≠": "\\ne ",
        "∪": "\\cup ",
        "∩": "\\cap ",
        "∅": "\\emptyset ",
        "±": "\\pm ",
        "∈": "\\in ",
        "√": "\\sqrt ",
        "²": "^2",
        "³": "^3",
        "½": "\\frac12 ",
        "¼": "\\frac14 ",
        "¾": "\\frac34 ",
        "⅓": "\\frac13 ",
        "⅔": "\\frac23 ",
        "°": "^\\circ ",
        "θ": "\\theta ",
        "α": "\\alpha ",
        "β": "\\beta ",
        "λ": "\\lambda ",
        "（": "(",
        "）": ")",
        "ℝ": "\\mathbb{R}",
        "\u00a0": " ",
        "\u202f": " ",
        "\u2009": " ",
    }
)
_SPACING = re.compile(
    r"\\(?:left|right|displaystyle|limits|quad|qquad|[bB]igg?[lr]?)(?![a-zA-Z])|\\[!;:> ]|(?<!\\)~|\$|\\(?=\$)"
)
_THIN = re.compile(r"(?<=\d)(?:\\[,;:! ]|\{,\}|(?<=\d)\ )(?=\d{3}(?!\d))")
_TOKEN = re.compile(
    r"""\s*(?:
    (?P<repeating>\d*\.\d*(?:\\overline|\\bar|\\dot)\s*\{?\d+\}?|\d*\.\d*\(\d+\))
    |(?P<number>\d+(?:\.\d+)?|\.\d+)
    |(?P<text>\\(?:text|textbf|mathrm|mathbf|mbox|operatorname)\s*\{[^{}]*\})
    |(?P<begin>\\begin\s*\{[a-zA-Z]*\}(?:\{[lcr|]*\})?)|(?P<end>\\end\s*\{[a-zA-Z]*\})
    |(?P<blackboard>\\mathbb\s*\{?[A-Z]\}?)
    |(?P<command>\\[a-zA-Z]+|\\[{}|\\%,])
    |(?P<word>[a-zA-Z]+)
    |(?P<sign>[-+*/^_=<>(){}\[\]|,;!%&'])
    )""",
    re.VERBOSE,
)


class ParseError(ValueError):
    """Not a mathematical expression that the parser knows."""


def prepared(text: str, language: str) -> str:
    text = ascii_digits(text).translate(_UNICODE)
    text = re.sub(r"\\[dtc]frac", r"\\frac", text)
    comma = decimal_comma(language)
    text = _THIN.sub("", text)
    text = re.sub(r"(?<=\d)\{,\}(?=\d)", ".", text)
    if comma and re.fullmatch(r"[^(\[{]*", text) and "\\{" not in text:
        text = re.sub(r"(?<=\d),(?=\d)", ".", text)
    elif not re.search(r"[(\[]|\\\{", text):
        text = re.sub(r"(?<![\d,])(\d{1,3}(?:,\d{3})+)(?![\d,])", lambda match: match[1].replace(",", ""), text)
    text = re.sub(r"\\,", " ", text)
    return _SPACING.sub(" ", text).strip().rstrip(".,;: ")


def tokens(text: str) -> list[tuple[str, str]]:
    found, place = [], 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if not match:
            if not text[place:].strip():
                break
            raise ParseError(f"unknown sign {text[place]!r}")
        kind = match.lastgroup or ""
        value = match[kind]
        if kind == "word":
            found += _words(value)
        elif kind == "command" and value[1:] in FUNCTIONS:
            found.append(("function", value[1:]))
        elif kind == "command" and value[1:] in ("lbrace", "rbrace"):
            found.append(("command", "\\{" if value == "\\lbrace" else "\\}"))
        else:
            found.append((kind, value))
        place = match.end()
    return found


def _words(word: str) -> list[tuple[str, str]]:
    if word in FUNCTIONS:
        return [("function", word)]
    if word in ("or", "and"):
        return [("text", f"\\text{{{word}}}")]
    if word in CONSTANTS and len(word) > 1:
        return [("constant", word)]
    if len(word) > 2:
        return [("text", f"\\text{{{word}}}")]
    return [("letter", letter) for letter in word]
