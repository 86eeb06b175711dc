"""Runs and scores as rows, and back."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from typing import Any

from landrace.errors import DataError
from landrace.ledger.provenance import Machine, Provenance
from landrace.ledger.records import Run, Score
from landrace.ledger.values import check_finite, json_text, moment_or_none, plain_text, stamp

_SCORE_FIELDS = ("run_id", "model", "adapter", "task", "metric", "value", "low", "high", "n")
_ORIGIN_FIELDS = ("package_version", "weights_sha256", "adapter_sha256", "data_sha256", "template_sha256", "seed")


def row_of_run(run: Run) -> dict[str, object]:
    return {
        "kind": run.kind,
        "name": plain_text(run.name),
        "status": run.status,
        "started": stamp(run.started),
        "command": plain_text(run.command),
        "config": json_text(run.config),
        "package_version": run.package_version,
        "git_commit": run.commit,
        "machine": json_text(asdict(run.machine)),
    }


def run_of_row(row: Any) -> Run:
    return Run(
        id=row.id,
        kind=row.kind,
        name=row.name,
        status=row.status,
        started=datetime.fromisoformat(row.started),
        ended=moment_or_none(row.ended),
        command=row.command,
        config=json.loads(row.config),
        package_version=row.package_version,
        commit=row.git_commit,
        machine=Machine(**json.loads(row.machine)),
    )


def row_of_score(score: Score) -> dict[str, object]:
    if score.id is not None:
        raise DataError(f"This score is stored already, as number {score.id}.")
    for name in ("value", "low", "high"):
        check_finite(name, getattr(score, name))
    return {
        **{name: getattr(score, name) for name in _SCORE_FIELDS},
        "details": json_text(score.details),
        **{name: getattr(score.provenance, name) for name in _ORIGIN_FIELDS},
        "git_commit": score.provenance.commit,
        "machine": json_text(asdict(score.provenance.machine)),
        "created": stamp(score.created),
    }


def score_of_row(row: Any) -> Score:
    provenance = Provenance(
        commit=row.git_commit,
        machine=Machine(**json.loads(row.machine)),
        **{name: getattr(row, name) for name in _ORIGIN_FIELDS},
    )
    return Score(
        **{name: getattr(row, name) for name in ("id", *_SCORE_FIELDS)},
        details=json.loads(row.details),
        provenance=provenance,
        created=datetime.fromisoformat(row.created),
    )
