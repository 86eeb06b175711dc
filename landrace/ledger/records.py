"""The rows of the ledger as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

from landrace.ledger.provenance import Machine, Provenance

RunKind = Literal["tune", "evaluate", "compare", "serve", "certify", "demo"]
RunStatus = Literal["running", "finished", "failed", "interrupted"]


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Run:
    """One use of a verb. A run that was killed stays "running" with no end."""

    id: int
    kind: RunKind
    name: str
    status: RunStatus
    started: datetime
    ended: datetime | None
    command: str
    config: Mapping[str, Any]
    """The resolved options, as JSON values."""
    package_version: str
    commit: str | None
    machine: Machine


@dataclass(frozen=True)
class Score:
    """One measured number. `low` and `high` bound its interval (both or neither)."""

    run_id: int
    model: str
    task: str
    metric: str
    value: float
    n: int
    """Rows the number was taken over."""
    provenance: Provenance
    adapter: str | None = None
    low: float | None = None
    high: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    """As JSON values: parse failures, caps hit, and what else belongs beside the number."""
    created: datetime = field(default_factory=utc_now)
    id: int | None = None
    """None until it is stored."""


@dataclass(frozen=True)
class Usage:
    """One request that ended; no two of a run have the same id. Times are seconds since the request arrived."""

    request_id: str
    model: str
    prompt_tokens: int
    cached_prompt_tokens: int
    """Of the prompt tokens, those taken from the prefix cache."""
    completion_tokens: int
    queue_seconds: float
    first_token_seconds: float | None
    """None if no token was produced."""
    total_seconds: float
    finish_reason: str
    run_id: int | None = None
    """The run of the server that answered."""
    adapter: str | None = None
    created: datetime = field(default_factory=utc_now)
    key_id: str | None = None
    """The key it came with; None: without one."""
    team: str | None = None
    """The key's team at that time."""
    kind: str | None = None
    """What was asked for: "chat", "completion", "embedding" and so on."""
    response_id: str | None = None
    """The number that the client knows its answer by; several requests may belong to one."""
    thought_tokens: int = 0
    """Of the completion tokens, those before the answer itself."""
    machine_seconds: float = 0.0
    """Its share of the engine's time."""
    cost: Decimal = Decimal(0)
    """In the operator's currency, kept to the billionth."""


@dataclass(frozen=True)
class UsageSum:
    """Exact sums over the requests of one group."""

    group: Mapping[str, str | None]
    """What they have in common, such as {"model": "smollm2", "day": "2026-01-31"}."""
    requests: int
    prompt_tokens: int
    cached_prompt_tokens: int
    completion_tokens: int
    thought_tokens: int
    seconds: Decimal
    """From each request's arrival to its end, in whole microseconds, as the next."""
    machine_seconds: Decimal
    cost: Decimal
