"""`AnswerMetrics`: what was answered and how fast, counted as requests end."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram

from landrace.ledger import Usage

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 1)
_BY_MODEL = ("model",)


class AnswerMetrics:
    """By the name that clients ask for. `heard` belongs to one thread."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, said: str, labels: Sequence[str] = _BY_MODEL) -> Counter:
            return Counter(f"landrace_{name}", said, labels, registry=registry)

        def histogram(name: str, said: str, buckets: Sequence[float] = _SECONDS) -> Histogram:
            return Histogram(f"landrace_{name}", said, _BY_MODEL, buckets=buckets, registry=registry)

        self._answers = counter("answers", "Answers that ended, by how.", ("model", "kind", "finish_reason"))
        self._prompt = counter("prompt_tokens", "Tokens of prompts.")
        self._cached = counter("cached_prompt_tokens", "Tokens of prompts that came from the prefix cache.")
        self._generated = counter("generation_tokens", "Tokens of answers, thoughts included.")
        self._thoughts = counter("thought_tokens", "Tokens of thoughts.")
        self._machine = counter("machine_seconds", "Time of the engine that answers took, shared out among them.")
        self._cost = counter("cost", "What answers cost, at the operator's price of a machine-hour.")
        self._first = histogram("time_to_first_token_seconds", "From a call's arrival to its first token.")
        self._token = histogram("time_per_output_token_seconds", "Between tokens of an answer, mean.", _TOKEN_SECONDS)
        self._whole = histogram("request_duration_seconds", "From a call's arrival to the end of its answer.")
        self._queue = histogram("request_queue_seconds", "From a call's arrival to its first step.")

    def heard(self, rows: Sequence[Usage]) -> None:
        """These requests have ended."""
        for row in rows:
            model = row.adapter or row.model
            self._answers.labels(model, row.kind or "", row.finish_reason).inc()
            for metric, value in (
                (self._prompt, row.prompt_tokens),
                (self._cached, row.cached_prompt_tokens),
                (self._generated, row.completion_tokens),
                (self._thoughts, row.thought_tokens),
                (self._machine, row.machine_seconds),
                (self._cost, float(row.cost)),
            ):
                metric.labels(model).inc(value)
            self._queue.labels(model).observe(row.queue_seconds)
            self._whole.labels(model).observe(row.total_seconds)
            if row.first_token_seconds is not None:
                self._first.labels(model).observe(row.first_token_seconds)
                if row.completion_tokens > 1:
                    spread = (row.total_seconds - row.first_token_seconds) / (row.completion_tokens - 1)
                    self._token.labels(model).observe(spread)
