"""Words that are numbers or multiply one."""

from __future__ import annotations

import re

_SMALL = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen
"""
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_ENGLISH = {
    **{word: value for value, word in enumerate(_SMALL.split())},
    **{word: 10 * value for value, word in enumerate(_TENS.split(), start=2)},
}
_ENGLISH_UNITS = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}

CHINESE_DIGITS = {character: value for value, character in enumerate("零一二三四五六七八九")} | {
    "〇": 0,
    "两": 2,
    "兩": 2,
    "壹": 1,
    "贰": 2,
    "叁": 3,
}
CHINESE_UNITS = {
    "十": 10,
    "百": 100,
    "千": 1000,
    "万": 10**4,
    "萬": 10**4,
    "億": 10**8,
    "亿": 10**8,
    "兆": 10**12,
    "십": 10,
    "백": 100,
    "천": 1000,
    "만": 10**4,
    "억": 10**8,
    "조": 10**12,
}

CHINESE = re.compile(
    rf"[負负]?(?:[{''.join(CHINESE_DIGITS)}\d.]|[{''.join(CHINESE_UNITS)}](?![克米瓦])(?: (?=\d[\d.]*[만천백십]))?)+"
)
"""Chinese, Japanese and Korean numerals, digits among them; 千克 and 千米 are units of measure."""

_COMMA_CODES = """
af az be bg bs ca cs da de el es et eu fi fr gl hr hu hy id is it ka kk lt lv mk nb nl nn no pl pt ro ru sk sl sq sr sv
tr uk uz vi
"""
COMMA_LANGUAGES = frozenset(_COMMA_CODES.split())
"""ISO 639 codes of languages whose decimal mark is the comma; regions that differ are in POINT_REGIONS."""
_POINT_CODES = "de-ch fr-ch it-ch de-li es-mx es-us es-pr es-gt es-hn es-ni es-pa es-do es-sv"
POINT_REGIONS = frozenset(_POINT_CODES.split())

_BY_EXPONENT = {
    2: "hundred hundert сто सौ",
    3: """
    thousand k tausend tsd. mille mil mila тыс. тысяч тысячи тысяча тисяч тисячі хиљада хиљаде hiljada hiljade tisuća
    tisuće tys. tysiąc tysiące tysięcy tisíc bin duizend tusind tusen tuhat ezer mie mii хиляди ألف آلاف هزار אלף हजार
    हज़ार হাজার ribu nghìn ngàn พัน χιλιάδες
    """,
    4: "หมื่น",
    5: "lakh lakhs लाख লাখ แสน",
    6: """
    million millions mio. mio millionen milliones millón millones milhão milhões milione milioni млн. млн миллион
    миллиона миллионов мільйон мільйони мільйонів милион милиона milion milioni miliona milijun milijuna mln. mln
    miliony milionów milyon miljoen miljon miljoner miljoona millió milioane مليون میلیون מיליון juta triệu ล้าน
    εκατομμύρια εκατομμύριο
    """,
    7: "crore crores करोड़ কোটি",
    9: """
    billion billions bn milliarde milliarden mrd. mrd milliard milliards miliardo miliardi млрд. млрд миллиард
    миллиарда миллиардов мільярд мільярдів милијарда милијарде milijarda milijarde mld. mld miliard miliardy
    miliardów milyar miljard miljarder milliárd miliarde مليار میلیارد מיליארד milyaran miliar tỷ tỉ δισεκατομμύρια
    """,
    12: "trillion trillions",
}


def _alternatives(words: str) -> str:
    return "|".join(re.escape(word) for word in sorted(words.split(), key=len, reverse=True))


MAGNITUDES = re.compile(
    r"\s?(?:"
    + "|".join(f"(?P<e{exponent}>{_alternatives(words)})" for exponent, words in _BY_EXPONENT.items())
    + r")(?!\w)",
    re.IGNORECASE,
)
"""A magnitude just behind a number; the group's name holds the power of ten."""


def english_number(text: str) -> int | None:
    """The value of English words such as "minus one hundred and twenty-one", None if `text` is anything else."""
    if len(text) > 200:
        return None
    words = re.findall(r"[a-z]+", text.lower())
    if not words or re.search(r"[^a-zA-Z\s.,-]", text):
        return None
    sign = 1
    if words[0] in ("minus", "negative"):
        sign, words = -1, words[1:]
    total = current = 0
    last = 1000
    seen = False
    for word in words:
        if word == "and" and seen:
            continue
        if word in _ENGLISH:
            value = _ENGLISH[word]
            if last < 20 or (last < 100 and value >= 10):
                return None
            current += value
            last = value
        elif word in _ENGLISH_UNITS and (seen or word == "hundred"):
            unit = _ENGLISH_UNITS[word]
            current = max(current, 1) * unit
            if unit >= 1000:
                total, current = total + current, 0
            last = 1000
        else:
            return None
        seen = True
    return sign * (total + current) if seen else None
