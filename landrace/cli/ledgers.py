"""The ledger that a verb works on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from landrace.errors import DataError

if TYPE_CHECKING:
    from landrace.ledger import Ledger

LEDGER_VARIABLE = "LANDRACE_LEDGER"
"""Names the ledger where `--ledger` does not; other users of the machine cannot see what it holds."""
LedgerOption = Annotated[
    str,
    typer.Option(
        envvar=LEDGER_VARIABLE, help="SQLite file or postgresql://USER@HOST/DATABASE that holds usage and keys."
    ),
]


def opened_ledger(ledger: str) -> Ledger:
    """Made if it is not there."""
    from landrace.ledger import Ledger

    return Ledger(ledger)


def existing_ledger(ledger: str) -> Ledger:
    """Raises DataError for a file that is not there: whoever asks what it holds has mistyped its name."""
    from landrace.ledger.place import place_of

    file = place_of(ledger).file
    if file is not None and not file.exists():
        raise DataError(f"There is no ledger {file}.", hint="Name the file that serve was given as --ledger.")
    return opened_ledger(ledger)
