"""What a certificate says, and how far two ways of computing the same probability may differ."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from landrace.certify.scores import Scores
from landrace.errors import LandraceError


@dataclass(frozen=True)
class Bound:
    """The most that two paths may differ, in natural-log probability, and the least share of equal argmax tokens, near
    ties beside them, and of equal choices of experts and of positions."""

    largest: float
    mean: float
    equal_argmax: float


BOUNDS = {
    # Summation order differs between batch shapes; float32 keeps that below 1e-4 over a few dozen layers.
    "float32": Bound(largest=1e-3, mean=1e-4, equal_argmax=0.999),
    # Operands rounded to 8 bits of mantissa: a relative error of 2^-9 a product, averaging out over the sum.
    "bfloat16": Bound(largest=1.0, mean=0.1, equal_argmax=0.95),
    # Inputs of every product rounded to 8 bits a group of 32: half a step of 1/127 of the group's greatest value.
    "quantised": Bound(largest=2.0, mean=0.15, equal_argmax=0.9),
    "same bits": Bound(largest=0.0, mean=0.0, equal_argmax=1.0),
}


@dataclass(frozen=True)
class EqualChoices:
    """Where the reference followed a path's choices: the share of them that it would have made itself; None where there
    was nothing to choose."""

    experts: float | None = None
    positions: float | None = None

    def reach(self, least: float) -> bool:
        return all(share is None or share >= least for share in (self.experts, self.positions))


NOT_FOLLOWED = EqualChoices()


@dataclass(frozen=True)
class PathResult:
    """How one path compares with the reference path."""

    name: str
    tokens: int
    largest: float
    mean: float
    equal_argmax: float
    bound: Bound
    near_ties: float = 0.0
    """The share of places where the path finds another token likeliest, and the reference finds it less likely than its
    own by no more than two paths may differ on average: rounding decides, as at a router's tie."""
    equal_choices: EqualChoices = NOT_FOLLOWED

    @property
    def passed(self) -> bool:
        return (
            self.largest <= self.bound.largest
            and self.mean <= self.bound.mean
            and self.equal_argmax + self.near_ties >= self.bound.equal_argmax
            and self.equal_choices.reach(self.bound.equal_argmax)
        )


def compare_scores(
    name: str,
    reference: Sequence[Scores],
    other: Sequence[Scores],
    bound: Bound,
    equal_choices: EqualChoices = NOT_FOLLOWED,
) -> PathResult:
    """Compares sequence by sequence; a path may have scored only the end of each.

    Raises LandraceError when it scored nothing.
    """
    differences: list[float] = []
    equal: list[bool] = []
    near: list[bool] = []
    for whole, part in zip(reference, other, strict=True):
        start = len(whole.logprobs) - len(part.logprobs)
        differences += [abs(a - b) for a, b in zip(whole.logprobs[start:], part.logprobs, strict=True)]
        equal += [a == b for a, b in zip(whole.argmax[start:], part.argmax, strict=True)]
        near += [
            gaps.get(b, math.inf) <= bound.mean for gaps, b in zip(whole.behind[start:], part.argmax, strict=False)
        ]
    if not differences:
        raise LandraceError(f"The path {name!r} scored no token.")
    # max() may step over a NaN; as the largest difference it fails every bound.
    largest = math.nan if any(map(math.isnan, differences)) else max(differences)
    mean, agreeing, tied = statistics.fmean(differences), statistics.fmean(equal), sum(near) / len(equal)
    return PathResult(name, len(differences), largest, mean, agreeing, bound, tied, equal_choices)


@dataclass(frozen=True)
class PromptResult:
    """Which conversations have the token ids of transformers."""

    compared: tuple[str, ...]
    different: tuple[str, ...]
    refused: tuple[str, ...]
    """Conversations that the template, or transformers, does not write, each with its reason."""

    @property
    def passed(self) -> bool:
        return bool(self.compared) and not self.different


@dataclass(frozen=True)
class Certificate:
    model: str
    adapter: str | None
    reference: str
    weights_sha256: str
    adapter_sha256: str | None
    template_sha256: str | None
    dtype: str
    max_length: int
    """The longest sequence that the model was opened for, which decides its rotary tables."""
    paths: tuple[PathResult, ...]
    prompts: PromptResult | None
    """None where they could not be compared; `skipped` tells why."""
    skipped: tuple[str, ...]
    """Paths that could not be taken here, each with its reason."""

    @property
    def passed(self) -> bool:
        return all(path.passed for path in self.paths) and (self.prompts is None or self.prompts.passed)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}
