"""The sampler against transformers' logits processors, against its own formulas, and statistically."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from landrace.engine import sampler
from landrace.engine.draws import uniform
from landrace.engine.sampler import SamplingState, adjust_logits, token_logprobs
from landrace.engine.sampler import choose_tokens as choose_by
from landrace.engine.sampling_params import SamplingParams
from landrace.kernels.cpu import native
from landrace.kernels.cpu import sampling as cpu
from landrace.kernels.reference import sampling as reference
from landrace.kernels.reference.sampling import filter_logits
from landrace.models.sampling import NOT_FINITE, SamplingRule

CPU = torch.device("cpu")
Choose = Callable[[torch.Tensor, list[SamplingState]], list[int]]
VOCAB = 1000


def random_logits(rows: int, seed: int = 0, scale: float = 3.0, vocab: int = VOCAB) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * scale


@pytest.fixture(params=["reference", "cpu"])
def choose_tokens(request: pytest.FixtureRequest) -> Choose:
    """`sampler.choose_tokens` on either kernels."""
    if request.param == "reference":
        return lambda logits, states: choose_by(logits, states, reference.choose_tokens)
    extension = native()
    if extension is None:
        pytest.skip("the C++ kernels are not built")
    pool, isa = extension.ThreadPool(2), extension.instruction_sets()[-1]
    return lambda logits, states: choose_by(
        logits,
        states,
        lambda x, rows, rules, uniforms, masks: cpu.choose_tokens(
            extension, pool, isa, x, rows, rules, uniforms, 2, masks
        ),
    )


def rule(**fields: float) -> SamplingRule:
    return SamplingRule(**{"temperature": 1.0, **fields})


def one_each(choose_tokens: Choose, logits: torch.Tensor, states: list[SamplingState]) -> list[int]:
    """A token for each row, recorded: the same rows asked again draw anew."""
    tokens = choose_tokens(logits, states)
    assert choose_tokens(logits, states) == tokens, "until it is recorded, a choice stands"
    for one, token in zip(states, tokens, strict=True):
        one.record(token)
    return tokens


def state(prompt: tuple[int, ...] = (1,), output: tuple[int, ...] = (), **params: object) -> SamplingState:
    result = SamplingState(SamplingParams(**params), prompt, CPU)
    for token in output:
        result.record(token)
    return result


FILTERS = [
    {"temperature": 0.7},
    {"temperature": 1.9},
    {"top_k": 1},
    {"top_k": 40},
    {"top_k": VOCAB},
    {"top_k": 10 * VOCAB},
    {"top_p": 0.9},
    {"top_p": 0.9999},
    {"top_p": 1e-6},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"temperature": 0.6, "top_k": 50, "top_p": 0.8, "min_p": 0.02},
    {"temperature": 5.0, "top_p": 0.95},
    {"temperature": 1.3, "top_k": 700, "top_p": 0.7},
]


def reference_filter(logits: torch.Tensor, params: SamplingRule) -> torch.Tensor:
    chain = LogitsProcessorList([TemperatureLogitsWarper(float(params.temperature))])
    if params.top_k:
        chain.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        chain.append(TopPLogitsWarper(params.top_p))
    if params.min_p:
        chain.append(MinPLogitsWarper(params.min_p))
    return chain(torch.zeros(1, 1, dtype=torch.long), logits)


def test_filters_equal_transformers_all_in_one_batch() -> None:
    params = [rule(**fields) for fields in FILTERS]
    logits = random_logits(len(params))
    ours = filter_logits(logits, params)
    for row, one in enumerate(params):
        theirs = reference_filter(logits[row : row + 1], one)[0]
        assert torch.equal(ours[row].isfinite(), theirs.isfinite()), FILTERS[row]
        torch.testing.assert_close(ours[row].softmax(-1), theirs.softmax(-1), rtol=1e-4, atol=1e-7)
        assert torch.equal(ours[row], filter_logits(logits[row : row + 1], [one])[0]), "the batch changes nothing"


@settings(max_examples=100)
@given(
    st.integers(0, 2**31),
    st.floats(0.1, 5),
    st.integers(0, 40),
    st.floats(0.01, 1.0),
    st.floats(0, 1),
)
def test_random_filters_equal_transformers(seed: int, temperature: float, k: int, p: float, min_p: float) -> None:
    params = SamplingRule(temperature, k, p, min_p)
    logits = random_logits(1, seed, vocab=30)
    ours, theirs = filter_logits(logits, [params]), reference_filter(logits, params)
    probabilities = (logits / temperature).softmax(-1)
    differ = probabilities[ours.isfinite() != theirs.isfinite()]
    assert differ.numel() <= 1 or differ.sum() < 1e-5, "only a token that lies on a threshold, to rounding, may differ"


def test_equal_logits_stay_or_go_together() -> None:
    logits = torch.tensor([[2.0, 1.0, 1.0, 1.0, 0.0]])
    for params in (rule(top_k=2), rule(top_p=0.6), rule(min_p=0.3)):
        assert filter_logits(logits, [params]).isfinite().tolist() == [[True, True, True, True, False]]


def test_repetition_penalty_equals_transformers() -> None:
    logits = random_logits(2)
    prompt, output = (3, 5, 5, 9), (7, 3)
    ours = adjust_logits(logits, [state(prompt, output, repetition_penalty=1.3), state()])
    theirs = RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([[*prompt, *output]]), logits[:1].clone())
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-6, atol=0)
    assert torch.equal(ours[1], logits[1])


def test_penalties_and_bias_by_formula() -> None:
    logits = random_logits(3)
    before = logits.clone()
    prompt, output = (3, 5), (5, 8, 8, 8)
    fields = {
        "presence_penalty": 0.5,
        "frequency_penalty": -0.25,
        "repetition_penalty": 2.0,
        "logit_bias": {8: 1.5, 0: -9},
    }
    ours = adjust_logits(logits, [state(logit_bias={8: 3}), state(prompt, output, **fields), state()])
    expected = logits[1].tolist()
    for token in (3, 5, 8):
        expected[token] = expected[token] / 2 if expected[token] > 0 else expected[token] * 2
    for token, count in ((5, 1), (8, 3)):
        expected[token] -= 0.5 - 0.25 * count
    expected[8] += 1.5
    expected[0] -= 9
    torch.testing.assert_close(ours[1], torch.tensor(expected))
    assert ours[0, 8] == logits[0, 8] + 3 and torch.equal(ours[2], logits[2])
    assert torch.equal(logits, before), "the model's own logits stay as they are, for the logprobs"


def test_greedy_takes_the_lowest_id_among_equals(choose_tokens: Choose) -> None:
    logits = torch.zeros(2, 50)
    logits[0, [30, 7, 12]] = 4.0
    assert choose_tokens(logits, [state(temperature=0), state(temperature=0)]) == [7, 0]


def test_greedy_ignores_filters_but_not_penalties(choose_tokens: Choose) -> None:
    logits = random_logits(1)
    best, second = logits[0].topk(2).indices.tolist()
    assert choose_tokens(logits, [state(temperature=0, top_k=3, top_p=0.1)]) == [best]
    assert choose_tokens(logits, [state(temperature=0, logit_bias={best: -100})]) == [second]


def test_a_seed_fixes_the_tokens_whatever_else_is_in_the_batch(choose_tokens: Choose) -> None:
    logits = random_logits(8, scale=1.0)
    kinds = [
        {},
        {"temperature": 0.0},
        {"top_k": 5},
        {"top_p": 0.5},
        {"min_p": 0.1},
        {"repetition_penalty": 1.5},
        {"logit_bias": {3: 5.0}},
        {"temperature": 2.0, "top_p": 0.999},
    ]
    alone = []
    for row, fields in enumerate(kinds):
        one = state(seed=row, **fields)
        alone.append([token for _ in range(20) for token in one_each(choose_tokens, logits[row : row + 1], [one])])
    together = [state(seed=row, **fields) for row, fields in enumerate(kinds)]
    draws = [one_each(choose_tokens, logits, together) for _ in range(20)]
    assert [list(column) for column in zip(*draws, strict=True)] == alone
    assert len(set(alone[0])) > 10


def test_an_unseeded_request_gets_a_seed_that_repeats_it(choose_tokens: Choose) -> None:
    first, other = state(), state()
    again = state(seed=first.seed)
    logits = random_logits(1, scale=0.1)
    draws = [[one_each(choose_tokens, logits, [s]) for _ in range(10)] for s in (first, other, again)]
    assert draws[0] == draws[2] != draws[1]


@pytest.mark.parametrize("fields", [{}, {"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.8}])
def test_draws_follow_the_distribution(choose_tokens: Choose, fields: dict[str, float]) -> None:
    """Chi-squared over 11,000 draws: 1,000 from one seed, the others the first of as many seeds."""
    logits = torch.tensor([[1.0, 0.0, 2.0, -1.0, 0.5, -3.0]])
    expected = filter_logits(logits, [rule(**fields)]).double().softmax(-1)[0]
    one = state(seed=2, **fields)
    tokens = [token for _ in range(1000) for token in one_each(choose_tokens, logits, [one])]
    batch = [state(seed=seed, **fields) for seed in range(10_000, 20_000)]
    tokens += choose_tokens(logits.expand(10_000, -1), batch)
    counts = torch.bincount(torch.tensor(tokens), minlength=6).double()
    assert counts[expected == 0].sum() == 0
    kept = expected * len(tokens) > 5
    chi2 = ((counts - len(tokens) * expected) ** 2 / (len(tokens) * expected))[kept].sum()
    degrees = int(kept.sum()) - 1
    assert chi2 < degrees + 4 * math.sqrt(2 * degrees) + 6


def test_a_row_without_probabilities_chooses_nothing_and_disturbs_nobody(choose_tokens: Choose) -> None:
    logits = random_logits(6)
    logits[0, 7], logits[2, 8] = math.nan, math.inf
    logits[3], logits[5, :9] = -math.inf, -math.inf
    kinds = [
        {},
        {"top_k": 4},
        {"temperature": 0},
        {"top_p": 0.5},
        {"repetition_penalty": 1.2},
        {"logit_bias": {10: 9.0}},
    ]
    tokens = choose_tokens(logits, [state(seed=row, **fields) for row, fields in enumerate(kinds)])
    assert [row for row, token in enumerate(tokens) if token == NOT_FINITE] == [0, 2, 3]
    for row in (1, 4, 5):
        assert choose_tokens(logits[row : row + 1], [state(seed=row, **kinds[row])]) == [tokens[row]]


@pytest.mark.parametrize(
    "fields", [{}, {"temperature": 0}, {"repetition_penalty": 1.4, "presence_penalty": 0.5, "frequency_penalty": 0.3}]
)
def test_a_state_tells_what_it_will_be_and_stays_what_it_is(choose_tokens: Choose, fields: dict[str, float]) -> None:
    logits = random_logits(1, scale=0.5, vocab=20)
    now = state((1, 2), (3,), seed=5, **fields)
    adjusted = adjust_logits(logits, [now])
    output = [3, 4, 4, 11, 12, 13, 14, 15, 16]
    later = now
    for n, token in enumerate(output[1:], start=2):
        later = later.after(token)
        recorded = state((1, 2), tuple(output[:n]), seed=5, **fields)
        assert choose_tokens(logits, [later]) == choose_tokens(logits, [recorded])
        assert torch.equal(adjust_logits(logits, [later]), adjust_logits(logits, [recorded]))
        assert later.uniform == recorded.uniform == uniform(5, n) != now.uniform
    assert torch.equal(adjust_logits(logits, [now]), adjusted)
    assert now.uniform == state((1, 2), (3,), seed=5, **fields).uniform


def test_rows_without_a_state_are_looked_at_only(choose_tokens: Choose) -> None:
    logits = random_logits(5)
    logits[3, 0] = math.nan
    biased, plain = state(seed=1, logit_bias={5: 2.0}), state(seed=2)
    tokens = choose_tokens(logits, [None, biased, None, None, plain])
    assert [token == NOT_FINITE for token in tokens] == [False, False, False, True, False]
    assert tokens[1] == choose_tokens(logits[1:2], [state(seed=1, logit_bias={5: 2.0})])[0]
    assert tokens[4] == choose_tokens(logits[4:], [state(seed=2)])[0]


def test_the_ends_of_the_unit_interval(choose_tokens: Choose, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.full((2, 5), -math.inf)
    logits[:, [1, 3]] = 0.0
    states = [state(), state()]
    for draw, expected in ((0.0, 1), (1 - 2**-53, 3)):
        monkeypatch.setattr(sampler, "uniform", lambda seed, index, draw=draw: draw)
        assert choose_tokens(logits, states) == [expected] * 2


def test_penalties_keep_finite_logits_finite(choose_tokens: Choose) -> None:
    """Only the model's own infinities say that its logits make no sense."""
    logits = torch.tensor([[3e38, -3e38, 1.0, -math.inf, 0.5]])
    for penalty in (1e-5, 100.0):
        one = state((0, 1, 2, 3), (0, 1), repetition_penalty=penalty, presence_penalty=2.0, frequency_penalty=2.0)
        adjusted = adjust_logits(logits, [one])
        assert adjusted.isfinite().tolist() == [[True, True, True, False, True]]
        assert choose_tokens(logits, [one]) != [NOT_FINITE]
    broken = torch.tensor([[math.inf, 0.0, 1.0]])
    assert choose_tokens(broken, [state((0, 1), repetition_penalty=2.0)]) == [NOT_FINITE]


def test_logprobs_are_the_models_own() -> None:
    logits = random_logits(3)
    reference = logits.double().log_softmax(-1)
    results = token_logprobs(logits, [4, 5, 6], [0, 2, 5])
    for row, (token, n, result) in enumerate(zip((4, 5, 6), (0, 2, 5), results, strict=True)):
        assert result.token_id == token
        assert result.logprob == pytest.approx(reference[row, token].item(), abs=1e-5)
        values, ids = reference[row].topk(n)
        assert [entry[0] for entry in result.top] == ids.tolist()
        assert [entry[1] for entry in result.top] == pytest.approx(values.tolist(), abs=1e-5)
