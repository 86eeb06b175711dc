"""Landrace as a runner: the engine, from `add` to its outputs, exactly as the verbs use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count

from landrace.checkpoints import Checkpoint
from landrace.engine import Engine, Request, SamplingParams, StepOutput
from landrace.errors import LandraceError
from landrace.model import ServingModel, open_engine


class Ours:
    """A `Runner`. `decode` rows get an engine of their own, whose cache is as large as the row needs."""

    name = "landrace"
    max_streams = 1 << 20

    def __init__(self, serving: ServingModel) -> None:
        self.model = serving.model
        self.kernels = serving.kernels
        self.notice = serving.notice
        self._engine = serving.engine
        self._streams: Engine | None = None
        self._prompts: list[tuple[int, ...]] = []
        self._room = 0
        self._numbers = count()
        self._decoding_ids: frozenset[str] = frozenset()

    @classmethod
    def open(cls, model: str, *, weights: str = "stored", kernels: str = "auto", threads: int | None = None) -> Ours:
        """Opens a model by store name, folder or file, as `open_engine` does."""
        return cls(open_engine(model, threads=threads, weights=weights, kernels=kernels))

    @property
    def checkpoint(self) -> Checkpoint:
        return self.model.checkpoint

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights in memory."""
        return self._engine.decoder.weight_bytes

    @property
    def held_bytes(self) -> Mapping[str, int]:
        """Bytes of each weight in memory, by name."""
        return self._engine.decoder.held_bytes

    @property
    def cache_bytes_per_token(self) -> float:
        """Bytes of keys and values of one token in this engine."""
        return self._engine.cache_bytes_per_token

    def cache_bytes(self, tokens: int) -> int:
        """Bytes of the cache that a sequence of `tokens` holds."""
        return self._engine.cache_bytes_of(tokens)

    def first_token(self, prompt: Sequence[int]) -> int:
        output = self._one(prompt)
        if output.cached_prompt_tokens:
            raise LandraceError(f"{output.cached_prompt_tokens} tokens of a new prompt were cached: not a cold start.")
        return output.token_ids[0]

    def first_token_again(self, prompt: Sequence[int]) -> int:
        output = self._one(prompt)
        if len(prompt) > self._engine.options.block_size and not output.cached_prompt_tokens:
            raise LandraceError("Nothing of a repeated prompt was cached.", hint="Give the cache room for it.")
        return output.token_ids[0]

    def begin_decode(self, prompts: Sequence[Sequence[int]], room: int) -> None:
        own = self._engine.options
        longest = max(map(len, prompts)) + room
        blocks = len(prompts) * (-(-longest // own.block_size) + 2)
        options = replace(own, cache_tokens=blocks * own.block_size, max_running=len(prompts))
        self._streams = Engine(self._engine.decoder, self._engine.tokenizer, options)
        self._prompts = [tuple(prompt) for prompt in prompts]
        self._room = room
        # Into the prefix cache first: then all streams get their first token in the same few steps, and none runs ahead
        # while the others' prompts are computed.
        self._streams.generate([self._request(prompt, 1) for prompt in self._prompts])

    def rewind(self) -> None:
        engine = self._decoding()
        for name in self._decoding_ids:
            engine.abort(name)
        while engine.has_work:
            engine.step()
        waiting = set()
        for prompt in self._prompts:
            request = self._request(prompt, self._room)
            engine.add(request)
            waiting.add(request.id)
        self._decoding_ids = frozenset(waiting)
        while waiting:
            waiting -= {output.request_id for output in engine.step() if _healthy(output).token_ids}

    def decode(self, steps: int) -> list[tuple[int, ...]]:
        engine = self._decoding()
        return [tuple(token for output in engine.step() for token in _healthy(output).token_ids) for _ in range(steps)]

    def end_decode(self) -> None:
        self._streams = None
        self._decoding_ids = frozenset()

    def _decoding(self) -> Engine:
        if self._streams is None:
            raise LandraceError("There is nothing to decode: begin_decode comes first.")
        return self._streams

    def _one(self, prompt: Sequence[int]) -> StepOutput:
        self._engine.add(self._request(prompt, 1))
        outputs: list[StepOutput] = []
        while not outputs:
            outputs = self._engine.step()
        return _healthy(outputs[0])

    def _request(self, prompt: Sequence[int], max_tokens: int) -> Request:
        params = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
        return Request(f"bench-{next(self._numbers)}", tuple(prompt), params)


def _healthy(output: StepOutput) -> StepOutput:
    if output.error is not None:
        raise output.error
    return output
