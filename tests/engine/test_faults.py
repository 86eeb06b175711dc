"""An engine outlives every step: whatever is raised, wherever, requests end and the engine serves the next one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest
import torch

from landrace.engine import Completion, Engine, EngineOptions, Request, SamplingParams, StepOutput
from landrace.engine import answers as answers_module
from landrace.engine import engine as engine_module
from landrace.engine import progress as progress_module
from landrace.engine import sampler as sampler_module
from landrace.engine.cache.cache import Cache
from landrace.engine.cache.memory import CacheMemory
from landrace.engine.cache.paged import PagedGroup
from landrace.engine.cache.pool import BlockPool
from landrace.engine.sampler import SamplingState
from landrace.engine.scheduler import Scheduler
from landrace.engine.stopping import StopText
from landrace.errors import OutOfMemoryError, RequestError, StepError
from landrace.text import TextStream

OPTIONS = EngineOptions(block_size=4, cache_tokens=96, max_step_tokens=24, max_running=6)
SEAMS: dict[str, tuple[object, str]] = {
    "plan": (Scheduler, "schedule"),
    "admit": (Scheduler, "_start"),
    "pre-empt": (Scheduler, "_preempt_last"),
    "hash": (progress_module, "chain_hash"),
    "usable": (Cache, "usable"),
    "fits in a group": (PagedGroup, "fits"),
    "attach": (PagedGroup, "attach"),
    "extend": (PagedGroup, "extend"),
    "committed": (PagedGroup, "committed"),
    "look up": (BlockPool, "lookup"),
    "fits": (BlockPool, "fits"),
    "share": (BlockPool, "share"),
    "take": (BlockPool, "take"),
    "release": (BlockPool, "release"),
    "publish": (BlockPool, "publish"),
    "build": (engine_module, "build_batch"),
    "write places": (CacheMemory, "places"),
    "view": (CacheMemory, "view"),
    "forward": (None, "__call__"),
    "choose": (None, "choose_tokens"),
    "adjust": (sampler_module, "adjust_logits"),
    "logprobs": (answers_module, "token_logprobs"),
    "answers": (engine_module, "answers"),
    "book": (Scheduler, "commit"),
    "remove": (Scheduler, "remove"),
    "record": (SamplingState, "record"),
    "detokenise": (TextStream, "push"),
    "flush": (TextStream, "flush"),
    "stop text": (StopText, "push"),
}
OWN = ("adjust", "logprobs", "record", "detokenise", "stop text")
"""Where the work is one request's own."""
KINDS = (IndexError, ValueError, RuntimeError, MemoryError, KeyError, torch.OutOfMemoryError, OverflowError)


class Fault:
    """Raises at the calls of a seam that `when` names by number."""

    def __init__(self, original: Callable[..., Any], kind: type[Exception], when: Callable[[int], bool]) -> None:
        self.original, self.kind, self.when = original, kind, when
        self.calls = self.raised = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.when(self.calls):
            self.raised += 1
            raise self.kind("injected")
        return self.original(*args, **kwargs)


class Wrapped:
    """A decoder whose calls can be made to fail."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        self.call, self.choose_tokens = decoder.__call__, decoder.choose_tokens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def __call__(self, batch: Any) -> torch.Tensor:
        logits: torch.Tensor = self.call(batch)
        return logits


@pytest.fixture(scope="module", params=["reference", "cpu"])
def decoder(request: pytest.FixtureRequest, tiny_decoder: Callable) -> Any:
    """With layers that see everything, and others that see a window."""
    if request.param == "reference":
        return tiny_decoder(window=9)
    from landrace.kernels.cpu import native
    from landrace.models.cpu_decoder import CpuDecoder
    from landrace.models.stored import StoredTensor

    extension = native()
    if extension is None:
        pytest.skip("the C++ kernels are not built")
    tensors = {name: StoredTensor.of(tensor) for name, tensor in tiny_decoder(window=9).named_tensors()}
    return CpuDecoder(tiny_decoder(window=9).spec, extension, threads=1).load(tensors)


def options_for(decoder: Any) -> EngineOptions:
    return OPTIONS if decoder.cache_tile == 1 else EngineOptions(cache_tokens=160, max_step_tokens=24, max_running=6)


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    """Prompts that meet in prefixes, with every kind of work that a step does for a request."""
    random = Random(1)
    shared = [random.randrange(60) for _ in range(17)]
    kinds: list[dict[str, object]] = [
        {"logprobs": 2},
        {"temperature": 1.3, "seed": 5, "top_p": 0.9},
        {"repetition_penalty": 1.4, "logit_bias": {3: 2.0}},
        {"stop": ("xyz",)},
        {"prompt_logprobs_from": 1, "logprobs": 1},
    ]
    made = []
    for index in range(8):
        prompt = shared * (index % 2) + [random.randrange(60) for _ in range(random.choice([2, 5, 18]))]
        fields = {"max_tokens": (3, 8, 16)[index % 3], "temperature": 0.0, "ignore_eos": True}
        params = SamplingParams(**{**fields, **kinds[index % len(kinds)]})  # type: ignore[arg-type]
        made.append(Request(f"r{index}", tuple(prompt), params))
    return made


@pytest.fixture(scope="module")
def expected(decoder: Any, tokenizer: Any, requests: list[Request]) -> dict[str, tuple[int, ...]]:
    """Each request's tokens where nothing fails."""
    return {c.request_id: c.token_ids for c in Engine(decoder, tokenizer, options_for(decoder)).generate(requests)}


def drive(engine: Engine, requests: list[Request]) -> dict[str, list[StepOutput]]:
    """Adds requests as it steps, aborts one, and stops when all are over."""
    outputs: dict[str, list[StepOutput]] = {request.id: [] for request in requests}
    queue = list(requests)
    for step in range(600):
        if queue and step % 2 == 0:
            request = queue.pop(0)
            try:
                engine.add(request)
            except RequestError as error:
                outputs[request.id].append(StepOutput(request.id, (), "", (), (), "error", error, 0, None))
        if step == 9:
            engine.abort("r2")
        for output in engine.step():
            outputs[output.request_id].append(output)
        if not queue and not engine.has_work:
            return outputs
    raise AssertionError("the engine goes on without end")


def check_idle(engine: Engine) -> None:
    """Nothing is held, and every block is free once."""
    assert not engine._live and not engine._pending
    assert not engine._scheduler.running and not engine._scheduler.waiting
    for pool in (group.pool for group in engine._scheduler.cache.groups):
        assert sorted(pool.free) == list(range(pool.n_blocks)) and not any(pool.references)
        assert {digest: block for block, names in pool.hashes_of.items() for digest in names} == pool.block_of


def whole(requests: list[Request], outputs: dict[str, list[StepOutput]]) -> Iterator[tuple[Request, Completion]]:
    """Each request ended once, and said nothing after its end."""
    for request in requests:
        told = outputs[request.id]
        assert [output.finish_reason is not None for output in told] == [False] * (len(told) - 1) + [True], request.id
        yield request, Completion.of(request, told)


@pytest.mark.matrix
@pytest.mark.parametrize("often", ["once", "again and again", "always"])
@pytest.mark.parametrize("seam", SEAMS)
def test_any_exception_at_any_seam(
    seam: str,
    often: str,
    decoder: Any,
    tokenizer: Any,
    requests: list[Request],
    expected: dict[str, tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = Random(f"{seam} {often}")
    engine = Engine(Wrapped(decoder), tokenizer, options_for(decoder))
    first = random.randrange(1, 4) if seam not in ("pre-empt", "share") else 1
    when: dict[str, Callable[[int], bool]] = {
        "once": lambda call: call == first,
        "again and again": lambda call: call % (first + 2) == first,
        "always": lambda call: call >= first,
    }
    owner, name = SEAMS[seam]
    if owner is None:
        owner, name = engine.decoder, "call" if name == "__call__" else name
    fault = Fault(getattr(owner, name), random.choice(KINDS), when[often])
    # A function, so that it binds to the object it is found on.
    monkeypatch.setattr(owner, name, lambda *args, **kwargs: fault(*args, **kwargs))
    outputs = drive(engine, requests)
    monkeypatch.undo()

    failed = 0
    for request, completion in whole(requests, outputs):
        tokens = completion.token_ids
        assert tokens == expected[request.id][: len(tokens)], request.id
        if completion.error is not None:
            failed += 1
            assert isinstance(completion.error, StepError) and fault.kind.__name__ in completion.error.message
            assert len(tokens) < len(expected[request.id])
        elif completion.finish_reason != "abort":
            assert tokens == expected[request.id], request.id
    assert fault.raised or seam == "pre-empt"
    assert bool(failed) == bool(fault.raised) or often != "always"
    if often == "once" and seam in OWN:
        assert failed <= 1, "only the request whose own work failed"
    check_idle(engine)
    if owner is engine.decoder:
        engine.decoder = decoder
    fresh = requests[0]
    assert engine.generate([fresh])[0].token_ids == expected[fresh.id]
    check_idle(engine)


@pytest.mark.matrix
@pytest.mark.parametrize("culprit", range(4))
@pytest.mark.parametrize("seam", ["choose", "adjust", "logprobs", "detokenise", "record"])
def test_the_request_at_fault_is_told_from_the_others(
    seam: str, culprit: int, decoder: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work on one request's rows fails, in a batch with others' too."""
    params = SamplingParams(
        max_tokens=6, temperature=0.9, seed=1, ignore_eos=True, logprobs=2, repetition_penalty=1.1, logit_bias={7: 1.0}
    )
    requests = [Request(f"r{index}", (index, 9, 4), params) for index in range(4)]
    expected = [completion.token_ids for completion in Engine(decoder, tokenizer).generate(requests)]
    engine = Engine(Wrapped(decoder), tokenizer)
    for request in requests:
        engine.add(request)
    live = engine._live[f"r{culprit}"]

    def concerned(*args: Any) -> bool:
        if seam in ("choose", "logprobs"):
            logits = args[0]
            return any(bool((row == poisoned).all()) for row in logits for poisoned in poison)
        if seam == "adjust":
            return live.sampling in args[1]
        return args[0] in (live.stream, live.sampling)

    poison: list[torch.Tensor] = []
    forward = engine.decoder.call  # type: ignore[attr-defined]

    def noting(batch: Any) -> torch.Tensor:
        logits = forward(batch)
        poison[:] = [logits[culprit]] if len(logits) == 4 else []
        return logits

    engine.decoder.call = noting  # type: ignore[attr-defined]
    owner, name = SEAMS[seam]
    owner = owner or engine.decoder
    original = getattr(owner, name)

    def failing(*args: Any, **kwargs: Any) -> Any:
        if concerned(*args):
            raise IndexError("this one")
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, failing)
    completions = {request.id: [] for request in requests}
    while engine.has_work:
        for output in engine.step():
            completions[output.request_id].append(output)
    for index, request in enumerate(requests):
        completion = Completion.of(request, completions[request.id])
        if index == culprit:
            assert isinstance(completion.error, StepError) and "this one" in completion.error.message
        else:
            assert completion.token_ids == expected[index], "and what is drawn anew is drawn the same"
    check_idle(engine)


def test_a_request_that_cannot_be_taken_leaves_no_trace(decoder: Any, tokenizer: Any) -> None:
    engine = Engine(decoder, tokenizer)
    unhashable = Request("r", (1, 2), SamplingParams(), adapter=["no name"])  # type: ignore[arg-type]
    with pytest.raises(StepError, match="TypeError"):
        engine.add(unhashable)
    assert not engine.has_work
    check_idle(engine)


@pytest.mark.parametrize("kind", ["memory", "torch", "allocator"])
def test_where_memory_runs_out_the_latest_request_ends(decoder: Any, tokenizer: Any, kind: str) -> None:
    """The others say what they say where there is enough."""
    raised = {
        "memory": MemoryError("no room"),
        "torch": torch.OutOfMemoryError("no room"),
        "allocator": RuntimeError("DefaultCPUAllocator: can't allocate memory: no room"),
    }[kind]
    params = SamplingParams(max_tokens=8, temperature=0.9, seed=1, ignore_eos=True)
    requests = [Request(f"r{index}", (index, *range(11)), params) for index in range(4)]
    expected = [completion.token_ids for completion in Engine(decoder, tokenizer).generate(requests)]
    engine = Engine(Wrapped(decoder), tokenizer)
    for request in requests:
        engine.add(request)
    forward = engine.decoder.call  # type: ignore[attr-defined]

    def failing(batch: Any) -> torch.Tensor:
        """A step has room for two requests that decode."""
        logits: torch.Tensor = forward(batch)
        if len(logits) > 2 and all(live.progress.decodes for live in engine._live.values()):
            raise raised
        return logits

    engine.decoder.call = failing  # type: ignore[attr-defined]
    outputs: dict[str, list[StepOutput]] = {request.id: [] for request in requests}
    while engine.has_work:
        for output in engine.step():
            outputs[output.request_id].append(output)
    for index, (_, completion) in enumerate(whole(requests, outputs)):
        if index < 2:
            assert completion.token_ids == expected[index] and completion.error is None
        else:
            assert isinstance(completion.error, OutOfMemoryError) and "no room" in completion.error.message
    check_idle(engine)
    assert engine.facts.preemptions == 5
