"""Chooses tokens from logits, and reports their logprobs.

Each row of logits x [vocab] passes, in this order:

1. repetition penalty r, for every token of the prompt and the output (Keskar et al., 2019, as transformers does it):
   x / r where x > 0, x * r elsewhere;
2. presence and frequency penalties, for every token of the output (OpenAI's definition):
   x - presence - frequency * count;
3. logit bias: x + bias;
4. temperature 0: the most likely token, the lowest id among equals. Otherwise x / temperature, then
5. top-k: what is less likely than the k-th most likely token is dropped;
6. top-p (Holtzman et al., 2020), over what is left: the fewest of the most likely tokens that reach p stay;
7. min-p (Nguyen et al., 2024): what is less likely than min_p times the most likely token is dropped.

Every filter is a threshold on the logit, so tokens with equal logits stay or go together. A request draws one uniform
number a token from a generator of its own and looks it up in its own cumulative distribution: what else is in
the batch changes nothing.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from random import Random

import torch
from torch import Tensor

from landrace.engine.outputs import TokenLogprob
from landrace.engine.sampling_params import SamplingParams


class SamplingState:
    """What choosing one request's tokens has to remember between steps."""

    def __init__(self, params: SamplingParams, prompt_ids: Sequence[int], device: torch.device) -> None:
        self.params = params
        self.seed = secrets.randbits(63) if params.seed is None else params.seed
        self._random = Random(self.seed % 2**64)
        self.seen = _SeenTokens(prompt_ids, device) if params.penalised else None
        self.bias_ids = torch.tensor(list(params.logit_bias), dtype=torch.long, device=device)
        self.bias = torch.tensor(list(params.logit_bias.values()), dtype=torch.float32, device=device)

    def draw(self) -> float:
        """The next uniform number in [0, 1)."""
        return self._random.random()

    def record(self, token: int) -> None:
        """Notes a token of the output."""
        if self.seen is not None:
            self.seen.add(token)


class _SeenTokens:
    """The distinct tokens of a request and how often each is in its output, as tensors that grow."""

    def __init__(self, prompt_ids: Sequence[int], device: torch.device) -> None:
        self._place = {token: place for place, token in enumerate(dict.fromkeys(prompt_ids))}
        self._ids = torch.tensor(list(self._place), dtype=torch.long, device=device)
        self._counts = torch.zeros(len(self._place), device=device)

    @property
    def ids(self) -> Tensor:
        """[n] int64."""
        return self._ids[: len(self._place)]

    @property
    def counts(self) -> Tensor:
        """[n] float32; 0 for a token that is only in the prompt."""
        return self._counts[: len(self._place)]

    def add(self, token: int) -> None:
        place = self._place.setdefault(token, len(self._place))
        if place == self._ids.numel():
            self._ids = torch.cat([self._ids, torch.zeros_like(self._ids)])
            self._counts = torch.cat([self._counts, torch.zeros_like(self._counts)])
        self._ids[place] = token
        self._counts[place] += 1


def choose_tokens(logits: Tensor, states: Sequence[SamplingState]) -> list[int]:
    """One token for each row of finite float32 `logits` [B, vocab], which stay as they are."""
    logits = adjust_logits(logits, states)
    drawn = [row for row, state in enumerate(states) if state.params.temperature > 0]
    if len(drawn) < len(states):
        tokens: list[int] = logits.argmax(-1).tolist()
    else:
        tokens = [0] * len(states)
    if drawn:
        chosen = [states[row] for row in drawn]
        filtered = filter_logits(logits if len(drawn) == len(states) else logits[drawn], [s.params for s in chosen])
        for row, token in zip(drawn, _look_up(filtered, [s.draw() for s in chosen]), strict=True):
            tokens[row] = token
    return tokens


def token_logprobs(logits: Tensor, token_ids: Sequence[int], n_top: Sequence[int]) -> list[TokenLogprob]:
    """log_softmax of `logits` [R, vocab] at one token a row, and the `n_top` best of each row."""
    log_total = logits.logsumexp(-1, keepdim=True)
    own = (logits.gather(1, torch.tensor(token_ids, device=logits.device)[:, None]) - log_total)[:, 0].tolist()
    values, ids = logits.topk(max(n_top), dim=-1)
    best = (values - log_total).tolist()
    return [
        TokenLogprob(token, logprob, tuple(sorted(zip(row_ids[:n], row_best[:n], strict=True), key=_best_first)))
        for token, logprob, row_ids, row_best, n in zip(token_ids, own, ids.tolist(), best, n_top, strict=True)
    ]


def adjust_logits(logits: Tensor, states: Sequence[SamplingState]) -> Tensor:
    """Steps 1 to 3 on `logits` [B, vocab], which stay as they are; the same tensor when there is nothing to do."""
    return _biased(_penalised(logits, states), states)


def filter_logits(logits: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """Steps 4 to 7 on `logits` [B, vocab]: each row's greatest logit becomes 0, what is dropped -inf."""

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=logits.device)[:, None]

    vocab = logits.shape[1]
    x = (logits - logits.amax(-1, keepdim=True)) / column([p.temperature for p in params])
    floor = column([math.log(p.min_p) if p.min_p > 0 else -math.inf for p in params])
    rows = [row for row, p in enumerate(params) if 0 < p.top_k < vocab]
    if rows:
        ranks = torch.tensor([params[row].top_k for row in rows], device=x.device)[:, None]
        best = x[rows].topk(int(ranks.max()), dim=-1).values
        kth = best.gather(1, ranks - 1)
        x[rows] = x[rows].masked_fill(x[rows] < kth, -math.inf)
    rows = [row for row, p in enumerate(params) if p.top_p < 1]
    if rows:
        floor[rows] = floor[rows].maximum(_nucleus_floor(x[rows], column([params[row].top_p for row in rows])))
    return x.masked_fill_(x < floor, -math.inf)


def _nucleus_floor(x: Tensor, top_p: Tensor) -> Tensor:
    """[B, 1]: the least logit of each row's nucleus. Sorts only as much of the vocabulary as the nuclei need."""
    vocab = x.shape[1]
    log_total = x.logsumexp(-1, keepdim=True)
    n_sorted = min(vocab, 256)
    while True:
        best = x.topk(n_sorted, dim=-1).values
        share = (best - log_total).double().exp()
        size = ((share.cumsum(-1) - share) < top_p).sum(-1, keepdim=True)
        if n_sorted == vocab or bool((size < n_sorted).all()):
            return best.gather(1, size - 1)
        n_sorted = min(vocab, n_sorted * 8)


def _look_up(filtered: Tensor, uniforms: Sequence[float]) -> list[int]:
    """The token in whose share of [0, 1), shares laid end to end by id, each row's uniform number falls."""
    cumulative = filtered.exp().cumsum(-1, dtype=torch.float64)
    # A uniform number is at most 1 - 2^-53, and its product with the total is rounded to less than the total.
    target = torch.tensor(uniforms, dtype=torch.float64, device=filtered.device)[:, None] * cumulative[:, -1:]
    tokens: list[int] = torch.searchsorted(cumulative, target, right=True)[:, 0].tolist()
    return tokens


def _penalised(logits: Tensor, states: Sequence[SamplingState]) -> Tensor:
    seen = [(row, state.seen, state.params) for row, state in enumerate(states) if state.seen is not None]
    if not seen:
        return logits
    sizes = torch.tensor([history.ids.numel() for _, history, _ in seen], device=logits.device)

    def spread(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, device=logits.device).repeat_interleave(sizes)

    where = (spread([row for row, _, _ in seen]), torch.cat([history.ids for _, history, _ in seen]))
    counts = torch.cat([history.counts for _, history, _ in seen])
    repetition = spread([params.repetition_penalty for _, _, params in seen])
    x = logits[where]
    x = torch.where(x > 0, x / repetition, x * repetition)
    x -= spread([params.presence_penalty for _, _, params in seen]) * (counts > 0)
    x -= spread([params.frequency_penalty for _, _, params in seen]) * counts
    return logits.index_put(where, x)


def _biased(logits: Tensor, states: Sequence[SamplingState]) -> Tensor:
    biased = [(row, state) for row, state in enumerate(states) if state.bias_ids.numel()]
    if not biased:
        return logits
    rows = torch.cat([torch.full_like(state.bias_ids, row) for row, state in biased])
    ids = torch.cat([state.bias_ids for _, state in biased])
    return logits.index_put((rows, ids), torch.cat([state.bias for _, state in biased]), accumulate=True)


def _best_first(entry: tuple[int, float]) -> tuple[float, int]:
    return (-entry[1], entry[0])
