"""How the server is, at a glance."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from landrace import __version__
from landrace.server.admin.watch import facts_of
from landrace.server.engines.hosted import Hosted
from landrace.server.serving import Serving


async def overview(serving: Serving) -> dict[str, Any]:
    """As `schema.Overview`."""
    watch, registry = serving.watch, serving.registry
    return {
        "object": "admin.overview",
        "version": __version__,
        "started_at": watch.started,
        "uptime_seconds": time.time() - watch.started,
        "memory_bytes": registry.memory,
        "models": [await _model(serving, base) for base in registry.bases],
        "tokens_per_second": watch.throughput.last_minute(),
        "history": watch.throughput.history(),
        "latency": watch.recent.latency(),
        "first_tokens": watch.recent.first_tokens(),
        "answers": watch.recent.ends,
        "errors": watch.failures.by_code,
        "usage": asdict(serving.usage_log.state),
        "has_ledger": serving.usage_log.ledger is not None,
        "has_jobs": serving.jobs is not None,
    }


async def _model(serving: Serving, base: Hosted) -> dict[str, Any]:
    engine = base.engine
    facts = await facts_of(engine) if base.is_open else None
    problems = {name: one.problem for name, one in base.adapters.items()}
    lost = {**{name: problem for name, problem in problems.items() if problem is not None}, **engine.lost_adapters}
    failure = None if base.failure is None else base.failure.message
    return {
        "id": base.name,
        "state": engine.state if base.is_open else base.state,
        "trouble": engine.trouble if base.is_open else failure,
        "memory_bytes": serving.registry.memory_of(serving.registry.check(base.name)),
        "resident_bytes": None if facts is None else facts.resident_bytes,
        "restarts": None if facts is None else facts.restarts,
        "unfinished": engine.unfinished,
        "running": None if facts is None else facts.engine.running,
        "waiting": None if facts is None else facts.engine.waiting,
        "cache": [] if facts is None else [{**asdict(group), "free": group.free} for group in facts.engine.cache],
        "adapters": [{"id": name, "problem": lost[name].message if name in lost else None} for name in base.adapters],
    }
