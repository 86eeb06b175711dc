"""How well a model as it is served predicts a text, and how far another's predictions of the same text differ."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from landrace.engine import Engine, Request, SamplingParams
from landrace.text import Tokenizer

Windows = Sequence[tuple[int, ...]]


@dataclass(frozen=True)
class Scores:
    """What one model says of the scored tokens, window after window."""

    logprobs: tuple[float, ...]
    choices: tuple[int, ...]
    """The likeliest token at each place."""


@dataclass(frozen=True)
class Row:
    """Two models, or one model served in two ways, on the same tokens."""

    text: str
    tokens: int
    reference: float
    """Perplexity: exp(-mean log-probability), in nats."""
    served: float
    logprob_difference: float
    """Mean of |served - reference|, in nats."""
    same_choice: float
    """Fraction of places where both find the same token likeliest."""

    @property
    def difference(self) -> float:
        """Of the served perplexity from the reference's, as a fraction of it; below 0 the served one is lower."""
        return self.served / self.reference - 1

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "difference": self.difference}


def cut(tokenizer: Tokenizer, ids: Sequence[int], window: int) -> list[tuple[int, ...]]:
    """Ids in windows of so many, the rest left out, each begun as the vocabulary begins a text."""
    prefix = tokenizer.conventions.prefix_ids
    return [(*prefix, *ids[at : at + window]) for at in range(0, len(ids) // window * window, window)]


def first_scored(tokenizer: Tokenizer) -> int:
    """The first token of a window that anything is said of."""
    return max(1, len(tokenizer.conventions.prefix_ids))


def score(engine: Engine, windows: Windows, start: int) -> Scores:
    """Scores the tokens of each window from `start` on. Raises the RequestError of a window that is refused."""
    params = SamplingParams(max_tokens=0, logprobs=1, prompt_logprobs_from=start)
    completions = engine.generate([Request(str(index), ids, params) for index, ids in enumerate(windows)])
    for completion in completions:
        if completion.error is not None:
            raise completion.error
    scored = [item for completion in completions for item in completion.prompt_logprobs]
    return Scores(tuple(item.logprob for item in scored), tuple(item.top[0][0] for item in scored))


def compare(text: str, reference: Scores, served: Scores) -> Row:
    """`text`: what the row is called."""
    count = len(reference.logprobs)
    pairs = list(zip(reference.logprobs, served.logprobs, strict=True))
    choices = zip(reference.choices, served.choices, strict=True)
    return Row(
        text=text,
        tokens=count,
        reference=math.exp(-math.fsum(a for a, _ in pairs) / count),
        served=math.exp(-math.fsum(b for _, b in pairs) / count),
        logprob_difference=math.fsum(abs(a - b) for a, b in pairs) / count,
        same_choice=sum(a == b for a, b in choices) / count,
    )


def joined(parts: Iterable[Scores]) -> Scores:
    """Several texts as one."""
    every = list(parts)
    return Scores(
        tuple(value for part in every for value in part.logprobs),
        tuple(value for part in every for value in part.choices),
    )
