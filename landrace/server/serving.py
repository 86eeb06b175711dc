"""`Serving`: what the routes of every API work with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.requests import HTTPConnection

from landrace.server.access.caller import caller_of
from landrace.server.access.tally import tally_of
from landrace.server.admin.watch import Watch
from landrace.server.engines.registry import Registry, ServedModel
from landrace.server.feedback.keeper import Keeper
from landrace.server.jobs.jobs import Jobs
from landrace.server.metrics.metrics import Metrics
from landrace.server.prompt_desk import PromptDesk
from landrace.server.usage import UsageLog


@dataclass(frozen=True)
class Serving:
    """Made once, before the server listens, and given to each file of routes."""

    registry: Registry
    usage_log: UsageLog
    price_per_hour: float = 0.0
    """What the operator reckons for an hour of the machine; 0: nothing is told of costs."""
    adapter_folder: Path | None = None
    """Adapters in its subfolders may be loaded by calls; None: none may."""
    metrics: Metrics = field(default_factory=Metrics)
    desk: PromptDesk = field(default_factory=PromptDesk)
    keeper: Keeper | None = None
    """Of feedback and conversations; None: this server has no ledger to keep them in."""
    jobs: Jobs | None = None
    """Files and what is done with them; None: this server keeps none."""
    watch: Watch = field(default_factory=Watch)
    """What an operator is told of the last minutes."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """How the server was started, without secrets, for reports of bugs."""

    def check_access(self, http: HTTPConnection, name: str) -> None:
        """Raises ApiError (403) for a model or adapter that the call's key may not use: an alias is either's."""
        caller = caller_of(http)
        if not caller.may_use(self.registry.aliases.get(name, name)):
            caller.check_model(name)

    async def find(self, http: HTTPConnection, name: str) -> ServedModel:
        """The model or adapter that a call asks for, open. Raises ApiError: 403 for one that its key may not use, 404
        where there is none. Every route that computes anything finds its model here."""
        self.check_access(http, name)
        tally_of(http).model = name
        return await self.registry.find(name)
