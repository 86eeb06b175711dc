"""Replies of `/v1/admin`, as the API's document has them."""

from __future__ import annotations

from typing import Any, Literal

from landrace.server.openapi.description import Told


class Percentiles(Told):
    """In seconds; null: nothing was measured."""

    p50: float | None
    p90: float | None
    p99: float | None


class FirstTokens(Percentiles):
    """Those of ten seconds."""

    seconds_ago: int


class Latency(Told):
    """Of the answers that ended within the window."""

    window_seconds: int
    answers: int
    first_token: Percentiles
    token: Percentiles
    whole: Percentiles


class Rates(Told):
    """Tokens a second."""

    prompt: float
    generated: float


class Sample(Rates):
    """Of two seconds."""

    seconds_ago: float
    running: int
    waiting: int


class CacheGroup(Told):
    """In tokens; of recurrent layers in states."""

    kind: str
    size: int
    held: int
    reusable: int
    free: int
    """What a newcomer may have; it includes what is reusable."""


class AdapterState(Told):
    """Of an adapter."""

    id: str
    problem: str | None


class ModelState(Told):
    """Of a base model. What only an engine that answers can tell is null."""

    id: str
    state: str
    trouble: str | None
    memory_bytes: int
    """What is kept for it."""
    resident_bytes: int | None
    restarts: int | None
    unfinished: int
    running: int | None
    waiting: int | None
    cache: list[CacheGroup]
    adapters: list[AdapterState]


class Overview(Told):
    """How the server is, at a glance."""

    object: Literal["admin.overview"]
    version: str
    started_at: float
    uptime_seconds: float
    memory_bytes: int
    """For all models together."""
    models: list[ModelState]
    tokens_per_second: Rates
    """Over the last minute."""
    history: list[Sample]
    latency: Latency
    first_tokens: list[FirstTokens]
    answers: dict[str, int]
    """By how they ended."""
    errors: dict[str, int]
    """Calls that were refused or failed, by code."""
    usage: dict[str, Any]
    has_ledger: bool
    has_jobs: bool


class UsageRow(Told):
    """Sums of one group."""

    group: dict[str, str | None]
    key_name: str | None
    requests: int
    prompt_tokens: int
    cached_prompt_tokens: int
    completion_tokens: int
    thought_tokens: int
    seconds: float
    machine_seconds: float
    cost: float


class UsageTable(Told):
    """Usage by group."""

    object: Literal["list"]
    by: list[str]
    days: int
    data: list[UsageRow]


class KeyRow(Told):
    """A key without its secret, which nobody has. Limits that are null are none."""

    id: str
    name: str
    team: str
    models: list[str] | None
    routes: list[str] | None
    is_admin: bool
    priority: int
    requests_per_minute: int | None
    tokens_per_minute: int | None
    money_per_month: float | None
    created: str
    expires: str | None
    revoked: str | None
    is_valid: bool
    requests_this_month: int
    tokens_this_month: int
    spent_this_month: float


class KeyTable(Told):
    """All keys that were ever made."""

    object: Literal["list"]
    data: list[KeyRow]


class Loss(Told):
    """Of one step."""

    step: int
    train_loss: float
    valid_loss: float | None


class TuningRow(Told):
    """A fine-tuning job."""

    id: str
    model: str
    status: str
    owner: str
    created_at: int
    finished_at: int | None
    fine_tuned_model: str | None
    total_steps: int | None
    losses: list[Loss]
    error: str | None


class BatchRow(Told):
    """A batch."""

    id: str
    endpoint: str
    status: str
    owner: str
    created_at: int
    total: int
    completed: int
    failed: int


class JobTable(Told):
    """The newest first."""

    object: Literal["admin.jobs"]
    tuning: list[TuningRow]
    batches: list[BatchRow]


class FeedbackRow(Told):
    """What somebody said of an answer."""

    response_id: str
    choice: int
    rating: Literal["up", "down"] | None
    has_correction: bool
    has_comment: bool
    correction: str | None
    comment: str | None
    key_id: str | None
    team: str | None
    created: str


class FeedbackTable(Told):
    """The newest first. Texts are told by a server that keeps conversations."""

    object: Literal["list"]
    data: list[FeedbackRow]
