"""Batches and fine-tuning jobs, with how their losses went. Reads files: it is for threads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from landrace.server.jobs.jobs import Jobs

_MOST_JOBS = 20
_MOST_POINTS = 200
"""Of a loss curve."""


def job_table(jobs: Jobs) -> dict[str, Any]:
    """As `schema.JobTable`."""
    return {
        "object": "admin.jobs",
        "tuning": [_tuning(jobs, record) for record in _newest(jobs.tuning.records.all())],
        "batches": [_batch(record) for record in _newest(jobs.batches.records.all())],
    }


def _newest(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return records[: -_MOST_JOBS - 1 : -1]


def _tuning(jobs: Jobs, record: Mapping[str, Any]) -> dict[str, Any]:
    steps = [event["data"] for event in jobs.tuning.events(record["id"]).all() if event["type"] == "metrics"]
    error = record["error"]
    return {
        **_common(record),
        "model": record["model"],
        "finished_at": record["finished_at"],
        "fine_tuned_model": record["fine_tuned_model"],
        "total_steps": steps[-1]["total_steps"] if steps else None,
        "losses": [
            {"step": step["step"], "train_loss": step["train_loss"], "valid_loss": step.get("valid_loss")}
            for step in _thinned(steps)
        ],
        "error": None if error is None else error["message"],
    }


def _batch(record: Mapping[str, Any]) -> dict[str, Any]:
    return {**_common(record), "endpoint": record["endpoint"], **record["request_counts"]}


def _common(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in ("id", "status", "owner", "created_at")}


def _thinned(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most so many, evenly, with the last of them and those that were validated."""
    every = -(-len(steps) // _MOST_POINTS) if steps else 1
    last = len(steps) - 1
    return [step for place, step in enumerate(steps) if (last - place) % every == 0 or "valid_loss" in step]
