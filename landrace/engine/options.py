"""`EngineOptions`: the engine's sizes, checked once and then frozen."""

from __future__ import annotations

from dataclasses import dataclass

from landrace.errors import OptionError

NGRAM, MTP = "ngram", "mtp"
"""The drafts that need no other model."""
_SIZES = ("block_size", "cache_tokens", "max_step_tokens", "max_running", "max_length", "snapshot_tokens")
CACHE_DTYPES = ("auto", "float32", "float16", "bfloat16", "int8", "int4")
OVERFLOWS = ("error", "shift")


@dataclass(frozen=True)
class EngineOptions:
    block_size: int = 16
    """Tokens in one cache block."""
    cache_tokens: int = 16384
    """Tokens the cache holds, rounded down to whole blocks. A layer that sees a window keeps that of `max_running`
    requests and a step's tokens, where that is less."""
    max_step_tokens: int = 512
    """Most tokens one step computes; longer prompts are cut into chunks, and share it with others."""
    max_running: int | None = None
    """Most requests in progress at once, each of which takes part in every step; None: 64, or `max_step_tokens` where
    that is less."""
    max_length: int | None = None
    """Longest sequence, prompt and output; None: the model's own. The cache limits it as well."""
    cache_dtype: str = "auto"
    """How keys and values are kept. auto: float32 for float32 weights and the reference kernels, else float16."""
    prefix_cache: bool = True
    """Reuse the cache of equal prompt beginnings."""
    snapshot_tokens: int = 256
    """A model with recurrent states keeps them at about every so many tokens of a prompt, and goes on from there when
    another begins alike. A state takes as much memory as many tokens do."""
    context_overflow: str = "error"
    """What becomes of a prompt that is too long, and of an answer for which there is no more room. error: the prompt is
    refused, the answer ends. shift: they go on without their oldest part."""
    context_keep: int = 4
    """First tokens that a shift keeps, such as those of a system message."""
    draft: str | None = None
    """Guess tokens, and compute several at once: ngram, from what the prompt and the answer said before; mtp, by the
    model's own layer for further tokens; or by a smaller model with the same tokens, by its name. The answers are the
    same as without."""
    stall_milliseconds: int = 0
    """Beside running streams a step computes no more tokens of prompts than fit into about this time, or into twice
    that of the streams alone where that is longer, so that streams go on evenly; 0: whatever time it takes."""

    def __post_init__(self) -> None:
        for name in _SIZES:
            value = getattr(self, name)
            if name in ("max_running", "max_length") and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise OptionError(f"{name} must be a whole number of at least 1, not {value!r}.")
        if self.cache_dtype not in CACHE_DTYPES:
            raise OptionError(
                f"There is no cache_dtype {self.cache_dtype!r}.", hint=f"Choose {', '.join(CACHE_DTYPES)}."
            )
        if self.context_overflow not in OVERFLOWS:
            raise OptionError(
                f"There is no context_overflow {self.context_overflow!r}.", hint=f"Choose {' or '.join(OVERFLOWS)}."
            )
        for name in ("context_keep", "stall_milliseconds"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise OptionError(f"{name} must be a whole number, not {value!r}.")
        if self.cache_tokens < self.block_size:
            raise OptionError(
                f"cache_tokens ({self.cache_tokens}) is less than one block of {self.block_size}.",
                hint="Raise cache_tokens or lower block_size.",
            )
        if self.max_length is not None and self.max_length > self.cache_room:
            raise OptionError(
                f"max_length is {self.max_length}, but the cache holds {self.cache_room} tokens "
                "(cache_tokens), so no sequence could become as long.",
                hint="Raise cache_tokens or lower max_length.",
            )
        if self.max_running is not None and self.max_running > self.max_step_tokens:
            raise OptionError(
                f"max_running is {self.max_running}, but a step of at most {self.max_step_tokens} tokens "
                "(max_step_tokens) has one for no more than as many requests.",
                hint="Raise max_step_tokens or lower max_running.",
            )

    @property
    def most_running(self) -> int:
        """`max_running`, resolved."""
        return min(64, self.max_step_tokens) if self.max_running is None else self.max_running

    @property
    def draft_model(self) -> str | None:
        """The name of the model that writes drafts, where another does."""
        return None if self.draft in (NGRAM, MTP) else self.draft

    @property
    def most_guesses(self) -> int:
        """Of a request in a step: drafts lie in the block of its last token."""
        return 0 if self.draft is None else self.block_size - 1

    @property
    def shifts(self) -> bool:
        """Whether a sequence that is too long goes on without its oldest part."""
        return self.context_overflow == "shift"

    @property
    def n_blocks(self) -> int:
        return self.cache_tokens // self.block_size

    @property
    def cache_room(self) -> int:
        """Tokens of the longest sequence that an empty cache takes; more are refused, whatever the layers see."""
        return self.n_blocks * self.block_size
