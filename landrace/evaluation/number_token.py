"""One number in a text as a pattern: sign, currency, digits with their marks, exponent, power, fraction, per cent."""

from __future__ import annotations

import re

SPACES = "\u00a0\u2007\u2009\u202f\u200a\u2002\u2003"
APOSTROPHES = "'\u2019\u02bc\u2018"
MINUS = "-\u2212\ufe63\uff0d"
_HIGH = "⁰¹²³⁴⁵⁶⁷⁸⁹"
_VULGAR = "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞⅐⅑⅒"
_CURRENCY = r"(?:[A-Z]{0,3}[$€£¥₹₽₩₺₫₴฿₪₦]|R\$|USD|EUR|GBP|CHF|RSD|CNY|JPY|INR|RUB|Rs\.?|zł|kr\.?)"
_NEGATIVE = "minus|negative|menos|moins|meno|минус|мінус|eksi|μείον|음수|マイナス|负|負|ऋण|سالب|منفی|ناقص|מינוס|âm|ลบ"
_PERCENT = (
    r"\\?%|٪|％|‰|percent\b|per\ cent\b|prozent\b|pour\ cent\b|"
    r"por\ ciento\b|por\ cento\b|per\ cento\b|процент\w*"
    r"|posto\b|одсто\b|посто\b|procent\w*|yüzde\b|százalék\w*|प्रतिशत|퍼센트|パーセント"
    r"|بالمئة|بالمائة|درصد|אחוז\w*|phần\ trăm"
)
_POWER = rf"⁻?[{_HIGH}]+|\^\{{?[+{MINUS}]?\d+\}}?|\*\*[+{MINUS}]?\d+"
_GROUP_MARK = rf"[{APOSTROPHES}{SPACES}\ ](?=\d{{3}}(?!\d))|\{{,\}}(?=\d)|\\[,\ ;:!](?=\d)"

TOKEN = re.compile(
    rf"""
    (?P<minus>(?<![^\W\d_])(?:{_NEGATIVE})\s?(?=\d))?
    (?P<hundredths>百分之)?
    (?P<sign>[{MINUS}+\u2013±](?=[\d.]|{_CURRENCY}\s?\d))?
    (?P<currency>{_CURRENCY}\s?)?
    (?P<inner>[{MINUS}](?=\d))?
    (?P<body>\d(?:[\d.,_]|{_GROUP_MARK})*(?<![.,_])|\.\d+)
    (?P<exponent>[eE][+{MINUS}]?\d+(?!\w)|\s?(?:×|x|\*|·|⋅|\\times|\\cdot)\s?10(?:{_POWER}))?
    (?P<power>{_POWER})?
    (?P<mixed>\s?[{_VULGAR}]|[ ]\d+/\d+(?![\d/]))?
    (?P<below>\s?[/⁄∕]\s?\d+(?![\d/]|[.,]\d))?
    (?P<percent>\s?(?:{_PERCENT}))?
    |(?P<vulgar>[{MINUS}]?[{_VULGAR}])
    |(?P<infinite>[{MINUS}+]?(?:∞|\binfinity\b|\binf\b|\bunendlich\b|\binfini\b|\binfinito\b|бесконечность))
    """,
    re.VERBOSE | re.IGNORECASE,
)
