"""`bench_model`: one run of the bench, from the model's name to the report."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from landrace.bench.busy import OthersWatch, available_memory, busy_warnings
from landrace.bench.floors import ModelCost, arithmetic_of, held_matrix_bytes, stored_matrix_bytes
from landrace.bench.measure import Bench, measure_decode, measure_first_token, measure_load, measure_prefill
from landrace.bench.ours import Ours
from landrace.bench.peers import OURS, RunnerChoice, check_peers, choose_peer, peer_version
from landrace.bench.report import BenchReport, LeftOut, Result
from landrace.bench.runner import Runner
from landrace.bench.workload import (
    BenchOptions,
    DecodeRow,
    FirstTokenRow,
    LoadRow,
    PrefillRow,
    Row,
    decode_room,
    fits_length,
    random_prompt,
    rows_of,
)
from landrace.checkpoints import Checkpoint, open_checkpoint
from landrace.checkpoints.store import ModelStore, default_home
from landrace.errors import OptionError
from landrace.ledger import Provenance
from landrace.ledger.records import utc_now
from landrace.models.stored import WEIGHTS

if TYPE_CHECKING:
    from landrace.kernels.machine_limits import MachineLimits

MEMORY_SHARE = 0.8
"""Of the memory that is free, what the caches of a row may take."""
FRESH_PROMPT = 512

MeasureMachine = Callable[[], "MachineLimits"]
OnRow = Callable[[int, int, str], None]
"""Called with the rows done, the rows in all, and the name of the one that begins."""


def bench_model(
    model: str,
    options: BenchOptions,
    measure_machine: MeasureMachine,
    on_row: OnRow,
    read_rate: Callable[[], float] | None = None,
) -> BenchReport:
    """Measures the machine, then every row of `options` for the model in ours and the peers' hands.

    `measure_machine` is called before and after: a machine that changed in between was busy. `read_rate`: see `Bench`.
    Raises OptionError for peers or weights that are unknown, and what opening a model raises.
    """
    check_peers(options.against)
    if options.weights not in WEIGHTS:
        raise OptionError(f"There are no weights {options.weights!r}.", hint=f"Choose {', '.join(WEIGHTS)}.")
    watch, started = OthersWatch(), utc_now().isoformat()
    checkpoint = open_checkpoint(ModelStore(default_home()).resolve(model))
    sha256 = checkpoint.sha256()
    rows, left_out = _rows_that_fit(options, checkpoint)
    on_row(0, len(rows), "the machine")
    limits = measure_machine()
    with ExitStack() as opened:
        scratch = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="landrace-bench-")))
        choices = {OURS: RunnerChoice(OURS, model, options.threads, options.weights, options.kernels)}
        for name in options.against:
            choice = choose_peer(name, checkpoint, options.threads, scratch / name)
            if isinstance(choice, str):
                left_out.append(LeftOut(name, choice))
            else:
                choices[name] = choice
        found = _measure_rows(rows, choices, checkpoint, options, limits, read_rate, left_out, on_row)
    after = measure_machine()
    return BenchReport(
        model=model,
        started=started,
        quick=options.quick,
        pairs=options.pairs,
        options={**asdict(options), "against": list(options.against), "only": list(options.only)},
        provenance=asdict(Provenance.here(weights_sha256=sha256)),
        versions={"torch": metadata.version("torch"), **{name: peer_version(name) for name in options.against}},
        limits=asdict(limits),
        model_facts={"format": checkpoint.format, **found.facts},
        results=tuple(found.results),
        left_out=tuple(left_out),
        warnings=(*found.notices, *busy_warnings(watch.share(), limits.read_gb_s, after.read_gb_s)),
    )


def _rows_that_fit(options: BenchOptions, checkpoint: Checkpoint) -> tuple[list[Row], list[LeftOut]]:
    longest = checkpoint.spec.max_length
    rows, left_out = [], []
    for row in rows_of(options):
        if fits_length(row, longest):
            rows.append(row)
        else:
            left_out.append(LeftOut(row.name, f"the model takes at most {longest} tokens"))
    return rows, left_out


@dataclass(frozen=True)
class _Found:
    results: list[Result]
    facts: dict[str, Any]
    notices: list[str]
    """What the engine has to say about how it serves the model."""


def _measure_rows(
    rows: list[Row],
    choices: Mapping[str, RunnerChoice],
    checkpoint: Checkpoint,
    options: BenchOptions,
    limits: MachineLimits,
    read_rate: Callable[[], float] | None,
    left_out: list[LeftOut],
    on_row: OnRow,
) -> _Found:
    results: list[Result] = []
    rest = [row for row in rows if not isinstance(row, LoadRow)]
    if len(rest) < len(rows):  # before anything is open here, so that the processes have the machine to themselves
        on_row(0, len(rows), LoadRow().name)
        prompt = random_prompt(checkpoint.spec.vocab_size, min(FRESH_PROMPT, checkpoint.spec.max_length // 2), "load")
        file_bytes = sum(info.nbytes for info in checkpoint.tensor_infos.values())
        results += measure_load(choices, prompt, options.pairs, file_bytes=file_bytes, limits=limits)
    own = choices[OURS]
    ours = Ours.open(own.model, weights=own.weights, kernels=own.kernels, threads=own.threads)
    cost = _cost(checkpoint, ours, options.weights)
    runners: dict[str, Runner] = {OURS: ours}
    if rest:
        runners |= {name: choice.open() for name, choice in choices.items() if name != OURS}
    bench = Bench(runners, cost, limits, options.pairs, read_rate)
    for number, row in enumerate(rest, start=len(rows) - len(rest)):
        on_row(number, len(rows), row.name)
        reason = _too_large(row, bench)
        if reason is None:
            results += _measure(bench, row)
        else:
            left_out.append(LeftOut(row.name, reason))
    facts = {
        "kernels": ours.kernels,
        "arithmetic": cost.arithmetic,
        "matrix_bytes": cost.matrices.always,
        "expert_bytes": cost.matrices.experts,
        "cache_bytes_per_token": cost.cache_bytes_per_token,
    }
    return _Found(results, facts, [] if ours.notice is None else [ours.notice])


def _measure(bench: Bench, row: PrefillRow | DecodeRow | FirstTokenRow) -> list[Result]:
    if isinstance(row, DecodeRow):
        return [measure_decode(bench, row)]
    return measure_first_token(bench, row) if isinstance(row, FirstTokenRow) else [measure_prefill(bench, row)]


def _cost(checkpoint: Checkpoint, ours: Ours, weights: str) -> ModelCost:
    """As stored, a matrix costs its bytes in the file, or what it takes where that is less; else what it takes."""
    held, stored = ours.held_bytes, weights == "stored"
    matrices = stored_matrix_bytes(checkpoint, held) if stored else held_matrix_bytes(checkpoint.spec, held)
    return ModelCost(checkpoint.spec, matrices, ours.cache_bytes_per_token, arithmetic_of(checkpoint, weights))


def _too_large(row: Row, bench: Bench) -> str | None:
    """Why the caches of a decode row do not fit into memory, those of the peers counted as large as ours."""
    if not isinstance(row, DecodeRow):
        return None
    free = available_memory()
    tokens = row.context + decode_room(row, bench.cost.spec.max_length)
    holders = sum(runner.max_streams >= row.streams for runner in bench.runners.values())
    needed = row.streams * bench.cost.cache_bytes(tokens) * holders
    if free is None or needed <= MEMORY_SHARE * free:
        return None
    return f"the caches need {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free"
