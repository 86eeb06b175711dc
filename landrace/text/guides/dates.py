"""Days that exist, as patterns: the library's own formats allow 30 February."""

from __future__ import annotations

_YEAR = "(000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})"
_FOURTH = "(0[48]|[2468][048]|[13579][26])"
"""Two digits of a number that four divides, but for 00."""
_LEAP_YEAR = f"([0-9]{{2}}{_FOURTH}|{_FOURTH}00)"
_LONG = "(0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])"
_SHORT = "(0[469]|11)-(0[1-9]|[12][0-9]|30)"
_FEBRUARY = "02-(0[1-9]|1[0-9]|2[0-8])"
_DAY = f"({_YEAR}-({_LONG}|{_SHORT}|{_FEBRUARY})|{_LEAP_YEAR}-02-29)"

PATTERNS = {"date": f"^{_DAY}$", "date-time": f"^{_DAY}"}
"""What a text of these formats matches (RFC 3339, years from 1): Gregorian days."""
