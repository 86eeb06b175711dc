"""How alike two texts of one language are: whether one is a near-duplicate of the other, or both fill one template.

Two measures are taken:

* `gram_similarity`: Jaccard similarity of character n-grams (n = 5; 3 in Chinese, where a character says more);
* `template_share`: length of the longest common subsequence of words (characters in Chinese) over the length of
  the shorter text. A text made from another by filling slots keeps the other words in their order, so it scores high
  even where the fillings are long.

Texts are compared in lower case, without punctuation and accents, Serbian Cyrillic in Latin letters, and with
every number replaced by one mark.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple, Protocol

MAX_GRAM_SIMILARITY = 0.25
MAX_TEMPLATE_SHARE = 0.60
# Below this many units the shorter row's length says too little: two function words would already be a third of it.
FEWEST_UNITS = {"en": 6, "vi": 6, "sr": 6, "zh": 10}

CYRILLIC = str.maketrans("абвгдђежзијклмнопрстћуфхцчш", "abvgddezzijklmnoprstcufhccs") | str.maketrans(
    {"љ": "lj", "њ": "nj", "џ": "dz"}
)


class Text(Protocol):
    """A row of a data file."""

    @property
    def id(self) -> str: ...
    @property
    def language(self) -> str: ...
    @property
    def text(self) -> str: ...


class Likeness(NamedTuple):
    first: str
    second: str
    gram: float
    template: float


@cache
def normalised(text: str) -> str:
    latin = unicodedata.normalize("NFKC", text).casefold().translate(CYRILLIC)
    plain = "".join(c for c in unicodedata.normalize("NFKD", latin) if not unicodedata.combining(c))
    return " ".join(re.findall(r"[^\W\d_]+|\d+", re.sub(r"\d+", " 0 ", plain.replace("đ", "d"))))


@cache
def units(text: str, language: str) -> tuple[str, ...]:
    plain = normalised(text)
    return tuple(plain.replace(" ", "")) if language == "zh" else tuple(plain.split())


@cache
def grams(text: str, language: str) -> frozenset[str]:
    size = 3 if language == "zh" else 5
    plain = f" {normalised(text)} "
    return frozenset(plain[i : i + size] for i in range(max(1, len(plain) - size + 1)))


def gram_similarity(first: str, second: str, language: str) -> float:
    a, b = grams(first, language), grams(second, language)
    return len(a & b) / len(a | b)


def common_subsequence(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    """Length of the longest common subsequence, bit-parallel (Hyyrö 2004): one bit for each unit of `a`."""
    places: dict[str, int] = {}
    for i, unit in enumerate(a):
        places[unit] = places.get(unit, 0) | 1 << i
    every = (1 << len(a)) - 1
    open_places = every
    for unit in b:
        hits = open_places & places.get(unit, 0)
        open_places = ((open_places + hits) | (open_places - hits)) & every
    return len(a) - open_places.bit_count()


def template_share(first: str, second: str, language: str) -> float:
    a, b = units(first, language), units(second, language)
    return common_subsequence(a, b) / max(min(len(a), len(b)), FEWEST_UNITS[language])


def likeness(first: Text, second: Text) -> Likeness:
    texts = first.text, second.text, first.language
    return Likeness(
        f"{first.id}: {first.text}", f"{second.id}: {second.text}", gram_similarity(*texts), template_share(*texts)
    )


def too_alike(pairs: Iterable[tuple[Text, Text]]) -> list[Likeness]:
    """The pairs of one language that pass either threshold."""
    scores = (likeness(a, b) for a, b in pairs if a.language == b.language)
    return [score for score in scores if score.gram > MAX_GRAM_SIMILARITY or score.template > MAX_TEMPLATE_SHARE]
