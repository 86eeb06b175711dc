"""Measures the rows: every runner does the same work in turns, and each row is set beside the machine's limit."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from landrace.bench.floors import ModelCost, StepWork
from landrace.bench.fresh_process import FreshFigures, measure_fresh
from landrace.bench.pairs import Figures, alternate, timed
from landrace.bench.peers import OURS, RunnerChoice
from landrace.bench.report import Limit, Result
from landrace.bench.runner import Runner
from landrace.bench.workload import (
    DECODE_SLACK,
    SAMPLE_SECONDS,
    DecodeRow,
    FirstTokenRow,
    PrefillRow,
    decode_room,
    random_prompt,
)
from landrace.errors import LandraceError

if TYPE_CHECKING:
    from landrace.kernels.machine_limits import MachineLimits

WARM_UP = -1
"""The number of the pair that nobody keeps."""
_CALIBRATION_STEPS = 2
_MACHINE = "the machine"


@dataclass(frozen=True)
class Bench:
    """What every row needs: the open runners (ours first), the model's cost, the machine, and the number of pairs."""

    runners: Mapping[str, Runner]
    cost: ModelCost
    limits: MachineLimits
    pairs: int
    read_rate: Callable[[], float] | None = None
    """Measures `limits.read_gb_s` again, beside every pair: on a shared machine it moves by the second. None: it holds
    throughout."""

    @property
    def ours(self) -> Runner:
        return self.runners[OURS]

    def prompt(self, tokens: int, *seed: object) -> list[int]:
        return random_prompt(self.cost.spec.vocab_size, tokens, *seed)

    def floor_seconds(self, work: StepWork, limits: MachineLimits) -> Limit:
        floor = self.cost.floor(work, limits)
        return Limit(floor.seconds, floor.limit)

    def take_turns(
        self, runners: Mapping[str, Runner], one: Callable[[Runner], Callable[[int], Figures]]
    ) -> tuple[dict[str, list[Figures]], MachineLimits]:
        """The samples of all pairs, and the machine's limits among them."""
        calls = {name: one(runner) for name, runner in runners.items()}
        for call in calls.values():
            call(WARM_UP)
        if (read_rate := self.read_rate) is None:
            return alternate(calls, self.pairs), self.limits
        samples = alternate({**calls, _MACHINE: lambda pair: (read_rate(),)}, self.pairs)
        rates = [rate for (rate,) in samples.pop(_MACHINE)]
        return samples, replace(self.limits, read_gb_s=statistics.median(rates))


def measure_prefill(bench: Bench, row: PrefillRow) -> Result:
    """tokens/s from a prompt's first token to the choice of the next one, a new prompt for each pair."""

    def one(runner: Runner) -> Callable[[int], Figures]:
        def run(pair: int) -> Figures:
            prompt = bench.prompt(row.tokens, row.name, pair)
            return (row.tokens / timed(lambda: runner.first_token(prompt)),)

        return run

    samples, limits = bench.take_turns(bench.runners, one)
    floor = bench.floor_seconds(StepWork(streams=1, new=row.tokens, past=0), limits)
    limit = Limit(row.tokens / floor.value, floor.set_by)
    settings = {"tokens": row.tokens, "read_gb_s": limits.read_gb_s}
    return Result(row.name, "tokens/s", _first_figures(samples), limit, settings)


def measure_first_token(bench: Bench, row: FirstTokenRow) -> list[Result]:
    """Milliseconds to the first token of a new prompt, and of the same prompt once more."""

    def one(runner: Runner) -> Callable[[int], Figures]:
        def run(pair: int) -> Figures:
            prompt = bench.prompt(row.tokens, row.name, pair)
            cold = timed(lambda: runner.first_token(prompt))
            return cold * 1e3, timed(lambda: runner.first_token_again(prompt)) * 1e3

        return run

    samples, limits = bench.take_turns(bench.runners, one)
    results = []
    for index, (kind, new) in enumerate((("cold", row.tokens), ("prefix cached", 1))):
        floor = bench.floor_seconds(StepWork(streams=1, new=new, past=row.tokens - new), limits)
        figures = {name: [figure[index] for figure in found] for name, found in samples.items()}
        limit = Limit(floor.value * 1e3, floor.set_by)
        settings = {"tokens": row.tokens, "read_gb_s": limits.read_gb_s}
        results.append(Result(f"{row.name}, {kind}", "ms", figures, limit, settings))
    return results


def measure_decode(bench: Bench, row: DecodeRow) -> Result:
    """tokens/s of all streams together, over samples of equally many steps from the same context."""
    spec = bench.cost.spec
    taking_part = {name: runner for name, runner in bench.runners.items() if runner.max_streams >= row.streams}
    prompts = [bench.prompt(row.context, row.name, stream) for stream in range(row.streams)]
    room = decode_room(row, spec.max_length)
    begun: list[Runner] = []
    try:
        for name, runner in taking_part.items():
            begun.append(runner)
            # Ours would share the cache of equal prompts, and read less than a real batch does. A peer's copies are
            # apart in memory, so it is spared computing them, unless equal streams would go to the same few experts.
            copies = name != OURS and not bench.cost.matrices.experts
            runner.begin_decode([prompts[0]] * row.streams if copies else prompts, room)
        steps = _steps_of_a_sample(bench.ours, room - DECODE_SLACK)
        samples, limits = bench.take_turns(taking_part, lambda runner: _decode_sample(runner, row.streams, steps))
    finally:
        for runner in begun:
            runner.end_decode()
    mean_context = row.context + (steps - 1) / 2
    floor = bench.floor_seconds(StepWork(row.streams, new=1, past=mean_context), limits)
    limit = Limit(row.streams / floor.value, floor.set_by)
    sizes = {"streams": row.streams, "context": row.context, "steps": steps}
    settings = {**sizes, "read_gb_s": limits.read_gb_s}
    return Result(row.name, "tokens/s", _first_figures(samples), limit, settings)


def measure_load(
    choices: Mapping[str, RunnerChoice], prompt: Sequence[int], pairs: int, *, file_bytes: int, limits: MachineLimits
) -> list[Result]:
    """Seconds to load and the most resident memory, each sample in a process of its own that computes `prompt` once."""
    found: dict[str, list[FreshFigures]] = {name: [] for name in choices}

    def one(name: str) -> Callable[[int], Figures]:
        def run(pair: int) -> Figures:
            figures = measure_fresh(choices[name], prompt)
            found[name].append(figures)
            return figures.load_seconds, figures.peak_bytes / 1e6

        return run

    samples = alternate({name: one(name) for name in choices}, pairs)
    seconds = {name: [figures[0] for figures in pairs_of] for name, pairs_of in samples.items()}
    peak = {name: [figures[1] for figures in pairs_of] for name, pairs_of in samples.items()}
    held = [figures.held_bytes / 1e6 for figures in found[OURS] if figures.held_bytes is not None]
    beyond = [figure - part for figure, part in zip(peak[OURS], held, strict=True)]
    return [
        Result("load", "s", seconds, Limit(file_bytes / (limits.read_gb_s * 1e9), "bytes")),
        Result("peak memory", "MB", peak, Limit(held[0], "weights and cache"), {"tokens": len(prompt)}),
        Result("memory beyond weights and cache", "MB", {OURS: beyond}, None, {"tokens": len(prompt)}),
    ]


def _decode_sample(runner: Runner, streams: int, steps: int) -> Callable[[int], Figures]:
    def run(pair: int) -> Figures:
        runner.rewind()
        tokens: list[tuple[int, ...]] = []
        seconds = timed(lambda: tokens.extend(runner.decode(steps)))
        if [len(step) for step in tokens] != [streams] * steps:
            raise LandraceError(f"{runner.name} did not decode {streams} tokens in each of {steps} steps.")
        return (streams * steps / seconds,)

    return run


def _steps_of_a_sample(runner: Runner, most: int) -> int:
    """How many steps last about SAMPLE_SECONDS."""
    runner.rewind()
    seconds = timed(lambda: runner.decode(_CALIBRATION_STEPS)) / _CALIBRATION_STEPS
    return max(_CALIBRATION_STEPS, min(most, round(SAMPLE_SECONDS / seconds)))


def _first_figures(samples: Mapping[str, list[Figures]]) -> dict[str, list[float]]:
    return {name: [figures[0] for figures in found] for name, found in samples.items()}
