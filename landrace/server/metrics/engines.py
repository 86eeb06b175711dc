"""`EngineMetrics`: how each engine stands, asked for when somebody looks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from landrace.engine.facts import EngineFacts
from landrace.server.engines.messages import ProcessFacts

_NOW = {
    "requests_running": ("Requests that take part in steps.", lambda engine: engine.running),
    "requests_waiting": ("Requests that wait for room.", lambda engine: engine.waiting),
}
_COUNTED = {
    "engine_steps": ("Steps.", lambda engine: engine.steps),
    "engine_step_seconds": ("Time of all steps.", lambda engine: engine.step_seconds),
    "engine_prompt_tokens": ("Tokens of prompts that were computed.", lambda engine: engine.prompt_tokens),
    "engine_generation_tokens": ("Tokens that were chosen.", lambda engine: engine.generated_tokens),
    "engine_reused_tokens": ("Tokens that the prefix cache saved.", lambda engine: engine.reused_tokens),
    "engine_preemptions": ("Requests that lost their room to earlier ones.", lambda engine: engine.preemptions),
    "engine_drafted_tokens": ("Tokens that were guessed.", lambda engine: engine.drafted_tokens),
    "engine_accepted_tokens": ("Guesses that were right.", lambda engine: engine.accepted_tokens),
}
"""Counted since the engine's process began: what is counted falls back to 0 when it is replaced."""
Standing = Mapping[str, ProcessFacts | None]
"""By model; None where no engine answers."""


class EngineMetrics(Collector):
    """Tells what `standing` holds. Whoever serves the numbers puts the newest there before."""

    def __init__(self) -> None:
        self.standing: Standing = {}

    def collect(self) -> Iterator[Metric]:
        yield _gauge("engine_up", "Whether the engine answers.", ((m, float(f is not None)) for m, f in self._all()))
        alive = {model: facts for model, facts in self.standing.items() if facts is not None}
        yield _gauge("engine_resident_bytes", "Memory of the engine's process.",
                     ((model, facts.resident_bytes) for model, facts in alive.items()))  # fmt: skip
        yield _counter("engine_restarts", "Processes of the engine that were replaced.",
                       ((model, facts.restarts) for model, facts in alive.items()))  # fmt: skip
        for name, (said, read) in _NOW.items():
            yield _gauge(name, said, ((model, read(facts.engine)) for model, facts in alive.items()))
        for name, (said, read) in _COUNTED.items():
            yield _counter(name, said, ((model, read(facts.engine)) for model, facts in alive.items()))
        cache = GaugeMetricFamily(
            "landrace_cache_tokens",
            "Places of the cache; of recurrent layers, states.",
            labels=["model", "group", "state"],
        )
        for model, facts in alive.items():
            for group, state, value in _cache(facts.engine):
                cache.add_metric([model, group, state], value)
        yield cache

    def _all(self) -> Iterable[tuple[str, ProcessFacts | None]]:
        return self.standing.items()


def _cache(engine: EngineFacts) -> Iterator[tuple[str, str, int]]:
    for number, group in enumerate(engine.cache):
        name = f"{number}:{group.kind}"
        yield name, "held", group.held
        yield name, "reusable", group.reusable
        yield name, "empty", group.free - group.reusable


def _gauge(name: str, said: str, values: Iterable[tuple[str, Any]]) -> Metric:
    family = GaugeMetricFamily(f"landrace_{name}", said, labels=["model"])
    for model, value in values:
        family.add_metric([model], value)
    return family


def _counter(name: str, said: str, values: Iterable[tuple[str, Any]]) -> Metric:
    family = CounterMetricFamily(f"landrace_{name}", said, labels=["model"])
    for model, value in values:
        family.add_metric([model], value)
    return family
