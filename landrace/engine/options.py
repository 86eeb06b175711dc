"""`EngineOptions`: the engine's sizes, checked once and then frozen."""

from __future__ import annotations

from dataclasses import dataclass

from landrace.errors import OptionError

CACHE_DTYPES = ("auto", "float32", "float16", "bfloat16", "int8")


@dataclass(frozen=True)
class EngineOptions:
    block_size: int = 16
    """Tokens in one cache block."""
    cache_tokens: int = 16384
    """Tokens the cache holds, rounded down to whole blocks."""
    max_step_tokens: int = 512
    """Most tokens one step computes; longer prompts are cut into chunks."""
    max_running: int = 64
    """Most requests in progress at once."""
    max_length: int | None = None
    """Longest sequence, prompt and output; None: the model's own. The cache limits it as well."""
    cache_dtype: str = "auto"
    """How keys and values are kept. auto: float32 for float32 weights and the reference kernels, else float16."""
    prefix_cache: bool = True
    """Reuse the cache of equal prompt beginnings."""

    def __post_init__(self) -> None:
        for name in ("block_size", "cache_tokens", "max_step_tokens", "max_running", "max_length"):
            value = getattr(self, name)
            if name == "max_length" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise OptionError(f"{name} must be a whole number of at least 1, not {value!r}.")
        if self.cache_dtype not in CACHE_DTYPES:
            raise OptionError(
                f"There is no cache_dtype {self.cache_dtype!r}.", hint=f"Choose {', '.join(CACHE_DTYPES)}."
            )
        if self.cache_tokens < self.block_size:
            raise OptionError(
                f"cache_tokens ({self.cache_tokens}) is less than one block of {self.block_size}.",
                hint="Raise cache_tokens or lower block_size.",
            )

    @property
    def n_blocks(self) -> int:
        return self.cache_tokens // self.block_size

    @property
    def cache_room(self) -> int:
        """Tokens of the longest sequence that an empty cache takes."""
        return self.n_blocks * self.block_size
