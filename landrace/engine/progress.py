"""`Progress`: how far a request has come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from landrace.engine.cache.cache import Tables
from landrace.engine.cache.pool import chain_hash
from landrace.engine.readout import Pooling
from landrace.engine.request import Request


@dataclass(eq=False)
class Progress:
    """A request and its state, in three integers: tokens held, cached, scheduled.

    Each step computes the tokens [cached, cached + scheduled); prefix hits, prefill chunks, decode steps, forced tokens
    and the recomputation after a pre-emption are all this one interval. Only the scheduler changes the state, and the
    engine its two times.
    """

    request: Request
    root: bytes
    """What besides the tokens decides all keys and values: the start of the hash chain."""
    extras: Mapping[int, bytes] = field(default_factory=dict, repr=False)
    """By block: what besides its tokens decides what it holds, where something does."""

    tokens: list[int] = field(init=False, repr=False)
    """Prompt and output."""
    cached: int = field(init=False, default=0)
    """Leading tokens that lie in the cache."""
    scheduled: int = field(init=False, default=0)
    """Tokens the current step computes."""
    draft: list[int] = field(init=False, default_factory=list, repr=False)
    """Guesses at the tokens after those held, which the current step computes behind them."""
    guessed: int = field(init=False, default=0, repr=False)
    """How many of its last tokens are guesses, where a model writes a draft."""
    forced: int = field(init=False, default=0, repr=False)
    """How many of its last tokens no step has chosen: a guide or a spent budget left no choice."""
    tables: Tables = field(init=False, default_factory=list, repr=False)
    """What it holds of the cache, by group; empty where it holds nothing."""
    hashes: list[bytes] = field(init=False, default_factory=list, repr=False)
    """Chained hashes of the leading full blocks; kept across pre-emptions."""
    scored: int = field(init=False, repr=False)
    """The next prompt token that wants a logprob; the prompt's length when none does."""
    preemptions: int = field(init=False, default=0, repr=False)
    place: int = field(init=False, default=0, repr=False)
    """In the order of arrival."""
    passed: int = field(init=False, default=0, repr=False)
    """How many later arrivals started while it lacked room."""
    arrived: float = field(init=False, default=0.0, repr=False)
    """`time.perf_counter()` when the engine took it."""
    admitted: float | None = field(init=False, default=None, repr=False)
    """`time.perf_counter()` when a step first computed some of it."""
    dropped: int = field(init=False, default=0, repr=False)
    """Tokens that it went on without: see `overflow`."""
    prefix_hit: int | None = field(init=False, default=None, repr=False)
    """Prompt tokens found in the cache when the request was first admitted."""

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt_ids)
        self.scored = self.request.params.prompt_logprobs_from or len(self.request.prompt_ids)

    @property
    def queue_seconds(self) -> float:
        """From its arrival to the first step that computed some of it; 0 while it waits."""
        return 0.0 if self.admitted is None else self.admitted - self.arrived

    @property
    def held(self) -> int:
        """Tokens the request has: prompt and output."""
        return len(self.tokens)

    @property
    def left(self) -> int:
        """Tokens to compute before the next can be chosen."""
        return len(self.tokens) - self.cached

    @property
    def decodes(self) -> bool:
        """Whether it has nothing to compute but the token that was chosen last and those that were forced behind it."""
        return self.left <= 1 + self.forced

    @property
    def n_output(self) -> int:
        return len(self.tokens) - len(self.request.prompt_ids)

    @property
    def reusable(self) -> int:
        """How many of its leading tokens may come out of the cache. The first row whose logits are wanted, or which is
        pooled, must be computed."""
        if isinstance(self.request.readout, Pooling):
            return self.request.readout.first
        return (self.scored if self.scored < len(self.request.prompt_ids) else self.held) - 1

    def hash_blocks(self, n_blocks: int, block_size: int) -> Sequence[bytes]:
        """The hashes of its first blocks, each computed once."""
        for index in range(len(self.hashes), n_blocks):
            parent = self.hashes[-1] if index else self.root
            own = self.tokens[index * block_size : (index + 1) * block_size]
            self.hashes.append(chain_hash(parent, own, self.extras.get(index, b"")))
        return self.hashes[:n_blocks]
