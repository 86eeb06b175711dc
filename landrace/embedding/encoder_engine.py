"""`EncoderEngine`: requests whose prompts are only read, on an encoder."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from landrace.embedding.dense import Rows
from landrace.engine.facts import EngineFacts
from landrace.engine.outputs import Completion, StepOutput
from landrace.engine.reading import Pool
from landrace.engine.readout import Labels, Pooling, check_readout
from landrace.engine.request import Request
from landrace.errors import DeadlineError, LandraceError, OptionError, PromptTooLongError, RequestError, StepError
from landrace.models.encoder import Encoder

PASS_TOKENS = 2048
"""Texts are put into one pass as long as they have no more tokens together; so long is the wait behind others."""


@dataclass(frozen=True)
class _Waiting:
    request: Request
    arrived: float


class EncoderEngine:
    """As `Engine` is called, so may this be: `add`, `step`, `abort`. A pass takes texts of every client in turn, of
    those with priority -1 and less what is left; on the C++ kernels a text's numbers do not depend on those beside it,
    to the bit.
    """

    def __init__(self, encoder: Encoder, *, pass_tokens: int = PASS_TOKENS) -> None:
        self.encoder = encoder
        self.max_length = encoder.spec.max_length
        """Tokens of the longest text."""
        self._pass_tokens = pass_tokens
        self._waiting: dict[str, _Waiting] = {}
        """In order of arrival."""
        self._ended: list[StepOutput] = []
        self._passes = 0
        self._seconds = 0.0
        self._tokens = 0

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything to compute or report."""
        return bool(self._waiting or self._ended)

    @property
    def facts(self) -> EngineFacts:
        """How it stands, and what it has done."""
        return EngineFacts(
            running=0,
            waiting=len(self._waiting),
            cache=(),
            steps=self._passes,
            step_seconds=self._seconds,
            prompt_tokens=self._tokens,
            generated_tokens=0,
            reused_tokens=0,
            preemptions=0,
            drafted_tokens=0,
            accepted_tokens=0,
        )

    def add(self, request: Request) -> None:
        """Queues a request. Raises RequestError at once for one that can never be served."""
        if request.id in self._waiting:
            raise RequestError(f"A request called {request.id!r} is already running.", field="id")
        self._check(request)
        self._waiting[request.id] = _Waiting(request, time.perf_counter())

    def abort(self, request_id: str) -> None:
        """Ends a request; the next step reports it. Nothing happens if it has ended already."""
        if self._waiting.pop(request_id, None) is not None:
            self._ended.append(_output(request_id, reason="abort"))

    def remove_adapter(self, name: str) -> None:
        """Raises OptionError: an encoder has none."""
        raise OptionError(f"There is no adapter called {name!r}.")

    def step(self) -> list[StepOutput]:
        """Computes one pass and returns what came of it. Whatever fails ends the requests of the pass."""
        self._end_what_is_late()
        outputs, self._ended = self._ended, []
        taken = self._next_pass()
        if not taken:
            return outputs
        for one in taken:
            del self._waiting[one.request.id]
        begun = time.perf_counter()
        error: RequestError | None = None
        found: Sequence[Rows | None] = [None] * len(taken)
        try:
            found = self._read([one.request for one in taken])
        except Exception as cause:  # noqa: BLE001  these requests end, the engine goes on
            error = StepError.of(cause, "compute a pass")
        seconds, n_tokens = time.perf_counter() - begun, sum(len(one.request.prompt_ids) for one in taken)
        self._passes, self._seconds, self._tokens = self._passes + 1, self._seconds + seconds, self._tokens + n_tokens
        for one, rows in zip(taken, found, strict=True):
            own = error
            if rows is not None and not np.isfinite(rows).all():
                own = RequestError("The model's hidden rows are not finite numbers for this request.")
            share = seconds * len(one.request.prompt_ids) / n_tokens
            outputs.append(_output(one.request.id, own, rows, waited=begun - one.arrived, share=share))
        return outputs

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Runs requests to their end and returns them in the order given; a refused one becomes a Completion with its
        error. Needs an engine without other work."""
        if self.has_work:
            raise LandraceError("generate needs an engine that is not working on other requests.")
        ended: dict[str, StepOutput] = {}
        for request in requests:
            try:
                self.add(request)
            except RequestError as error:
                ended[request.id] = _output(request.id, error)
        try:
            while self.has_work:
                ended |= {output.request_id: output for output in self.step()}
        finally:
            self._waiting.clear()
        return [Completion.of(request, [ended[request.id]]) for request in requests]

    def _check(self, request: Request) -> None:
        spec, ids, readout = self.encoder.spec, request.prompt_ids, request.readout
        if readout is None:
            raise RequestError("The model is an encoder: it reads texts and writes none.", field="prompt")
        if request.adapter is not None:
            raise RequestError("An encoder takes no adapter.", field="adapter", hint="Leave it out.")
        if not ids:
            raise RequestError("The prompt is empty.", field="prompt")
        if len(ids) > self.max_length:
            raise PromptTooLongError(
                f"The maximum context length is {self.max_length} tokens; the prompt has {len(ids)}.",
                field="prompt",
                hint="Shorten the prompt.",
            )
        wrong = next((token for token in ids if not isinstance(token, int) or not 0 <= token < spec.vocab_size), None)
        if wrong is not None:
            raise RequestError(
                f"prompt names the token {wrong}; the model has 0 to {spec.vocab_size - 1}.", field="prompt"
            )
        match readout:
            case Labels(types) if spec.classifier is not None:
                if len(types) != len(ids) or not all(0 <= kind < max(spec.n_types, 1) for kind in types):
                    raise RequestError("Every token is of one of the texts that the model reads.", field="readout")
            case Pooling() | Labels():
                check_readout(readout, len(ids), spec.vocab_size)
            case _:
                raise RequestError("An encoder has no logits of tokens.", field="readout")

    def _end_what_is_late(self) -> None:
        now = time.monotonic()
        for one in list(self._waiting.values()):
            deadline = one.request.deadline
            if deadline is not None and now > deadline:
                del self._waiting[one.request.id]
                error = DeadlineError("The time that the request was given is up, and it has not been computed.")
                self._ended.append(_output(one.request.id, error))

    def _next_pass(self) -> list[_Waiting]:
        """Those of one kind that fit together, the first always."""
        taken: list[_Waiting] = []
        room = self._pass_tokens
        for one in _in_turn(self._waiting.values()):
            room -= len(one.request.prompt_ids)
            if taken and (room < 0 or type(one.request.readout) is not type(taken[0].request.readout)):
                break
            taken.append(one)
        return taken

    def _read(self, requests: Sequence[Request]) -> list[Rows]:
        sequences = [request.prompt_ids for request in requests]
        if isinstance(requests[0].readout, Labels):
            types = [request.readout.types for request in requests if isinstance(request.readout, Labels)]
            return list(cast(Rows, self.encoder.scores(sequences, types).numpy()))
        rows = self.encoder.hidden(sequences).numpy()
        found, start = [], 0
        for request in requests:
            assert isinstance(request.readout, Pooling)
            pool, first, n_tokens = Pool(request.readout.kinds), request.readout.first, len(request.prompt_ids)
            pool.add(rows[start + first : start + n_tokens], first)
            found.append(pool.vector())
            start += n_tokens
        return found


def _in_turn(waiting: Iterable[_Waiting]) -> list[_Waiting]:
    """The first of every client, then the second, and so on."""
    turns: Counter[str] = Counter()
    placed = []
    for one in waiting:
        client = one.request.client
        placed.append((one.request.priority < 0, turns[client], one))
        turns[client] += 1
    return [one for *_, one in sorted(placed, key=lambda item: item[:2])]


def _output(
    request_id: str,
    error: RequestError | None = None,
    read: Rows | None = None,
    *,
    reason: str = "stop",
    waited: float = 0.0,
    share: float = 0.0,
) -> StepOutput:
    return StepOutput(
        request_id=request_id,
        token_ids=(),
        text="",
        logprobs=(),
        prompt_logprobs=(),
        finish_reason=reason if error is None else "error",
        error=error,
        cached_prompt_tokens=0,
        seed=None,
        queue_seconds=waited,
        machine_seconds=share,
        read=read if error is None else None,
    )
