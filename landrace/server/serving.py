"""`Serving`: what the routes of every API work with."""

from __future__ import annotations

from dataclasses import dataclass, field

from landrace.server.engines.registry import Registry
from landrace.server.feedback.keeper import Keeper
from landrace.server.jobs.jobs import Jobs
from landrace.server.prompt_desk import PromptDesk
from landrace.server.usage import UsageLog


@dataclass(frozen=True)
class Serving:
    """Made once, before the server listens, and given to each file of routes."""

    registry: Registry
    usage_log: UsageLog
    desk: PromptDesk = field(default_factory=PromptDesk)
    keeper: Keeper | None = None
    """Of feedback and conversations; None: this server has no ledger to keep them in."""
    jobs: Jobs | None = None
    """Files and what is done with them; None: this server keeps none."""
