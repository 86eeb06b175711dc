"""`Throughput`: what the engines computed in the last minutes, looked at every few seconds."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from landrace.engine.facts import EngineFacts

SAMPLE_SECONDS = 2.0
_MOST = 151
"""Samples that are kept: five minutes."""
_MINUTE = 60.0


class Throughput:
    """Belongs to one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counted: dict[str, tuple[int, int]] = {}
        self._samples: deque[tuple[float, int, int, int, int]] = deque(maxlen=_MOST)
        """When; tokens of prompts and answers since the sample before; requests that run and wait."""

    def sample(self, engines: Mapping[str, EngineFacts]) -> None:
        """Of every engine that answers, by model."""
        prompt = generated = 0
        for model, facts in engines.items():
            counted = facts.prompt_tokens, facts.generated_tokens
            before = self._counted.get(model, counted)
            if counted[0] < before[0] or counted[1] < before[1]:  # another process, which counts from 0
                before = (0, 0)
            prompt += counted[0] - before[0]
            generated += counted[1] - before[1]
            self._counted[model] = counted
        running = sum(facts.running for facts in engines.values())
        waiting = sum(facts.waiting for facts in engines.values())
        self._samples.append((self._clock(), prompt, generated, running, waiting))

    def last_minute(self) -> dict[str, float]:
        """Tokens a second; of as much of the minute as was looked at."""
        now = self._clock()
        within = [one for one in self._samples if one[0] > now - _MINUTE]
        if len(within) < 2:
            return {"prompt": 0.0, "generated": 0.0}
        # What the first of them counted was computed before it.
        seconds = within[-1][0] - within[0][0]
        return {
            "prompt": sum(one[1] for one in within[1:]) / seconds,
            "generated": sum(one[2] for one in within[1:]) / seconds,
        }

    def history(self) -> list[dict[str, Any]]:
        """All samples, oldest first, in tokens a second."""
        now, samples = self._clock(), list(self._samples)
        return [
            {
                "seconds_ago": round(now - at, 1),
                "prompt": prompt / (at - before),
                "generated": generated / (at - before),
                "running": running,
                "waiting": waiting,
            }
            for (before, *_), (at, prompt, generated, running, waiting) in pairwise(samples)
            if at > before
        ]
