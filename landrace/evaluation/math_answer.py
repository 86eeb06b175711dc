"""Which formula an answer gives. The rules are told in docs/evaluate.md."""

from __future__ import annotations

import re

from landrace.evaluation.folding import folded
from landrace.evaluation.latex import MAX_LENGTH, Node, parse
from landrace.evaluation.latex_tokens import FUNCTIONS, ParseError
from landrace.evaluation.marked import UNREADABLE, Marked
from landrace.evaluation.maths import same
from landrace.evaluation.reading import Reading, boxed, has_box, refusing

MAX_FORMULAS = 40
_DELIMITERS = (("$$", "$$"), ("\\[", "\\]"), ("\\(", "\\)"), ("$", "$"))
_WORD = re.compile(r"(?<![\\a-zA-Z])[^\W\d_]{2,}")
_PART = (
    r"(?:\\(?:[a-zA-Z]+|[{}%,;!])|\d+(?:[.,]\d+)*|\.\d+|[-+*/^_=<>{}()\[\]|!%√π∞≤≥±×÷·−²³½¼¾]|(?<![a-zA-ZÀ-ɏ])[a-zA-Z](?![a-zA-ZÀ-ɏ])"
    rf"|(?<![a-zA-ZÀ-ɏ])(?:{'|'.join(sorted(FUNCTIONS, key=len, reverse=True))}|pi)(?![a-zA-ZÀ-ɏ]))"
)
_BARE = re.compile(rf"{_PART}(?:\s?{_PART})*")


def read_maths(answer: str, language: str) -> Reading:
    """The LaTeX (or plain) text of the one formula that `answer` gives; what cannot be parsed is not read."""
    if has_box(answer):
        return _parsed(boxed(answer) or "", language)
    formulas = _delimited(answer) or (None if _is_formula(answer, language) else _bare(answer))
    if formulas is None:
        return Reading(answer.strip())
    if not formulas:
        return Reading(None, refused=refusing(folded(answer).text))
    if len(formulas) > MAX_FORMULAS:
        formulas = formulas[-MAX_FORMULAS:]
    return Marked.of(answer, _merged(formulas, language)).answer()


def formula(text: str, language: str) -> Node | None:
    """The tree of a formula, None if it cannot be parsed."""
    try:
        return parse(text, language)
    except (ParseError, RecursionError):
        return None


def _parsed(text: str, language: str) -> Reading:
    return Reading(text if formula(text, language) else None)


def _is_formula(text: str, language: str) -> bool:
    """Whether the answer is a formula (or a word or two, which may be the answer to a question) and nothing else."""
    words = [word for word in _WORD.findall(text) if word.lower() not in FUNCTIONS | {"pi", "or", "and", "und", "oder"}]
    if len(text) > MAX_LENGTH or len(words) > 2 or (words and re.search(r"[=\\]", text)):
        return False
    return formula(text, language) is not None


def _delimited(text: str) -> list[tuple[int, int, str]]:
    """Formulas in dollars or LaTeX brackets, from their opening to behind their closing mark."""
    found = []
    place = 0
    absent: set[str] = set()
    for match in re.finditer(r"\$\$|\\\[|\\\(|(?<!\\)\$", text):
        closing = dict(_DELIMITERS)[match.group()]
        if match.start() < place or closing in absent:
            continue
        end = text.find(closing, match.end())
        if end < 0:
            absent.add(closing)
        elif text[match.end() : end].strip():
            found.append((match.start(), end + len(closing), text[match.end() : end].strip()))
            place = end + len(closing)
    return found


def _bare(text: str) -> list[tuple[int, int, str]]:
    """Formulas that stand between words without any mark: they have a digit or a command."""
    found = []
    for match in _BARE.finditer(text):
        inner = match.group().rstrip(" -.,")
        if re.search(r"\d|\\[a-zA-Z]|[π∞√½¼¾]", inner):
            found.append((match.start(), match.start() + len(inner), inner))
    return found


def _merged(formulas: list[tuple[int, int, str]], language: str) -> list[tuple[int, int, str]]:
    """Equal formulas under one text; a lone symbol is no answer beside others, what cannot be parsed is UNREADABLE."""
    trees: list[tuple[str, Node]] = []
    merged = []
    for start, end, text in formulas:
        tree = formula(text, language)
        if tree is not None and tree.kind == "symbol" and len(formulas) > 1:
            continue
        equal = next((label for label, other in trees if tree is not None and same(tree, other)), None)
        if equal is None and tree is not None:
            trees.append((text, tree))
        merged.append((start, end, UNREADABLE if tree is None else equal or text))
    return merged
