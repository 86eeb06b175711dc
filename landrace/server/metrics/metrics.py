"""`Metrics`: all numbers of a server."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from landrace.server.metrics.answers import AnswerMetrics
from landrace.server.metrics.calls import CallMetrics
from landrace.server.metrics.engines import EngineMetrics, Standing
from landrace.server.usage_queue import UsageState


class Metrics:
    """Of one server; nothing of it is shared with another in the same process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.answers = AnswerMetrics(self._registry)
        self.calls = CallMetrics(self._registry)
        self._engines = EngineMetrics()
        self._degraded = Gauge("landrace_ledger_degraded", "Whether usage cannot be recorded.", registry=self._registry)
        self._registry.register(self._engines)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)

    def note_usage(self, state: UsageState) -> None:
        """How recording is now."""
        self._degraded.set(state.status != "ok")

    def text(self, standing: Standing) -> bytes:
        """All of them in Prometheus' text form. `standing`: how the engines are now."""
        self._engines.standing = standing
        return generate_latest(self._registry)
