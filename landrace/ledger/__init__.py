"""What happened, as rows in SQLite: runs, scores with their provenance, usage by request."""

from landrace.ledger.ledger import Ledger
from landrace.ledger.provenance import Machine, Provenance, describe_machine, package_commit, package_version
from landrace.ledger.records import Run, RunKind, RunStatus, Score, Usage, utc_now

__all__ = [
    "Ledger",
    "Machine",
    "Provenance",
    "Run",
    "RunKind",
    "RunStatus",
    "Score",
    "Usage",
    "describe_machine",
    "package_commit",
    "package_version",
    "utc_now",
]
