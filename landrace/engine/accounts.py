"""`Accounts`: what the steps of an engine computed, how long they took, and whose time that was."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from landrace.engine.facts import CacheFacts, EngineFacts
from landrace.engine.live import Live
from landrace.engine.outputs import StepOutput


@dataclass
class Accounts:
    """Numbers of all steps so far. A step's time is shared out among its requests by the rows that it computed for
    each, those of guesses included: what a row costs depends on the model, on the others and on how far back it looks,
    and no share of that would be more just than a simple one that adds up."""

    steps: int = 0
    seconds: float = 0.0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    reused_tokens: int = 0
    preemptions: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    _rows: Sequence[tuple[Live, int]] = ()
    """Those of the step that is computed now."""

    def open(self, lives: Iterable[Live]) -> None:
        """A step is about to compute what is scheduled and drafted for these."""
        rows = []
        for live in lives:
            progress = live.progress
            rows.append((live, progress.scheduled + len(progress.draft)))
            prompt = len(progress.request.prompt_ids)
            self.prompt_tokens += min(progress.cached + progress.scheduled, prompt) - min(progress.cached, prompt)
        self._rows = rows

    def close(self, seconds: float, outputs: Sequence[StepOutput]) -> list[StepOutput]:
        """The step took so long, and brought these. Returns them with their requests' time up to now."""
        rows, self._rows = self._rows, ()
        total = sum(n for _, n in rows)
        if total == 0:
            return list(outputs)
        self.steps += 1
        self.seconds += seconds
        spent = {}
        for live, n in rows:
            live.spent.seconds += seconds * n / total
            spent[live.request.id] = live.spent.seconds
        for output in outputs:
            self.generated_tokens += len(output.token_ids)
            self.drafted_tokens += output.drafted_tokens
            self.accepted_tokens += output.accepted_tokens
        return [
            replace(output, machine_seconds=spent.get(output.request_id, output.machine_seconds)) for output in outputs
        ]

    def facts(self, running: int, waiting: int, cache: Iterable[CacheFacts]) -> EngineFacts:
        """Beside how the engine stands now."""
        return EngineFacts(
            running=running,
            waiting=waiting,
            cache=tuple(cache),
            steps=self.steps,
            step_seconds=self.seconds,
            prompt_tokens=self.prompt_tokens,
            generated_tokens=self.generated_tokens,
            reused_tokens=self.reused_tokens,
            preemptions=self.preemptions,
            drafted_tokens=self.drafted_tokens,
            accepted_tokens=self.accepted_tokens,
        )
