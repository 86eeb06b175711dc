"""`Engine`: requests in, tokens out. No I/O, no threads, no globals: whoever owns it calls `step`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import compress, islice

import torch
from torch import Tensor

from landrace.engine.batch_builder import WantedRows, build_batch, rope_key, rope_length
from landrace.engine.block_pool import root_hash
from landrace.engine.cache import KVCache
from landrace.engine.options import EngineOptions
from landrace.engine.outputs import Completion, StepOutput, TokenLogprob
from landrace.engine.request import Request
from landrace.engine.sampler import SamplingState, choose_tokens, token_logprobs
from landrace.engine.scheduler import Scheduler
from landrace.engine.stopping import StopText
from landrace.errors import LandraceError, OptionError, PromptTooLongError, RequestError
from landrace.models.lora_spec import LoraSpec
from landrace.models.sampling import NOT_FINITE
from landrace.models.serving import ServingDecoder
from landrace.text import TextStream, Tokenizer

_CACHE_DTYPES = {
    "auto": None,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int8": torch.int8,
}


@dataclass(frozen=True)
class _Live:
    """A request the engine is working on, and what turns its logits into text."""

    request: Request
    sampling: SamplingState
    stop_ids: frozenset[int]
    stop_text: StopText
    stream: TextStream

    def tail(self) -> str:
        """Text still held back when no more tokens will come."""
        return self.stop_text.push(self.stream.flush()) + self.stop_text.flush()


@dataclass(frozen=True)
class _Adapter:
    slot: int
    serial: int
    """Never used twice, so that a new adapter in an old slot shares no cache with its predecessor."""


class Engine:
    """Continuous batching over one decoder.

    The decoder's weights must not change while the engine lives: cached keys and values come from them.
    Raises OptionError for options that this model or machine cannot honour.
    """

    def __init__(self, decoder: ServingDecoder, tokenizer: Tokenizer, options: EngineOptions | None = None) -> None:
        self.decoder = decoder
        self.tokenizer = tokenizer
        self.options = options or EngineOptions()
        spec = decoder.spec
        self.max_length = self.options.max_length or spec.max_length
        if self.max_length > spec.max_length:
            raise OptionError(f"max_length is {self.max_length}, but the model's own limit is {spec.max_length}.")
        self._without_gradients: AbstractContextManager[None] = (
            torch.inference_mode() if decoder.differentiable else nullcontext()
        )
        cache_dtype = _CACHE_DTYPES[self.options.cache_dtype]
        self._cache = KVCache(decoder, self.options.n_blocks, self.options.block_size, cache_dtype)
        self._scheduler = Scheduler(self.options)
        self._live: dict[str, _Live] = {}
        self._pending: list[StepOutput] = []
        self._adapters: dict[str, _Adapter] = {}
        self._n_adapters_added = 0

    @property
    def cache_bytes_per_token(self) -> float:
        """Memory that one cached token takes over all layers."""
        return self._cache.bytes_per_token

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything to compute or report."""
        return bool(self._live or self._pending)

    def add_adapter(self, name: str, spec: LoraSpec, tensors: Mapping[str, Tensor]) -> None:
        """Makes an adapter available to requests by `name`.

        Raises OptionError for a name in use and CheckpointError for tensors that do not fit the decoder.
        """
        if name in self._adapters:
            raise OptionError(f"There is already an adapter called {name!r}.")
        self._n_adapters_added += 1
        self._adapters[name] = _Adapter(self.decoder.add_adapter(spec, tensors), self._n_adapters_added)

    def remove_adapter(self, name: str) -> None:
        """Takes an adapter off again. Raises OptionError when there is none or a request is using it."""
        if name not in self._adapters:
            raise OptionError(f"There is no adapter called {name!r}.")
        if any(live.request.adapter == name for live in self._live.values()):
            raise OptionError(f"The adapter {name!r} is in use.", hint="Wait for its requests, or abort them.")
        self.decoder.remove_adapter(self._adapters.pop(name).slot)

    def add(self, request: Request) -> None:
        """Queues a request. Raises RequestError at once for one that can never be served."""
        request = replace(request)
        request.arrived = time.perf_counter()
        self._check(request)
        adapter = self._adapters[request.adapter].serial if request.adapter is not None else None
        request.root = root_hash(adapter, rope_key(self.decoder.spec, rope_length(request, self.max_length)))
        params = request.params
        self._live[request.id] = _Live(
            request=request,
            sampling=SamplingState(params, request.prompt_ids, self.decoder.device),
            stop_ids=frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else self.tokenizer.eos_ids),
            stop_text=StopText(params.stop),
            stream=TextStream(self.tokenizer, keep_leading_space=True),
        )
        self._scheduler.add(request)

    def abort(self, request_id: str) -> None:
        """Ends a request; the next step reports it. Nothing happens if it has ended already."""
        live = self._live.get(request_id)
        if live is not None:
            self._pending.append(self._finish(live, "abort"))

    def step(self) -> list[StepOutput]:
        """Computes one packed batch and returns what came of it, in order of computation."""
        with self._without_gradients:
            return self._step()

    def _step(self) -> list[StepOutput]:
        outputs, self._pending = self._pending, []
        plan = self._scheduler.schedule()
        for request in plan.outgrown:
            message = f"The sequence reached {request.held} tokens, more than the engine's cache holds."
            error = RequestError(message, field="max_tokens", hint="Raise cache_tokens or lower max_tokens.")
            outputs.append(self._fail(self._live[request.id], error))
        if plan.requests:
            outputs += self._compute([self._live[request.id] for request in plan.requests])
        return outputs

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

    def _check(self, request: Request) -> None:
        """Raises RequestError for anything that is known to be wrong before the first step."""
        params, n_prompt, vocab = request.params, len(request.prompt_ids), self.decoder.spec.vocab_size
        if request.id in self._live:
            raise RequestError(f"A request called {request.id!r} is already running.", field="id")
        if request.adapter is not None and request.adapter not in self._adapters:
            raise RequestError(f"There is no adapter called {request.adapter!r}.", field="adapter")
        if n_prompt == 0:
            raise RequestError("The prompt is empty.", field="prompt")
        if n_prompt + min(params.max_tokens, 1) > self.max_length:
            raise PromptTooLongError(
                f"The prompt has {n_prompt} tokens; with its answer a sequence has at most {self.max_length}.",
                field="prompt",
                hint="Shorten the prompt.",
            )
        if not self._scheduler.fits(n_prompt):
            raise PromptTooLongError(
                f"The prompt has {n_prompt} tokens, more than the engine's cache holds.",
                field="prompt",
                hint="Shorten the prompt or raise cache_tokens.",
            )
        for field, ids in (
            ("prompt", request.prompt_ids),
            ("stop_token_ids", params.stop_token_ids),
            ("logit_bias", tuple(params.logit_bias)),
        ):
            wrong = next((t for t in ids if not isinstance(t, int) or not 0 <= t < vocab), None)
            if wrong is not None:
                raise RequestError(f"{field} names the token {wrong!r}; the model has 0 to {vocab - 1}.", field=field)
        if params.logprobs is not None and params.logprobs > vocab:
            raise RequestError(f"logprobs is {params.logprobs}; the model has {vocab} tokens.", field="logprobs")
        if params.prompt_logprobs_from is not None and params.prompt_logprobs_from >= n_prompt:
            raise RequestError(
                f"prompt_logprobs_from is {params.prompt_logprobs_from}, but the prompt has {n_prompt} tokens.",
                field="prompt_logprobs_from",
            )

    def _compute(self, lives: list[_Live]) -> list[StepOutput]:
        slots = {name: adapter.slot for name, adapter in self._adapters.items()}
        now = time.perf_counter()
        for live in lives:
            if live.request.admitted is None:
                live.request.admitted = now
        batch, wanted = build_batch([live.request for live in lives], self._cache, slots, self.max_length)
        try:
            logits = self.decoder(batch)
        except (RuntimeError, MemoryError) as cause:
            error = RequestError(f"The model could not compute this step: {cause}")
            error.__cause__ = cause
            return [self._fail(live, error) for live in lives]
        tokens = self._choose(logits, lives, wanted)
        healthy = [NOT_FINITE not in tokens[rows.rows.start : rows.rows.stop] for rows in wanted]
        logprobs = iter(_logprobs(logits, list(compress(zip(lives, wanted, strict=True), healthy)), tokens))
        outputs: list[StepOutput] = []
        for live, rows, fine in zip(lives, wanted, healthy, strict=True):
            if not fine:
                error = RequestError("The model's logits are not finite numbers for this request.")
                outputs.append(self._fail(live, error, sound=False))
                continue
            token = tokens[rows.rows[-1]] if rows.samples else None
            scores = tuple(islice(logprobs, len(rows.scored)))
            chosen = () if token is None or live.request.params.logprobs is None else (next(logprobs),)
            output = self._advance(live, token, chosen, scores)
            if output is not None:
                outputs.append(output)
        return outputs

    def _choose(self, logits: Tensor, lives: Sequence[_Live], wanted: Sequence[WantedRows]) -> list[int]:
        """A token for each row of logits, of use where the row is one to sample from; NOT_FINITE where the model made
        no sense."""
        states: list[SamplingState | None] = []
        for live, rows in zip(lives, wanted, strict=True):
            states += [None] * len(rows.scored)
            if rows.samples:
                states.append(live.sampling)
        return choose_tokens(logits, states, self.decoder.choose_tokens)

    def _advance(
        self, live: _Live, token: int | None, logprobs: tuple[TokenLogprob, ...], scores: tuple[TokenLogprob, ...]
    ) -> StepOutput | None:
        """Books what a step computed for one request. None when there is nothing to report yet."""
        request, params = live.request, live.request.params
        self._scheduler.commit(request, token)
        if token is None:
            if params.max_tokens == 0 and request.cached == request.held:
                return self._finish(live, "length", scores=scores)
            return _output(live, scores=scores) if scores else None
        live.sampling.record(token)
        if token in live.stop_ids:
            return self._finish(live, "stop", (token,), "", logprobs, scores)
        text = live.stop_text.push(live.stream.push((token,)))
        if live.stop_text.matched:
            return self._finish(live, "stop", (token,), text, logprobs, scores)
        if request.n_output == params.max_tokens or request.held == self.max_length:
            return self._finish(live, "length", (token,), text, logprobs, scores)
        return _output(live, (token,), text, logprobs, scores)

    def _finish(
        self,
        live: _Live,
        reason: str,
        token_ids: tuple[int, ...] = (),
        text: str = "",
        logprobs: tuple[TokenLogprob, ...] = (),
        scores: tuple[TokenLogprob, ...] = (),
        *,
        error: RequestError | None = None,
        sound: bool = True,
    ) -> StepOutput:
        """Frees everything a request holds and reports its end, with the text that was still held back."""
        self._scheduler.remove(live.request, sound=sound)
        self._cache.drop(live.request)
        del self._live[live.request.id]
        text += live.tail()
        if reason == "length" and live.stop_text.matched:
            reason = "stop"
        return _output(live, token_ids, text, logprobs, scores, reason, error)

    def _fail(self, live: _Live, error: RequestError, *, sound: bool = True) -> StepOutput:
        return self._finish(live, "error", error=error, sound=sound)


def _output(
    live: _Live,
    token_ids: tuple[int, ...] = (),
    text: str = "",
    logprobs: tuple[TokenLogprob, ...] = (),
    scores: tuple[TokenLogprob, ...] = (),
    finish_reason: str | None = None,
    error: RequestError | None = None,
) -> StepOutput:
    return StepOutput(
        request_id=live.request.id,
        token_ids=token_ids,
        text=text,
        logprobs=logprobs,
        prompt_logprobs=scores,
        finish_reason=finish_reason,
        error=error,
        cached_prompt_tokens=live.request.prefix_hit or 0,
        seed=live.sampling.seed,
        queue_seconds=live.request.queue_seconds,
    )


def _logprobs(logits: Tensor, healthy: Sequence[tuple[_Live, WantedRows]], tokens: Sequence[int]) -> list[TokenLogprob]:
    """What each request wants to know, request by request: its scored prompt tokens, then its new token."""
    rows: list[int] = []
    ids: list[int] = []
    n_top: list[int] = []
    for live, wanted in healthy:
        request, n = live.request, live.request.params.logprobs
        if n is None and not wanted.scored:
            continue
        told = [request.prompt_ids[index] for index in wanted.scored]
        if wanted.samples and n is not None:
            told.append(tokens[wanted.rows[-1]])
        rows += wanted.rows[: len(told)]
        ids += told
        n_top += [n or 0] * len(told)
    return token_logprobs(logits[rows], ids, n_top) if rows else []
