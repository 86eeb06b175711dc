"""`EngineMetrics`: how each engine stands, asked for when somebody looks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from landrace.engine.facts import EngineFacts
from landrace.server.engines.messages import ProcessFacts

_Read = Callable[[EngineFacts], float]
_NOW: Mapping[str, tuple[str, _Read]] = {
    "requests_running": ("Requests that take part in steps.", lambda engine: engine.running),
    "requests_waiting": ("Requests that wait for room.", lambda engine: engine.waiting),
}
_COUNTED: Mapping[str, tuple[str, _Read]] = {
    "engine_steps": ("Steps.", lambda engine: engine.steps),
    "engine_step_seconds": ("Time of all steps.", lambda engine: engine.step_seconds),
    "engine_prompt_tokens": ("Tokens of prompts that were computed.", lambda engine: engine.prompt_tokens),
    "engine_generation_tokens": ("Tokens that were chosen.", lambda engine: engine.generated_tokens),
    "engine_reused_tokens": ("Tokens that the prefix cache saved.", lambda engine: engine.reused_tokens),
    "engine_preemptions": ("Requests that lost their room to others.", lambda engine: engine.preemptions),
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
        up = ((model, float(facts is not None)) for model, facts in self.standing.items())
        yield _gauge("engine_up", "Whether the engine answers.", up)
        alive = {model: facts for model, facts in self.standing.items() if facts is not None}
        resident = ((model, facts.resident_bytes) for model, facts in alive.items())
        yield _gauge("engine_resident_bytes", "Memory of the engine's process.", resident)
        restarts = ((model, facts.restarts) for model, facts in alive.items())
        yield _counter("engine_restarts", "Processes of the engine that were replaced.", restarts)
        for name, (said, read) in _NOW.items():
            yield _gauge(name, said, ((model, read(facts.engine)) for model, facts in alive.items()))
        for name, (said, read) in _COUNTED.items():
            yield _counter(name, said, ((model, read(facts.engine)) for model, facts in alive.items()))
        said, labels = "Places of the cache; of recurrent layers, states.", ["model", "group", "state"]
        cache = GaugeMetricFamily("landrace_cache_tokens", said, labels=labels)
        for model, facts in alive.items():
            for group, state, value in _cache(facts.engine):
                cache.add_metric([model, group, state], value)
        yield cache


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
