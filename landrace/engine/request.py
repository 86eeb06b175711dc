"""`Request`: what a caller asks for, and three integers that say how far it has come."""

from __future__ import annotations

from dataclasses import dataclass, field

from landrace.engine.sampling_params import SamplingParams


@dataclass(eq=False)
class Request:
    """One prompt and how to continue it.

    The engine works on a copy of its own, so a caller may add the same object again. In that copy each step
    computes the tokens [cached, cached + scheduled); prefix hits, prefill chunks, decode steps and the
    recomputation after a pre-emption are all this one interval. Only the scheduler changes the state below, and the
    engine its two times.
    """

    id: str
    prompt_ids: tuple[int, ...]
    params: SamplingParams
    adapter: str | None = None

    tokens: list[int] = field(init=False, repr=False)
    """Prompt and output."""
    cached: int = field(init=False, default=0)
    """Leading tokens whose keys and values lie in the cache."""
    scheduled: int = field(init=False, default=0)
    """Tokens the current step computes."""
    blocks: list[int] = field(init=False, default_factory=list, repr=False)
    """Cache blocks, in order of position."""
    hashes: list[bytes] = field(init=False, default_factory=list, repr=False)
    """Chained hashes of the leading full blocks; kept across pre-emptions."""
    root: bytes = field(init=False, default=b"", repr=False)
    """What besides the tokens decides the keys and values: the start of the hash chain."""
    published: int = field(init=False, default=0, repr=False)
    """Leading blocks that need no publishing any more."""
    scored: int = field(init=False, default=0, repr=False)
    """The next prompt token that wants a logprob; the prompt's length when none does."""
    preemptions: int = field(init=False, default=0, repr=False)
    place: int = field(init=False, default=0, repr=False)
    """In the order of arrival."""
    passed: int = field(init=False, default=0, repr=False)
    """How many later arrivals started while it waited."""
    arrived: float = field(init=False, default=0.0, repr=False)
    """`time.perf_counter()` when the engine took it."""
    admitted: float | None = field(init=False, default=None, repr=False)
    """`time.perf_counter()` when a step first computed some of it."""
    prefix_hit: int | None = field(init=False, default=None, repr=False)
    """Prompt tokens found in the cache when the request was first admitted."""

    def __post_init__(self) -> None:
        self.prompt_ids = tuple(self.prompt_ids)
        self.tokens = list(self.prompt_ids)
        self.scored = self.params.prompt_logprobs_from or len(self.prompt_ids)

    @property
    def queue_seconds(self) -> float:
        """From its arrival to the first step that computed some of it; 0 while it waits."""
        return 0.0 if self.admitted is None else self.admitted - self.arrived

    @property
    def held(self) -> int:
        """Tokens the request has: prompt and output."""
        return len(self.tokens)

    @property
    def n_output(self) -> int:
        return len(self.tokens) - len(self.prompt_ids)
