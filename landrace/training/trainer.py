"""`tune`: supervised tuning of a decoder, an adapter or all of its weights."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from landrace.errors import OptionError
from landrace.models.batch import AdapterRows
from landrace.models.decoder import Decoder
from landrace.models.lora import adapter_parameters, attach_adapter, detach_adapter
from landrace.models.lora_spec import LoraSpec
from landrace.training.checkpoint import RunIdentity, load_checkpoint, newest_checkpoint, save_checkpoint
from landrace.training.data import Row, rows_sha256
from landrace.training.examples import DataReport, Example, build_examples, examples_sha256
from landrace.training.interrupt import InterruptGuard, TuneInterrupted
from landrace.training.log import StepReport, TrainingLog
from landrace.training.loss import loss_sum
from landrace.training.optimizer import make_optimizer, optimizer_step
from landrace.training.options import TuneOptions
from landrace.training.packing import Order, micro_batches
from landrace.training.schedule import learning_rate

if TYPE_CHECKING:
    from landrace.text import Tokenizer

_FINGERPRINT_ELEMENTS = 256


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


@dataclass(frozen=True)
class _Trainee:
    """What of the decoder is trained."""

    parameters: dict[str, nn.Parameter]
    lora: LoraSpec | None
    adapters: tuple[AdapterRows, ...]


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
) -> TuneResult:
    """Trains on `rows` and returns the result; `landrace.training.result.write_result` turns it into files.

    Writes `out`/log.jsonl and `out`/checkpoints. LoRA leaves the decoder as it was; full tuning changes it in place.
    `resume` continues the newest checkpoint in `out` to the same weights a run without a stop ends with (bit for bit
    on a CPU with the same number of threads). Ctrl-C finishes the step, saves a checkpoint and raises TuneInterrupted.
    Raises DataError, OptionError, DivergedError.
    """
    options = options.for_model(decoder.spec.max_length)
    longest = options.max_length
    assert longest is not None
    examples, data = build_examples(rows, tokenizer, max_length=longest)
    checked, validation_data = build_examples(validation, tokenizer, max_length=longest) if validation else (None, None)
    identity = RunIdentity(options.as_dict(), examples_sha256(examples), weights_fingerprint(decoder))
    newest = _starting_point(out, resume)
    begun = time.perf_counter()
    with _trainee(decoder, options) as trainee:
        run = _Run(decoder, trainee, examples, checked, options, identity, out)
        run.start(newest)
        reports = run.finish(on_step)
        tensors = {
            name: parameter.detach().clone() if trainee.lora else parameter.detach()
            for name, parameter in trainee.parameters.items()
        }
    return TuneResult(
        options,
        trainee.lora,
        tensors,
        data,
        validation_data,
        reports,
        time.perf_counter() - begun,
        rows_sha256(rows),
        identity.examples_sha256,
        identity.base_sha256,
        None if tokenizer.chat_template is None else tokenizer.chat_template.sha256,
    )


def weights_fingerprint(decoder: Decoder) -> str:
    """SHA-256 over the product dtype and every weight's name, shape, dtype and up to 256 evenly spaced elements.

    Enough to tell two models apart, in milliseconds. It is no proof against forgery; the checkpoint's own hash is.
    """
    digest = hashlib.sha256(f"{decoder.product_dtype}\n".encode())
    for name, tensor in decoder.named_tensors():
        flat = tensor.reshape(-1)
        sample = flat[:: max(1, flat.numel() // _FINGERPRINT_ELEMENTS)][:_FINGERPRINT_ELEMENTS]
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(sample.float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _starting_point(out: Path, resume: bool) -> Path | None:
    """The checkpoint to go on from. Never lets a new run overwrite an old one."""
    newest = newest_checkpoint(out / "checkpoints")
    if resume and newest is None:
        raise OptionError(
            f"{out} has no checkpoint to resume from.", hint="Start a new run in another folder, without resuming."
        )
    if not resume and (newest is not None or (out / "log.jsonl").exists()):
        raise OptionError(
            f"{out} already holds a training run.",
            hint="Resume it (--resume), choose another folder, or delete this one.",
        )
    out.mkdir(parents=True, exist_ok=True)
    return newest if resume else None


@contextmanager
def _trainee(decoder: Decoder, options: TuneOptions) -> Iterator[_Trainee]:
    """Makes the chosen parameters trainable, and nothing else, for as long as the context lasts."""
    before = [(parameter, parameter.requires_grad) for parameter in decoder.parameters()]
    decoder.requires_grad_(False)
    slot: int | None = None
    try:
        if options.method == "lora":
            spec = LoraSpec(options.rank, options.alpha, options.targets)
            slot = attach_adapter(decoder, spec, generator=torch.Generator().manual_seed(options.seed))
            trainee = _Trainee(adapter_parameters(decoder, slot), spec, (AdapterRows(slot, None),))
        else:
            trainee = _Trainee(_all_weights(decoder), None, ())
        for parameter in trainee.parameters.values():
            parameter.requires_grad_(True)
        yield trainee
    finally:
        if slot is not None:
            detach_adapter(decoder, slot)
        decoder.zero_grad(set_to_none=True)
        for parameter, required in before:
            parameter.requires_grad_(required)


def _all_weights(decoder: Decoder) -> dict[str, nn.Parameter]:
    if decoder.dtype != torch.float32:
        raise OptionError(
            f"Full tuning needs weights in float32, not {decoder.dtype}: smaller updates would be lost.",
            hint="Open the model in float32, or tune an adapter (--method lora).",
        )
    weights = dict(decoder.named_parameters())
    if any("lora_A" in name for name in weights):
        raise OptionError("Full tuning needs a decoder without adapters.", hint="Detach the adapters first.")
    return weights


class _Run:
    """The loop and what it carries from step to step."""

    def __init__(
        self,
        decoder: Decoder,
        trainee: _Trainee,
        examples: Sequence[Example],
        checked: Sequence[Example] | None,
        options: TuneOptions,
        identity: RunIdentity,
        out: Path,
    ) -> None:
        self._decoder = decoder
        self._trainee = trainee
        self._examples = examples
        self._checked = checked
        self._options = options
        self._identity = identity
        self._out = out
        self._optimizer = make_optimizer(trainee.parameters, options)
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
        """Runs all steps that are left."""
        log = TrainingLog(self._out / "log.jsonl", done_steps=self._done)
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
        finally:
            log.close()
        return tuple(log.reports)

    def _step(self) -> StepReport:
        begun = time.perf_counter()
        plan, total = self._order.step(self._done), self._order.total_steps
        rate = learning_rate(
            self._done,
            total,
            self._options.peak_learning_rate,
            warmup_ratio=self._options.warmup_ratio,
            min_lr_ratio=self._options.min_lr_ratio,
        )
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
        )

    def _validate(self) -> float | None:
        if self._checked is None:
            return None
        batches = micro_batches(
            self._checked, self._options.micro_tokens, device=self._decoder.device, adapters=self._trainee.adapters
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
