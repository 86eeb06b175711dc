"""Where a ledger is: a file or the URL of a PostgreSQL database, and how to speak of it without its password."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from landrace.errors import DataError

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_POSTGRES = ("postgresql", "postgres")
_LOGIN = re.compile(r"(postgres(?:ql)?(?:\+\w+)?://)(.*)@", re.IGNORECASE | re.DOTALL)
_PASSWORD = re.compile(r"([?&](?:ssl)?password=)[^&\s]*", re.IGNORECASE)


@dataclass(frozen=True)
class LedgerPlace:
    """A file, or a URL. `shown` is either without a password."""

    shown: str
    file: Path | None = None
    url: str | None = field(default=None, repr=False)
    """With its password: for the database driver only."""


def place_of(ledger: str | Path) -> LedgerPlace:
    """What `--ledger` names. Raises DataError for a URL of another kind of database."""
    text = str(ledger)
    scheme = _SCHEME.match(text)
    if scheme is None or isinstance(ledger, Path):
        return LedgerPlace(text, file=Path(ledger))
    if scheme[1].lower() not in _POSTGRES:
        raise DataError(
            f"A ledger is a file or a database of PostgreSQL, not {scheme[1].lower()}://.",
            hint="Write --ledger FILE or --ledger postgresql://USER@HOST/DATABASE.",
        )
    try:
        urlsplit(text).port  # noqa: B018  raises for what is no port
    except ValueError as error:
        raise DataError("The URL of the ledger has a host or port that cannot be read.") from error
    return LedgerPlace(without_passwords(text), url=text)


def without_passwords(text: str) -> str:
    """A word of a command line as it may be kept and shown: a database's URL loses its password."""
    return _PASSWORD.sub(r"\1***", _LOGIN.sub(_without_password, text))


def _without_password(login: re.Match[str]) -> str:
    user, colon, _ = login[2].partition(":")
    return f"{login[1]}{user}{':***' if colon else ''}@"
