"""What is measured: the rows of the bench, their sizes, and their prompts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from landrace.errors import OptionError

GROUPS = ("load", "prefill", "decode", "ttft")
PREFILL_TOKENS = (128, 512, 2048)
DECODE_STREAMS = (1, 4, 16, 64)
DECODE_CONTEXTS = (128, 2048)
FIRST_TOKEN_PROMPT = 1000
MIN_PAIRS = 5
QUICK_PAIRS = 2
SAMPLE_SECONDS = 0.5
"""What one decode sample should last; the number of steps follows from it."""
MAX_DECODE_STEPS = 128
"""Most steps of one sample, so that a sample stays near its context."""
DECODE_SLACK = 16
"""Tokens a stream may be ahead when the last one has its first token, and one cache block."""


@dataclass(frozen=True)
class LoadRow:
    """Load time and memory, in processes of their own."""

    name: str = "load"
    tokens: int = 0


@dataclass(frozen=True)
class PrefillRow:
    """One prompt that nobody has seen."""

    tokens: int

    @property
    def name(self) -> str:
        return f"prefill {self.tokens}"


@dataclass(frozen=True)
class DecodeRow:
    """Steps of `streams` sequences that hold `context` tokens when a sample begins."""

    streams: int
    context: int

    @property
    def name(self) -> str:
        plural = "" if self.streams == 1 else "s"
        return f"decode {self.streams} stream{plural}, context {self.context}"

    @property
    def tokens(self) -> int:
        return self.context


@dataclass(frozen=True)
class FirstTokenRow:
    """Time to the first token of a prompt, cold and with its prefix in the cache."""

    tokens: int

    @property
    def name(self) -> str:
        return f"first token of {self.tokens}"


Row = LoadRow | PrefillRow | DecodeRow | FirstTokenRow


@dataclass(frozen=True)
class BenchOptions:
    """Checked when made; OptionError for a value that cannot be honoured."""

    threads: int
    pairs: int = MIN_PAIRS
    quick: bool = False
    """Fewer rows and pairs, for a first look."""
    weights: str = "stored"
    kernels: str = "auto"
    against: tuple[str, ...] = ()
    only: tuple[str, ...] = GROUPS

    def __post_init__(self) -> None:
        least = 1 if self.quick else MIN_PAIRS
        if self.pairs < least:
            hint = None if self.quick else "Fewer say little about the spread; --quick takes a first look."
            raise OptionError(f"--pairs is {self.pairs}, but at least {least} are needed.", hint=hint)
        if self.threads < 1:
            raise OptionError(f"--threads is {self.threads}, but at least 1 is needed.")
        unknown = [group for group in self.only if group not in GROUPS]
        if unknown or not self.only:
            raise OptionError(f"--only names {', '.join(unknown) or 'nothing'}.", hint=f"It knows {', '.join(GROUPS)}.")


def rows_of(options: BenchOptions) -> list[Row]:
    """The rows to measure, in the table's order."""
    prefill: Sequence[int] = PREFILL_TOKENS[:2] if options.quick else PREFILL_TOKENS
    streams = (1, 16) if options.quick else DECODE_STREAMS
    contexts = DECODE_CONTEXTS[:1] if options.quick else DECODE_CONTEXTS
    groups: dict[str, list[Row]] = {
        "load": [LoadRow()],
        "prefill": [PrefillRow(tokens) for tokens in prefill],
        "decode": [DecodeRow(count, context) for context in contexts for count in streams],
        "ttft": [FirstTokenRow(FIRST_TOKEN_PROMPT)],
    }
    return [row for group in GROUPS if group in options.only for row in groups[group]]


def decode_room(row: DecodeRow, max_length: int) -> int:
    """Tokens a stream may grow by in one sample; less than 1 when the model's length leaves none."""
    return min(MAX_DECODE_STEPS + DECODE_SLACK, max_length - row.context)


def fits_length(row: Row, max_length: int) -> bool:
    """Whether the row's sequences stay within the longest the model takes."""
    if isinstance(row, DecodeRow):
        return decode_room(row, max_length) > 2 * DECODE_SLACK
    return row.tokens < max_length


def random_prompt(vocab_size: int, tokens: int, *seed: object) -> list[int]:
    """Token ids that are the same for equal `seed`, and share no beginning with those of another one."""
    chance = random.Random(repr(seed))
    return [chance.randrange(vocab_size) for _ in range(tokens)]
