"""What is read of a prompt by a request that is not to be continued: a vector, or what may come next.

No torch here: requests travel between processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from landrace.errors import RequestError

PoolKind = Literal["cls", "max", "mean", "mean_sqrt_len", "weighted_mean", "last"]
"""cls: the first row. mean_sqrt_len: the sum over the square root of how many rows. weighted_mean: each row weighted by
its position, counted from 1."""
POOL_KINDS: tuple[PoolKind, ...] = get_args(PoolKind)


@dataclass(frozen=True)
class Pooling:
    """One vector of the prompt's hidden rows, those that the model's head reads; of several kinds, end to end."""

    kinds: tuple[PoolKind, ...]
    first: int = 0
    """The first row that counts; those before it need not be computed anew where they are cached."""

    @staticmethod
    def of(kinds: Sequence[PoolKind], n_tokens: int, skipped: int = 0) -> Pooling:
        """Of a text of so many tokens, the first `skipped` of which do not count."""
        last_alone = all(kind == "last" for kind in kinds)
        return Pooling(tuple(kinds), n_tokens - 1 if last_alone else skipped)


@dataclass(frozen=True)
class TokenLogits:
    """The logits of these tokens as the one after the prompt, in this order."""

    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class Labels:
    """What the classifier of an encoder makes of the prompt; decoders have none."""

    types: tuple[int, ...]
    """Of each token: which of the two texts that are read together it is of."""


Readout = Pooling | TokenLogits | Labels


def check_readout(readout: Readout, n_prompt: int, vocab_size: int) -> None:
    """RequestError for what cannot be read of a prompt of so many tokens."""
    match readout:
        case Pooling(kinds, first):
            unknown = [kind for kind in kinds if kind not in POOL_KINDS]
            if unknown or not kinds:
                what = repr(unknown[0]) if unknown else "nothing"
                raise RequestError(
                    f"Rows cannot be pooled by {what}.", field="readout", hint=f"Choose {', '.join(POOL_KINDS)}."
                )
            if not 0 <= first < n_prompt:
                raise RequestError(
                    f"Rows are pooled from {first} on, but the prompt has {n_prompt} tokens.", field="readout"
                )
        case TokenLogits(token_ids):
            wrong = [token for token in token_ids if not 0 <= token < vocab_size]
            if wrong or not token_ids:
                named = f"the token {wrong[0]}" if wrong else "no token"
                raise RequestError(f"The readout names {named}; the model has 0 to {vocab_size - 1}.", field="readout")
        case Labels():
            raise RequestError("The model has no classifier for its readout.", field="readout")
