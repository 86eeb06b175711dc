"""Numbers as people write them: grouped, with either decimal mark, in any script's digits, with units and magnitudes.

A number is read whole or not at all: what may be two numbers (`1,5` in English), a time, a date, a version, a range or
an ordinal is no number. Values are exact fractions. docs/evaluate.md states the rules.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from landrace.evaluation.number_token import APOSTROPHES, MINUS, SPACES, TOKEN
from landrace.evaluation.number_words import (
    CHINESE,
    CHINESE_DIGITS,
    CHINESE_UNITS,
    COMMA_LANGUAGES,
    MAGNITUDES,
    POINT_REGIONS,
    english_number,
)

MAX_DIGITS = 1000
_SUPERSCRIPTS = {character: value for value, character in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")}
_RANGE_WORD = re.compile(r"\s(?:to|bis|à|a|até|до|do|til|till|tot)\s\d")
_RANGE_BEFORE = re.compile(r"\d\s(?:to|bis|à|a|até|до|do|til|till|tot)\s$")
_ORDINAL = re.compile(r"(?:st|nd|rd|th|ème|e|er|re|º|ª|-?й|-?я|-?е|-?го|\.\s?(?:platz|mal))\b|[ºª]", re.IGNORECASE)


@dataclass(frozen=True)
class Number:
    """A number in a text: its place and value. `value` is None where it may be two numbers or is out of bounds."""

    start: int
    end: int
    value: Fraction | float | None
    percent: bool = False


def decimal_comma(language: str) -> bool:
    """Whether the language (an ISO 639 code, a region may follow) writes decimals with a comma."""
    code = language.replace("_", "-").lower()
    return code not in POINT_REGIONS and code.partition("-")[0] in COMMA_LANGUAGES


def ascii_digits(text: str) -> str:
    """The text with the digits of every script as 0 to 9, and Arabic and full-width marks as `,`, `.` and `%`."""
    if text.isascii():
        return text
    return "".join(_ascii(item) for item in text)


def find_numbers(text: str, language: str) -> Iterator[Number]:
    """Every number in `text` (of `ascii_digits`), in order, also those whose value cannot be told.

    Times, dates, versions, ranges, ordinals and digits inside of words are no numbers.
    """
    comma = decimal_comma(language)
    place = 0
    while match := TOKEN.search(text, place):
        longer = CHINESE.match(text, match.start()) if match["body"] else None
        if longer and longer.end() > match.end("body") and longer.group()[-1] not in "0123456789.":
            yield Number(longer.start(), longer.end(), chinese_number(longer.group()))
            place = longer.end()
            continue
        number = _number(text, match, comma)
        if number is not None:
            yield number
        place = max(number.end if number else 0, match.end(), place + 1)


def number_word(text: str) -> Fraction | None:
    """The value of a number written in words, where `text` is nothing else: English words, Chinese numerals."""
    english = english_number(text)
    if english is not None:
        return Fraction(english)
    plain = text.rstrip("个個です。的 ")
    per_cent = plain.startswith("百分之")
    plain = plain.removeprefix("百分之")
    value = chinese_number(plain) if CHINESE.fullmatch(plain) and not plain.isascii() else None
    return value / 100 if value is not None and per_cent else value


def _ascii(character: str) -> str:
    if unicodedata.category(character) == "Nd":
        return str(unicodedata.decimal(character))
    return {"٫": ".", "٬": "'", "．": ".", "，": ",", "％": "%", "⁄": "/", "–": "–"}.get(character, character)


def _number(text: str, match: re.Match[str], comma: bool) -> Number | None:
    start, end = match.span()
    if match["infinite"]:
        return Number(start, end, float("-inf") if match["infinite"][0] in MINUS else float("inf"))
    if match["vulgar"]:
        sign = -1 if match["vulgar"][0] in MINUS else 1
        return Number(start, end, sign * Fraction(unicodedata.numeric(match["vulgar"][-1])).limit_denominator(100))
    if not _stands(text, match):
        return None
    value = _decimal(match["body"], comma)
    if value is None and (match["body"].count(".") > 1 or match["body"].count(",") > 2):
        return None
    if value is not None:
        value = _with_parts(value, match)
    magnitude = MAGNITUDES.match(text, end) if match["percent"] is None else None
    if magnitude:
        end = magnitude.end()
        value = None if value is None else value * magnitude_value(magnitude)
    if not magnitude and not match["percent"] and _ORDINAL.match(text, end):
        return None
    percent = bool(match["percent"] or match["hundredths"])
    if percent and value is not None:
        value = value / (1000 if "‰" in (match["percent"] or "") else 100)
    return Number(start, end, value, percent)


def magnitude_value(match: re.Match[str]) -> int:
    """10, 100, 1,000 ... for a matched magnitude word."""
    return int(10 ** int(match.lastgroup[1:] if match.lastgroup else 0))


def _stands(text: str, match: re.Match[str]) -> bool:
    """Whether the token is a number of its own: no part of a word, a time, a date, a version, a range."""
    start, end = match.span()
    before, after = text[max(0, start - 3) : start], text[end : end + 8]
    if match["sign"] in ("±",) or (match["sign"] == "–" and re.search(r"\w\s?$", before)):
        return False
    if (
        match["sign"]
        and match["sign"] != "+"
        and re.search(r"[\w)\]%]$", before)
        and not re.search(r"[^\x00-\u02ff]$", before)
    ):
        return False
    if (
        re.search(r"[A-Za-z\u00c0-\u024f_][.]?$|\d[:/.,-]$|[<>≤≥≠^]\s?$|\d\s?[-–]\s?$", before)
        and not match["currency"]
    ):
        return False
    if match["minus"] and re.search(r"[\w)]\s?$", before):
        return False
    if _RANGE_WORD.match(after) or _RANGE_BEFORE.search(text[max(0, start - 8) : start]):
        return False
    return not re.match(r"[:.,/]\d|[-–—~]\s?[\d$€£]|\s[-–—]\s?\d|:\d|[-–]\d", after)


def _with_parts(value: Fraction, match: re.Match[str]) -> Fraction | None:
    if match["exponent"]:
        exponent = _integer(
            re.sub(r"^\s?(?:×|x|\*|·|⋅|\\times|\\cdot)\s?10(?:\^|\*\*)?|^[eE]", "", match["exponent"], flags=re.I)
        )
        if exponent is None or abs(exponent) > MAX_DIGITS:
            return None
        value *= Fraction(10) ** exponent
    if match["power"]:
        exponent = _integer(match["power"].lstrip("^*"))
        if exponent is None or abs(exponent) * max(1, len(match["body"])) > MAX_DIGITS or (value == 0 and exponent < 0):
            return None
        value **= exponent
    if match["mixed"]:
        part = match["mixed"].strip()
        above, _, below = part.partition("/")
        if below and not int(below):
            return None
        value += (
            Fraction(int(above), int(below)) if below else Fraction(unicodedata.numeric(part)).limit_denominator(100)
        )
    if match["below"]:
        below = int(match["below"].strip(" /⁄∕"))
        if below == 0:
            return None
        value /= below
    negative = (match["sign"] or "+") != "+" or bool(match["inner"] or match["minus"])
    return -value if negative else value


def _integer(text: str) -> int | None:
    text = text.strip("{} ")
    sign = -1 if text[:1] in (*MINUS, "⁻") else 1
    digits = text.lstrip(f"+⁻{MINUS}")
    digits = "".join(str(_SUPERSCRIPTS.get(item, item)) for item in digits)
    return sign * int(digits) if digits.isdecimal() and len(digits) < 7 else None


def _decimal(body: str, comma: bool) -> Fraction | None:
    """The value of digits with grouping and decimal marks, None where they are no single number."""
    body = body.replace("{,}", ",")
    grouped = re.sub(rf"[{APOSTROPHES}{SPACES} _]|\\[,\ ;:!]", "\0", body)
    if len(grouped) > MAX_DIGITS:
        return None
    points, commas = grouped.count("."), grouped.count(",")
    mark = ""
    if points and commas:
        mark = max(".,", key=grouped.rfind)
        group = "," if mark == "." else "."
        if grouped.count(mark) > 1:
            return None
    elif points + commas == 1 and "\0" in grouped:
        mark, group = ("." if points else ","), "\0"
    elif points + commas == 1:
        mark, group = _single_mark(grouped, comma)
        if mark == "?":
            return None
    else:
        group = "." if points else "," if commas else "\0"
    whole, _, part = grouped.partition(mark) if mark else (grouped, "", "")
    parts = whole.split(group)
    if len(parts) > 1 and not _well_grouped(parts, indian=group == ","):
        return None
    digits = "".join(parts)
    return Fraction(f"{digits or 0}.{part or 0}") if (digits + part).isdecimal() else None


def _single_mark(body: str, comma: bool) -> tuple[str, str]:
    """(decimal mark, group mark) of a body with one `.` or `,`; ("?", "") if it may be two numbers."""
    mark = "." if "." in body else ","
    whole, _, part = body.partition(mark)
    group_like = len(part) == 3 and 1 <= len(whole) <= 3 and whole[0] != "0"
    if (mark == ",") == comma:
        return mark, "\0"
    if group_like:
        return "", mark
    if mark == "." or whole == "0":
        return mark, "\0"
    return "?", ""


def _well_grouped(parts: list[str], *, indian: bool) -> bool:
    first, *middle, last = parts
    if not (1 <= len(first) <= 3 and len(last) == 3) or first[0] == "0":
        return False
    return all(len(item) == 3 for item in middle) or (
        indian and len(first) <= 2 and all(len(item) == 2 for item in middle)
    )


def chinese_number(text: str) -> Fraction | None:
    """The value of Chinese, Japanese or Korean numerals, also mixed with digits: 一百二十三, 1万2千, 4만 5천."""
    sign = -1 if text[:1] in ("負", "负") else 1
    total, section, digit = Fraction(0), Fraction(0), None
    place = 1 if sign < 0 else 0
    while place < len(text):
        character = text[place]
        if character == " ":
            place += 1
            continue
        number = re.compile(r"\d+(?:\.\d+)?").match(text, place)
        if number:
            if digit is not None or len(number.group()) > 20:
                return None
            digit, place = Fraction(number.group()), number.end()
            continue
        if character in CHINESE_DIGITS:
            value = CHINESE_DIGITS[character]
            if digit is not None and digit != 0:
                # 二〇二四: digits in a row, without units.
                digit = digit * 10 + value if not section and not total else None
                if digit is None:
                    return None
            else:
                digit = Fraction(value)
        elif character in CHINESE_UNITS:
            unit = CHINESE_UNITS[character]
            if unit < 10_000:
                section += (1 if digit is None else digit) * unit
            else:
                total += (section + (digit or 0) or 1) * unit
                section = Fraction(0)
            digit = None
        else:
            return None
        place += 1
    if len(text) - (sign < 0) < 1:
        return None
    return sign * (total + section + (digit or 0))


def number_text(number: Number) -> str:
    """The value as text: 1234.5, 1/3, -7, 50%, inf; "?" if it has none."""
    value = number.value
    if value is None:
        return "?"
    if isinstance(value, float):
        return str(value)
    if number.percent:
        return f"{_fraction_text(value * 100)}%"
    return _fraction_text(value)


def _fraction_text(value: Fraction) -> str:
    below = value.denominator
    for factor in (2, 5):
        while below % factor == 0:
            below //= factor
    if below > 1:
        return f"{value.numerator}/{value.denominator}"
    digits = 0
    while (value * 10**digits).denominator > 1:
        digits += 1
    scaled = str(abs(int(value * 10**digits))).rjust(digits + 1, "0")
    sign = "-" if value < 0 else ""
    return f"{sign}{scaled[:-digits]}.{scaled[-digits:]}" if digits else sign + scaled
