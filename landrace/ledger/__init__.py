"""What happened, as rows in SQLite or PostgreSQL: runs, scores with their provenance, usage by request, and keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from landrace.ledger.keys import Key, Spent
from landrace.ledger.provenance import Machine, Provenance, describe_machine, package_commit, package_version
from landrace.ledger.records import Run, RunKind, RunStatus, Score, Usage, UsageSum, utc_now

if TYPE_CHECKING:
    from landrace.ledger.ledger import Ledger

__all__ = [
    "Key",
    "Ledger",
    "Machine",
    "Provenance",
    "Run",
    "RunKind",
    "RunStatus",
    "Score",
    "Spent",
    "Usage",
    "UsageSum",
    "describe_machine",
    "package_commit",
    "package_version",
    "utc_now",
]


def __getattr__(name: str) -> Any:
    """Loads `Ledger` on first use: it brings SQLAlchemy, which those who only need the records do without."""
    if name == "Ledger":
        from landrace.ledger.ledger import Ledger

        return Ledger
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
