"""`tune`: supervised tuning of a decoder, an adapter or all of its weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from landrace.checkpoints.folder import writing
from landrace.models.decoder import Decoder
from landrace.models.lora_spec import LoraSpec
from landrace.training.checkpoint import RunIdentity, load_checkpoint, save_checkpoint
from landrace.training.data import Row, rows_sha256
from landrace.training.examples import DataReport, Example, build_examples, examples_sha256
from landrace.training.interrupt import InterruptGuard, TuneInterrupted
from landrace.training.last_good import LastGood
from landrace.training.log import StepReport, TrainingLog
from landrace.training.loss import loss_sum
from landrace.training.optimizer import DivergedError, check_finite, make_optimizer, optimizer_step
from landrace.training.options import TuneOptions
from landrace.training.overlap import row_hashes
from landrace.training.packing import Order, micro_batches
from landrace.training.run_folder import free, starting_point
from landrace.training.schedule import learning_rate
from landrace.training.threads import ThreadChoice, waited_seconds
from landrace.training.trainee import Trainee, trainee, weights_fingerprint

if TYPE_CHECKING:
    from landrace.text import Tokenizer


@dataclass(frozen=True)
class TuneResult:
    """What a finished run made and what it saw."""

    options: TuneOptions
    lora: LoraSpec | None
    """None after full tuning."""
    tensors: dict[str, Tensor]
    """The adapter under the names `attach_adapter` takes, or every weight of the decoder."""
    data: DataReport
    validation_data: DataReport | None
    steps: tuple[StepReport, ...]
    loss_after: float | None
    """Mean -log p over the examples of the first step when all is done, beside the first step's own loss. None for a
    run that diverged."""
    diverged: str | None
    """Why the run ended before its last step; `tensors` are those of the last step in `steps`."""
    row_hashes: str | None
    """Of the training rows; see `landrace.training.overlap`."""
    seconds: float
    """Of this call; a resumed run took longer."""
    rows_sha256: str
    examples_sha256: str
    base_sha256: str
    """Fingerprint of the base weights; see `weights_fingerprint`."""
    template_sha256: str | None

    @property
    def tokens_per_second(self) -> float:
        """Over all optimizer steps, without validation and saving."""
        return sum(step.tokens for step in self.steps) / sum(step.seconds for step in self.steps)


def tune(
    decoder: Decoder,
    tokenizer: Tokenizer,
    rows: Sequence[Row],
    options: TuneOptions,
    *,
    out: Path,
    on_step: Callable[[StepReport], None] | None = None,
    validation: Sequence[Row] | None = None,
    resume: bool = False,
    threads: ThreadChoice | None = None,
) -> TuneResult:
    """Trains on `rows` and returns the result; `landrace.training.result.write_result` turns it into files.

    Writes `out`/log.jsonl and `out`/checkpoints. LoRA leaves the decoder as it was; full tuning changes it in place.
    `resume` continues the newest checkpoint in `out` to the same weights a run without a stop ends with (bit for bit
    on a CPU with the same number of threads). `threads` takes fewer of them while other programs use the processors;
    None leaves torch's number alone. Ctrl-C finishes the step, saves a checkpoint and raises TuneInterrupted.
    Raises DataError, OptionError, CheckpointError (nothing can be written), and DivergedError, which has the newest
    weights that were no worse than the first, if there are any; otherwise `out` is free again.
    """
    options = options.for_model(decoder.spec.max_length)
    longest = options.max_length
    assert longest is not None
    newest = starting_point(out, resume)
    examples, data = build_examples(rows, tokenizer, max_length=longest)
    checked, validation_data = build_examples(validation, tokenizer, max_length=longest) if validation else (None, None)
    identity = RunIdentity(options.as_dict(), examples_sha256(examples), weights_fingerprint(decoder))
    begun = time.perf_counter()
    diverged: DivergedError | None = None
    with trainee(decoder, options) as trained:
        run = _Run(decoder, trained, examples, checked, options, identity, out, threads)
        run.start(newest)
        try:
            reports = run.finish(on_step)
        except DivergedError as error:
            diverged, reports = error, run.go_back()
        if trained.lora:
            tensors = {name: parameter.detach().clone() for name, parameter in trained.parameters.items()}
        else:  # With what learns nothing: tables of experts by token.
            tensors = dict(decoder.named_tensors())
    if diverged is not None and not reports:
        free(out)
        raise diverged
    result = TuneResult(
        options,
        trained.lora,
        tensors,
        data,
        validation_data,
        reports,
        run.loss_after,
        None if diverged is None else diverged.message,
        row_hashes(rows),
        time.perf_counter() - begun,
        rows_sha256(rows),
        identity.examples_sha256,
        identity.base_sha256,
        None if tokenizer.chat_template is None else tokenizer.chat_template.sha256,
    )
    if diverged is not None:
        diverged.result = result
        diverged.hint = f"{diverged.hint} Take another folder, because this one keeps what was good."
        raise diverged
    return result


class _Run:
    """The loop and what it carries from step to step."""

    def __init__(
        self,
        decoder: Decoder,
        trained: Trainee,
        examples: Sequence[Example],
        checked: Sequence[Example] | None,
        options: TuneOptions,
        identity: RunIdentity,
        out: Path,
        threads: ThreadChoice | None,
    ) -> None:
        self._decoder = decoder
        self._trainee = trained
        self._examples = examples
        self._checked = checked
        self._options = options
        self._identity = identity
        self._out = out
        self._threads = threads
        self._optimizer = make_optimizer(trained.parameters, options)
        self._good = LastGood(trained.parameters, in_memory=trained.lora is not None)
        self._reports: list[StepReport] = []
        self.loss_after: float | None = None
        self._order = Order(
            len(examples),
            batch_examples=options.batch_examples,
            epochs=options.epochs,
            seed=options.seed,
            max_steps=options.max_steps,
        )
        self._done = 0

    def start(self, checkpoint: Path | None) -> None:
        """Continues `checkpoint`, if there is one."""
        if checkpoint is not None:
            self._done = load_checkpoint(checkpoint, self._identity, self._trainee.parameters, self._optimizer)

    def finish(self, on_step: Callable[[StepReport], None] | None) -> tuple[StepReport, ...]:
        """Runs all steps that are left, and looks at what they came to."""
        with writing(self._out):
            self._out.mkdir(parents=True, exist_ok=True)
        log = TrainingLog(self._out / "log.jsonl", done_steps=self._done)
        self._reports = log.reports
        try:
            with InterruptGuard() as guard:
                while self._done < self._order.total_steps and not guard.requested:
                    report = self._step()
                    log.append(report)
                    self._save_if_due()
                    try:
                        if on_step is not None:
                            on_step(report)
                    except KeyboardInterrupt:
                        guard.requested = True
                if guard.requested and self._done < self._order.total_steps:
                    raise TuneInterrupted(self._done, self._order.total_steps, self._save())
                self.loss_after = self._mean_loss([self._examples[i] for i in self._order.step(0).indices])
                check_finite("loss after the last update", self.loss_after, self._done, updates=self._done)
        finally:
            log.close()
            if self._threads is not None:
                self._threads.restore()
        return tuple(self._reports)

    def go_back(self) -> tuple[StepReport, ...]:
        """After a divergence: puts the newest weights that were no worse than the first in place and returns the steps
        that made them; none when there are none. Later checkpoints are deleted."""
        self.loss_after = None
        step = self._good.restore(
            self._reports,
            self._out / "checkpoints",
            lambda path: load_checkpoint(path, self._identity, self._trainee.parameters, self._optimizer),
        )
        return tuple(self._reports[:step])

    def _step(self) -> StepReport:
        begun, waited = time.perf_counter(), waited_seconds()
        plan, total = self._order.step(self._done), self._order.total_steps
        rate = learning_rate(
            self._done,
            total,
            self._options.peak_learning_rate,
            warmup_ratio=self._options.warmup_ratio,
            min_lr_ratio=self._options.min_lr_ratio,
        )
        self._good.begin(self._done)
        result = optimizer_step(
            self._decoder,
            self._optimizer,
            [self._examples[i] for i in plan.indices],
            step=self._done + 1,
            rate=rate,
            options=self._options,
            adapters=self._trainee.adapters,
        )
        seconds = time.perf_counter() - begun
        self._good.measured(result.loss, self._reports[0].loss if self._reports else result.loss)
        threads = torch.get_num_threads() if self._decoder.device.type == "cpu" else None
        if self._threads is not None:
            self._threads.report(seconds / result.tokens, (waited_seconds() - waited) / seconds)
        self._done += 1
        last = plan.ends_epoch or self._done == total
        return StepReport(
            step=self._done,
            total_steps=total,
            epoch=plan.epoch + 1,
            loss=result.loss,
            learning_rate=rate,
            grad_norm=result.grad_norm,
            tokens=result.tokens,
            trained_tokens=result.trained_tokens,
            seconds=seconds,
            tokens_per_second=result.tokens / seconds,
            validation_loss=self._validate() if last else None,
            threads=threads,
        )

    def _validate(self) -> float | None:
        if self._checked is None:
            return None
        loss = self._mean_loss(self._checked)
        check_finite("validation loss", loss, self._done, updates=self._done)
        return loss

    def _mean_loss(self, examples: Sequence[Example]) -> float:
        batches = micro_batches(
            examples, self._options.micro_tokens, device=self._decoder.device, adapters=self._trainee.adapters
        )
        total = sum(loss_sum(self._decoder, micro) for micro in batches)
        return total / sum(micro.targets.numel() for micro in batches)

    def _save_if_due(self) -> None:
        every = self._options.save_every
        if every is not None and self._done % every == 0 and self._done < self._order.total_steps:
            self._save()

    def _save(self) -> Path:
        return save_checkpoint(
            self._out / "checkpoints",
            self._done,
            self._identity,
            self._trainee.parameters,
            self._optimizer,
            keep=self._options.keep_checkpoints,
        )
