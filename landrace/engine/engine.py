"""`Engine`: requests in, tokens out. No I/O, no globals, one thread for `Masks`: whoever owns it calls `step`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from operator import eq

from torch import Tensor

from landrace.engine.accounts import Accounts
from landrace.engine.adapters import Adapters
from landrace.engine.answers import Answer, answers
from landrace.engine.batch_builder import build_batch
from landrace.engine.cache.cache import Cache
from landrace.engine.cache.kinds import new_group, slots_of
from landrace.engine.cache.memory import CACHE_DTYPES, CacheMemory
from landrace.engine.cache.pool import root_hash
from landrace.engine.drafting import drafting
from landrace.engine.facts import EngineFacts
from landrace.engine.live import Live
from landrace.engine.masks import Masks
from landrace.engine.options import EngineOptions
from landrace.engine.out_of_memory import is_out_of_memory
from landrace.engine.outputs import Completion, StepOutput, TokenLogprob
from landrace.engine.overflow import begun, continued
from landrace.engine.readout import Pooling, PoolKind
from landrace.engine.refusals import check_request
from landrace.engine.request import Request
from landrace.engine.scheduler import Scheduler
from landrace.errors import LandraceError, OptionError, OutOfMemoryError, RequestError, StepError
from landrace.models.batch import ForwardBatch
from landrace.models.lora_spec import LoraSpec
from landrace.models.serving import ServingDecoder
from landrace.text import Tokenizer

MOST_FORCED = 32
"""So many forced tokens are taken at once: they are computed in one step with what others choose there."""


class Engine:
    """Continuous batching over one decoder.

    Whoever changes the decoder's weights, or an adapter's, calls `weights_changed` before the next step.
    `draft_model` writes the drafts where `options.draft` names one; for mtp the decoder has the layer that does. Raises
    OptionError for options that this model or machine cannot honour.
    """

    def __init__(
        self,
        decoder: ServingDecoder,
        tokenizer: Tokenizer,
        options: EngineOptions | None = None,
        *,
        draft_model: ServingDecoder | None = None,
    ) -> None:
        self.decoder = decoder
        self.tokenizer = tokenizer
        self.options = options or EngineOptions()
        spec = decoder.spec
        asked = self.options.max_length or spec.max_length
        if asked > spec.max_length:
            raise OptionError(f"max_length is {asked}, but the model's own limit is {spec.max_length}.")
        # A sequence that could outgrow the whole cache would lose its answer there.
        self.max_length = min(asked, self.options.cache_room)
        """Longest sequence that is served, prompt and answer."""
        if self.options.shifts and 2 * self.options.context_keep > self.max_length:
            raise OptionError(
                f"context_keep is {self.options.context_keep}, which is more than half of the {self.max_length} tokens "
                "that a sequence can have.",
                hint="Lower it.",
            )
        self._decoders = [one for one in (decoder, draft_model) if one is not None]
        cache_dtype = CACHE_DTYPES[self.options.cache_dtype]
        n_slots = [slots_of(group.spec, self.options) for group in spec.cache_groups]
        self._memory = CacheMemory(decoder, n_slots, self.options.block_size, cache_dtype, self.options.most_guesses)
        self._scheduler = self._new_scheduler()
        self._drafting = drafting(self.options, decoder, self._memory, draft_model, cache_dtype, self.max_length)
        self._masks = Masks()
        self._live: dict[str, Live] = {}
        self._pending: list[StepOutput] = []
        self._adapters = Adapters(decoder)
        self._accounts = Accounts()

    @property
    def cache_bytes_per_token(self) -> float:
        """Memory that one cached token takes over all layers."""
        return self._memory.bytes_per_token

    def cache_bytes_of(self, tokens: int) -> int:
        """Memory that a sequence of so many tokens takes over all layers, windows and states included."""
        return self._memory.bytes_of(tokens)

    @property
    def cache_bytes(self) -> int:
        """Memory of the whole cache, that of a draft model included. What has never held a token may not be taken
        yet."""
        return self._memory.nbytes + (self._drafting.cache_bytes if self._drafting else 0)

    @property
    def facts(self) -> EngineFacts:
        """How the engine stands now, and what it has computed; may be asked for from another thread."""
        scheduler = self._scheduler
        return self._accounts.facts(len(scheduler.running), len(scheduler.waiting), scheduler.cache.facts())

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything to compute or report."""
        return bool(self._live or self._pending)

    def add_adapter(self, name: str, spec: LoraSpec, tensors: Mapping[str, Tensor]) -> None:
        """Makes an adapter available to requests by `name`.

        Raises OptionError for a name in use and CheckpointError for tensors that do not fit the decoder.
        """
        self._adapters.add(name, spec, tensors)

    def remove_adapter(self, name: str) -> None:
        """Takes an adapter off again. Raises OptionError when there is none or a request is using it."""
        if name not in self._adapters:
            raise OptionError(f"There is no adapter called {name!r}.")
        if any(live.request.adapter == name for live in self._live.values()):
            raise OptionError(f"The adapter {name!r} is in use.", hint="Wait for its requests, or abort them.")
        self._adapters.remove(name)

    def weights_changed(self) -> None:
        """Nothing that was cached before serves any request from now on.

        A request that has begun ends with a StepError, which the next step reports: its tokens would be neither the old
        weights' nor the new ones'. One that waits is computed with the new weights.
        """
        error = StepError("The model's weights changed while this request was computed.", hint="Send it again.")
        for live in [live for live in self._live.values() if live.progress.admitted is not None]:
            self._forget(live)
            self._pending.append(live.output(finish_reason="error", error=error))
        self._queue_anew()

    def add(self, request: Request) -> None:
        """Queues a request. Raises RequestError at once for one that can never be served, and leaves no trace of it."""
        try:
            self._add(request)
        except RequestError:
            raise
        except Exception as cause:
            raise StepError.of(cause, "take the request") from cause

    def _add(self, request: Request) -> None:
        arrived = time.perf_counter()
        if request.id in self._live:
            raise RequestError(f"A request called {request.id!r} is already running.", field="id")
        if request.adapter is not None and request.adapter not in self._adapters:
            raise RequestError(f"There is no adapter called {request.adapter!r}.", field="adapter")
        check_request(request, self.decoder.spec.vocab_size, self.max_length, self.options)
        progress = begun(request, root_hash(self._adapters.serial(request.adapter)), self.options, self.max_length)
        live = Live.of(progress, self.tokenizer, self.decoder.spec, self.decoder.device)
        live.progress.arrived = arrived
        self._scheduler.add(live.progress)
        self._live[request.id] = live

    def _shift(self, live: Live) -> None:
        """Goes on without the oldest part of a sequence that is as long as it may be."""
        progress = continued(live.progress, self.options, self.max_length)
        self._scheduler.go_on(live.progress, progress)
        if self._drafting:
            self._drafting.forget(live.request.id)
        self._live[live.request.id] = live.going_on(progress)

    def abort(self, request_id: str) -> None:
        """Ends a request; the next step reports it. Nothing happens if it has ended already."""
        live = self._live.get(request_id)
        if live is None:
            return
        try:
            self._pending.append(self._cut(live, "abort"))
        except Exception as cause:  # noqa: BLE001  the request ends, the engine goes on
            self._start_over(cause, self._pending)

    def step(self) -> list[StepOutput]:
        """Computes one packed batch and returns what came of it, in order of computation.

        Whatever fails ends the requests it happened to with a StepError: one where it is the request's own work, those
        of the step where it is the forward pass (the latest where it lacks memory), those that ran where it is the
        bookkeeping. The others go on.
        """
        started = time.perf_counter()
        before, self._pending = self._pending, []
        outputs: list[StepOutput] = []
        try:
            with ExitStack() as around:
                for decoder in self._decoders:
                    around.enter_context(decoder.around_step())
                self._step(outputs)
        except Exception as cause:  # noqa: BLE001  the request ends, the engine goes on
            self._start_over(cause, outputs)
        return before + self._accounts.close(time.perf_counter() - started, outputs)

    def _step(self, outputs: list[StepOutput]) -> None:
        plan = self._scheduler.schedule()
        self._accounts.preemptions += plan.preempted
        self._accounts.reused_tokens += plan.reused
        lives = [self._live[progress.request.id] for progress in plan.work]
        self._memory.copy(self._scheduler.cache.take_copies())
        if lives:
            with self._drafting.step(lives) if self._drafting else nullcontext():
                self._compute(lives, outputs)

    def _start_over(self, cause: Exception, outputs: list[StepOutput]) -> None:
        """After the bookkeeping itself failed, none of it can be trusted: what ran ends, what waits is queued anew on
        an empty pool. Where nothing ran, the first that waits ends, so that every failure ends something."""
        while isinstance(cause.__context__, Exception):  # what failed first is the reason
            cause = cause.__context__
        error = StepError.of(cause, "keep account of its requests")
        waiting = set(self._scheduler.waiting)
        lives = list(self._live.values())
        for live in [live for live in lives if live.progress not in waiting] or lives[:1]:
            self._forget(live)
            outputs.append(live.output(finish_reason="error", error=error))
        self._queue_anew()

    def _queue_anew(self) -> None:
        """An empty cache, and every request waits in order of arrival."""
        self._scheduler = self._new_scheduler()
        for live in self._live.values():
            self._scheduler.add(live.progress)

    def _new_scheduler(self) -> Scheduler:
        groups = self.decoder.spec.cache_groups
        return Scheduler(self.options, Cache([new_group(group.spec, self.options) for group in groups]))

    def generate(
        self, requests: Sequence[Request], on_output: Callable[[StepOutput], None] | None = None
    ) -> list[Completion]:
        """Runs requests to their end and returns them in the order given; a refused one becomes a Completion with its
        error. Needs an engine without other work."""
        if self.has_work:
            raise LandraceError("generate needs an engine that is not working on other requests.")
        parts: list[list[StepOutput]] = [[] for _ in requests]
        index_of: dict[str, int] = {}

        def report(index: int, output: StepOutput) -> None:
            parts[index].append(output)
            if on_output is not None:
                on_output(output)

        try:
            for index, request in enumerate(requests):
                try:
                    self.add(request)
                    index_of[request.id] = index
                except RequestError as error:
                    report(index, StepOutput(request.id, (), "", (), (), "error", error, 0, None))
            while self.has_work:
                for output in self.step():
                    report(index_of[output.request_id], output)
        except BaseException:  # an interrupt, or a failure in on_output: leave an idle engine behind
            for request_id in index_of:
                self.abort(request_id)
            self._pending.clear()
            raise
        return [Completion.of(request, outputs) for request, outputs in zip(requests, parts, strict=True)]

    def embed(
        self,
        prompts: Sequence[Sequence[int]],
        kinds: Sequence[PoolKind] = ("last",),
        *,
        skipped: int = 0,
        adapter: str | None = None,
    ) -> list[Completion]:
        """The vector of each prompt, as `Completion.read`: its hidden rows after the last norm, pooled. The first
        `skipped` rows do not count. Needs an engine without other work; beside other work, `add` such a request."""
        readouts = [Pooling.of(kinds, len(ids), skipped) for ids in prompts]
        pairs = zip(prompts, readouts, strict=True)
        return self.generate([Request.reading(str(n), ids, own, adapter) for n, (ids, own) in enumerate(pairs)])

    def _compute(self, lives: Sequence[Live], outputs: list[StepOutput]) -> None:
        now = time.perf_counter()
        for live in lives:
            if live.progress.admitted is None:
                live.progress.admitted = now
        self._accounts.open(lives)
        try:
            batch, wanted = build_batch([live.progress for live in lives], self._memory, self._adapters.slots)
            states = [live.states(rows.n_sampled) for live, rows in zip(lives, wanted, strict=True)]
            with self._masks.beside([state for own in states for state in own]):
                logits, hidden = self._run(batch, any(isinstance(live.request.readout, Pooling) for live in lives))
        except Exception as cause:  # noqa: BLE001  the request ends, the engine goes on
            outputs += self._fail_step(lives, cause)
            return
        told = answers(logits, lives, wanted, states, self.decoder.choose_tokens)
        for live, answer, rows in zip(lives, told, wanted, strict=True):
            try:
                if live.reader is not None and answer.error is None:
                    live.reader.read(rows, live.progress, logits, hidden)
                output = self._fail(live, answer.error, sound=False) if answer.error else self._advance(live, answer)
            except RequestError as error:
                output = self._fail(live, error, sound=False)
            except Exception as cause:  # noqa: BLE001  the request ends, the engine goes on
                output = self._fail(live, StepError.of(cause, "go on with this request"), sound=False)
            if output is not None:
                outputs.append(output)

    def _fail_step(self, lives: Sequence[Live], cause: Exception) -> list[StepOutput]:
        """After a forward pass has failed. Where memory ran out only the latest of its requests ends, and the others
        are computed again from what is published: the states of recurrent layers may have moved on."""
        if not is_out_of_memory(cause):
            error = StepError.of(cause, "compute this step")
            return [self._fail(live, error) for live in lives]
        order = self._scheduler.running
        *others, latest = sorted(lives, key=lambda live: order.index(live.progress))
        for live in others:
            self._scheduler.preempt(live.progress)
        self._accounts.preemptions += len(others)
        return [self._fail(latest, OutOfMemoryError.of(cause, "compute this step"))]

    def _run(self, batch: ForwardBatch, with_hidden: bool) -> tuple[Tensor, Tensor | None]:
        """The logits of a step, and what the head read of its rows if that is wanted."""
        if self._drafting is not None:
            return self._drafting.compute(self.decoder, batch, with_hidden)
        return self.decoder.with_hidden(batch) if with_hidden else (self.decoder(batch), None)

    def _advance(self, live: Live, answer: Answer) -> StepOutput | None:
        """Books what a step computed for one request. None when there is nothing to report yet."""
        progress, params = live.progress, live.request.params
        taken: list[int] = []
        text, reason = "", None
        for token in _followed(live, answer):
            taken.append(token)
            live.sampling.record(token)
            if token in live.stop_ids:
                reason = "stop"
                break
            text += live.stop_text.push(live.stream.push((token,)))
            if live.stop_text.matched or live.sampling.complete:
                reason = "stop"
                break
            full = progress.held + len(taken) == self.max_length
            if progress.n_output + len(taken) == params.max_tokens or (full and not self.options.shifts):
                reason = "length"
            if full or reason:
                break
        draft = progress.draft
        self._scheduler.commit(progress, taken, max(0, len(taken) - len(answer.tokens)))
        if live.request.max_tokens == 0 and progress.left == 0:
            reason = "length"
        token_ids, logprobs = tuple(taken), answer.logprobs[: len(taken)]
        if reason is not None:
            output = self._finish(live, reason, token_ids, text, logprobs, answer.scores)
        elif taken or answer.scores:
            if progress.held == self.max_length:
                self._shift(live)
            output = live.output(token_ids, text, logprobs, answer.scores)
        else:
            return None
        if not draft:
            return output
        accepted = sum(map(eq, taken[: len(answer.tokens)], draft))
        return replace(output, drafted_tokens=len(draft), accepted_tokens=accepted)

    def _finish(
        self,
        live: Live,
        reason: str,
        token_ids: tuple[int, ...] = (),
        text: str = "",
        logprobs: tuple[TokenLogprob, ...] = (),
        scores: tuple[TokenLogprob, ...] = (),
    ) -> StepOutput:
        """Reports a request's end, with the text that was still held back, and frees everything it holds."""
        text += live.tail()
        if reason == "length" and live.stop_text.matched:
            reason = "stop"
        self._free(live)
        return live.output(token_ids, text, logprobs, scores, reason)

    def _fail(self, live: Live, error: RequestError, *, sound: bool = True) -> StepOutput:
        return self._cut(live, "error", error, sound=sound)

    def _cut(self, live: Live, reason: str, error: RequestError | None = None, *, sound: bool = True) -> StepOutput:
        """Ends a request where it stands. Text held back is not asked for: that may be what failed."""
        self._free(live, sound=sound)
        return live.output(finish_reason=reason, error=error)

    def _free(self, live: Live, *, sound: bool = True) -> None:
        self._scheduler.remove(live.progress, sound=sound)
        self._forget(live)

    def _forget(self, live: Live) -> None:
        del self._live[live.request.id]
        if self._drafting:
            self._drafting.forget(live.request.id)


def _followed(live: Live, answer: Answer) -> Iterator[int]:
    """The tokens of an answer, and those that are forced behind them: each is recorded before the next is asked for.
    Where logprobs are wanted a step has to say them, and every token waits for its own."""
    yield from answer.tokens
    if answer.tokens and live.request.params.logprobs is None:
        for _ in range(MOST_FORCED):
            if (forced := live.sampling.forced) is None:
                return
            yield forced
