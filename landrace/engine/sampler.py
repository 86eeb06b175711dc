"""Chooses tokens from logits, and reports their logprobs.

Each row of logits x [vocab] passes, in this order:

1. repetition penalty r, for every token of the prompt and the output (Keskar et al., 2019, as transformers does it):
   x / r where x > 0, x * r elsewhere;
2. presence and frequency penalties, for every token of the output (OpenAI's definition):
   x - presence - frequency * count;
3. logit bias: x + bias;
4. the decoder's kernels, which choose, of the tokens that a guide allows, by temperature, top-k, top-p and min-p: see
   `SamplingRule`.

With one uniform number, a function of its seed and of the token's index in its output, a request looks the token up in
its own cumulative distribution: what else is in the batch changes nothing, nor how often a step is computed.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from copy import copy
from typing import Self

import torch
from torch import Tensor

from landrace.engine.draws import uniform
from landrace.engine.guiding import Guiding
from landrace.engine.outputs import TokenLogprob
from landrace.engine.sampling_params import SamplingParams
from landrace.engine.thinking import Thinking
from landrace.models.sampling import GREEDY, NOT_FINITE, SamplingRule, log_total

_FLOAT_MAX = torch.finfo(torch.float32).max

ChooseTokens = Callable[
    [Tensor, Sequence[int], Sequence[SamplingRule], Sequence[float], Sequence[Tensor | None]], list[int]
]
"""A decoder's `choose_tokens`."""


class SamplingState:
    """What choosing one request's tokens has to remember between steps."""

    def __init__(
        self,
        params: SamplingParams,
        prompt_ids: Sequence[int],
        device: torch.device,
        thinking: Thinking | None = None,
        guiding: Guiding | None = None,
    ) -> None:
        self.params = params
        self.thinking = thinking
        self.guiding = guiding
        self.rule = rule_of(params)
        self.seed = secrets.randbits(63) if params.seed is None else params.seed
        self.n_output = 0
        """Tokens of the output so far."""
        self.seen = _SeenTokens(prompt_ids, device) if params.penalised else None
        self.bias_ids = torch.tensor(list(params.logit_bias), dtype=torch.long, device=device)
        self.bias = torch.tensor(list(params.logit_bias.values()), dtype=torch.float32, device=device)
        self.adjusts = params.penalised or len(params.logit_bias) > 0
        """Whether the logits change before a token is chosen from them."""

    @property
    def forced(self) -> int | None:
        """The next token, where it is not the model's to choose."""
        forced = None if self.thinking is None else self.thinking.forced
        return self.guiding.forced if forced is None and self.guiding is not None else forced

    @property
    def mask(self) -> Tensor | None:
        """Which tokens may come next; None: all, or the one that is forced."""
        return None if self.guiding is None or self.forced is not None else self.guiding.mask

    @property
    def complete(self) -> bool:
        """Whether the answer is whole and nothing can follow."""
        return self.guiding is not None and self.guiding.complete

    @property
    def uniform(self) -> float:
        """From [0, 1): what the next token is chosen by."""
        return uniform(self.seed, self.n_output)

    def record(self, token: int) -> None:
        """Notes a token of the output."""
        self.n_output += 1
        if self.thinking is not None and not (self.guiding is not None and self.guiding.begun):
            self.thinking.record(token)
        if self.guiding is not None:
            self.guiding.record(token, self.thinking)
        if self.seen is not None:
            self.seen.add(token)

    def after(self, token: int) -> Self:
        """The state that `record` would lead to, beside this one."""
        then = copy(self)
        then.seen = copy(self.seen)
        then.thinking = copy(self.thinking)
        then.guiding = copy(self.guiding)
        then.record(token)
        return then


class _SeenTokens:
    """The distinct tokens of a request and how often each is in its output, as tensors that grow."""

    def __init__(self, prompt_ids: Sequence[int], device: torch.device) -> None:
        self._place = {token: place for place, token in enumerate(dict.fromkeys(prompt_ids))}
        self._ids = torch.tensor(list(self._place), dtype=torch.long, device=device)
        self._counts = torch.zeros(len(self._place), device=device)

    def __copy__(self) -> _SeenTokens:
        twin = _SeenTokens.__new__(_SeenTokens)
        twin._place, twin._ids, twin._counts = self._place.copy(), self._ids.clone(), self._counts.clone()
        return twin

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


def rule_of(params: SamplingParams) -> SamplingRule:
    """What of a request's parameters decides how its tokens are chosen once their logits are adjusted."""
    if params.temperature == 0:
        return GREEDY
    return SamplingRule(params.temperature, params.top_k, params.top_p, params.min_p)


def choose_tokens(logits: Tensor, states: Sequence[SamplingState | None], choose: ChooseTokens) -> list[int]:
    """One token for each row of float32 `logits` [R, vocab], which stay as they are; NOT_FINITE for a row without
    probabilities. A row without a state is one to look at only: unless it is NOT_FINITE, its token has no meaning."""
    tokens = _chosen(logits, states, choose)
    for row, state in enumerate(states):
        forced = None if state is None else state.forced
        if forced is not None and tokens[row] != NOT_FINITE:
            tokens[row] = forced
    return tokens


def _chosen(logits: Tensor, states: Sequence[SamplingState | None], choose: ChooseTokens) -> list[int]:
    """The tokens that the requests' own parameters choose."""
    rules = [GREEDY if state is None else state.rule for state in states]
    uniforms = [0.0 if state is None else state.uniform for state in states]
    masks = [None if state is None else state.mask for state in states]
    adjusted = [row for row, state in enumerate(states) if state is not None and state.adjusts]
    if not adjusted:
        return choose(logits, range(len(states)), rules, uniforms, masks)
    tokens = [0] * len(states)
    plain = sorted(set(range(len(states))).difference(adjusted))
    changed = adjust_logits(logits[adjusted], [state for state in states if state is not None and state.adjusts])
    for rows, source, places in ((plain, logits, plain), (adjusted, changed, range(len(adjusted)))):
        chosen = choose(
            source,
            places,
            [rules[row] for row in rows],
            [uniforms[row] for row in rows],
            [masks[row] for row in rows],
        )
        for row, token in zip(rows, chosen, strict=True):
            tokens[row] = token
    return tokens


def token_logprobs(logits: Tensor, token_ids: Sequence[int], n_top: Sequence[int]) -> list[TokenLogprob]:
    """log_softmax of `logits` [R, vocab] at one token a row, and the `n_top` best of each row."""
    whole = log_total(logits)
    own = (logits.gather(1, torch.tensor(token_ids, device=logits.device)[:, None]) - whole)[:, 0].tolist()
    values, ids = logits.topk(max(n_top), dim=-1)
    best = (values - whole).tolist()
    return [
        TokenLogprob(token, logprob, tuple(sorted(zip(row_ids[:n], row_best[:n], strict=True), key=_best_first)))
        for token, logprob, row_ids, row_best, n in zip(token_ids, own, ids.tolist(), best, n_top, strict=True)
    ]


def adjust_logits(logits: Tensor, states: Sequence[SamplingState]) -> Tensor:
    """Steps 1 to 3 on `logits` [B, vocab], which stay as they are; the same tensor when there is nothing to do."""
    return _biased(_penalised(logits, states), states)


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
    # A finite logit stays finite: only the model's own infinities say that it made no sense.
    finite = x.isfinite()
    x = torch.where(x > 0, x / repetition, x * repetition)
    x = torch.where(finite, x.clamp(-_FLOAT_MAX, _FLOAT_MAX), x)
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
