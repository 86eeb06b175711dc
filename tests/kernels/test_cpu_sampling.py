"""Token choice in C++ and in torch against its definition in float64, and against one another."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from landrace.kernels.cpu import sampling as cpu
from landrace.kernels.reference import sampling as reference
from landrace.kernels.sampling_rule import GREEDY, NOT_FINITE, SamplingRule

ROUNDING = 1e-6
"""How far from its place rounding may put the border of a share or of a nucleus, as a part of the whole."""
LAST_UNIFORM = 1 - 2**-53

Choose = Callable[[torch.Tensor, Sequence[SamplingRule], Sequence[float]], list[int]]


@pytest.fixture
def native_choose(extension: ModuleType, pool: Any, isa: str) -> Choose:
    return lambda logits, rules, uniforms: cpu.choose_tokens(
        extension, pool, isa, logits, range(len(rules)), rules, uniforms, 1
    )


def reference_choose(logits: torch.Tensor, rules: Sequence[SamplingRule], uniforms: Sequence[float]) -> list[int]:
    return reference.choose_tokens(logits, range(len(rules)), rules, uniforms)


def kept(x: np.ndarray, rule: SamplingRule, top_p: float) -> np.ndarray:
    """Which tokens the filters leave of x = (logit - greatest) / temperature: bool [vocab]."""
    keep = x > -np.inf
    if 0 < rule.top_k < len(x):
        keep &= x >= np.sort(x)[-rule.top_k]
    if rule.top_p < 1:
        values, place = np.unique(np.where(keep, x, -np.inf), return_inverse=True)
        weights = np.bincount(place, weights=np.where(keep, np.exp(x.astype(np.float64)), 0.0))
        above = weights.sum() - np.cumsum(weights)  # of all greater values
        inside = above < max(top_p, ROUNDING) * weights.sum() - 1e-15
        inside[-1] = True
        keep &= x >= values[inside].min()
    if rule.min_p > 0:
        keep &= x >= np.float32(math.log(rule.min_p))
    return keep


def right(logits: torch.Tensor, rule: SamplingRule, uniform: float, token: int, rounding: float) -> bool:
    """Whether `token` is what the definition chooses, give or take `rounding`."""
    if rule.temperature == 0:
        return token == int(np.argmax(logits.numpy()))
    x = ((logits - logits.max()) / torch.tensor(rule.temperature, dtype=torch.float32)).numpy()
    for shift in (-rounding, 0.0, rounding) if rule.top_p < 1 else (0.0,):
        keep = kept(x, rule, float(np.float32(rule.top_p)) + shift)
        weights = np.where(keep, np.exp(x.astype(np.float64)), 0.0)
        shares = np.cumsum(weights) / weights.sum()
        first, last = (np.searchsorted(shares, max(u, 0.0), side="right") for u in
                       (uniform - rounding, uniform + rounding))  # fmt: skip
        if keep[token] and first <= token <= last:
            return True
    return False


def make_logits(kind: str, vocab: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(vocab, generator=generator)
    if kind == "ties":
        return (noise * 2).round()
    if kind == "equal":
        return torch.full((vocab,), -3.25)
    if kind == "masked":
        noise[torch.rand(vocab, generator=generator) < 0.7] = -math.inf
        noise[seed % vocab] = 1.0
        return noise
    if kind == "peaked":
        noise[torch.randint(0, vocab, (3,), generator=generator)] += 15.0
        return noise * 3
    if kind == "huge":
        return noise.sign() * torch.exp(noise * 30).clamp(max=3e38)
    return noise * 4


KINDS = ("normal", "ties", "equal", "masked", "peaked", "huge")
RULES = st.builds(
    SamplingRule,
    temperature=st.sampled_from([1e-5, 0.1, 0.7, 1.0, 1.7, 5.0, 100.0]),
    top_k=st.sampled_from([0, 0, 1, 2, 7, 40, 900, 10**9]),
    top_p=st.sampled_from([1e-9, 0.1, 0.5, 0.9, 0.99999, 1.0, 1.0]),
    min_p=st.sampled_from([0.0, 0.0, 1e-9, 0.05, 0.7, 1.0]),
)
UNIFORMS = st.one_of(st.sampled_from([0.0, LAST_UNIFORM]), st.floats(0, LAST_UNIFORM))


@settings(max_examples=250)
@given(
    st.sampled_from(KINDS), st.sampled_from([1, 7, 16, 255, 257, 1000, 5000]), st.integers(0, 2**20), RULES, UNIFORMS
)
def test_every_choice_is_the_definition_s(
    native_choose: Choose, kind: str, vocab: int, seed: int, rule: SamplingRule, uniform: float
) -> None:
    logits = make_logits(kind, vocab, seed)
    assert right(logits, rule, uniform, native_choose(logits[None], [rule], [uniform])[0], ROUNDING)
    # The reference takes the logarithm of the whole in float32.
    assert right(logits, rule, uniform, reference_choose(logits[None], [rule], [uniform])[0], 4 * ROUNDING)


@pytest.mark.parametrize("vocab", [32_000, 151_936])
@pytest.mark.parametrize("kind", KINDS)
def test_large_vocabularies(native_choose: Choose, kind: str, vocab: int) -> None:
    logits = make_logits(kind, vocab, vocab)
    rules = [
        GREEDY,
        SamplingRule(1.0),
        SamplingRule(0.8, top_k=40),
        SamplingRule(0.8, top_p=0.95),
        SamplingRule(0.7, 50, 0.9, 0.05),
        SamplingRule(1.0, top_k=vocab - 1),
        SamplingRule(1.5, min_p=0.1),
        SamplingRule(100.0, top_p=0.9999),
    ]
    uniforms = [0.1 + 0.1 * i for i in range(len(rules))]
    tokens = native_choose(logits.expand(len(rules), -1), rules, uniforms)
    for rule, uniform, token in zip(rules, uniforms, tokens, strict=True):
        assert right(logits, rule, uniform, token, ROUNDING), rule


def test_it_chooses_as_the_reference_does(native_choose: Choose) -> None:
    """The same tokens, away from borders: of 600 random choices hardly one lies at a border."""
    logits = torch.stack([make_logits(KINDS[row % len(KINDS)], 3000, row) for row in range(600)])
    kinds = [
        SamplingRule(1.0),
        SamplingRule(0.7, 40),
        SamplingRule(0.9, 0, 0.9),
        SamplingRule(1.2, 90, 0.8, 0.02),
        GREEDY,
    ]
    rules = [kinds[row % len(kinds)] for row in range(600)]
    uniforms = torch.rand(600, generator=torch.Generator().manual_seed(1), dtype=torch.float64).tolist()
    ours, theirs = native_choose(logits, rules, uniforms), reference_choose(logits, rules, uniforms)
    assert sum(a != b for a, b in zip(ours, theirs, strict=True)) <= 1


@pytest.mark.parametrize("choose", ["native", "reference"])
def test_the_most_likely_token_is_the_first_of_equals(native_choose: Choose, choose: str) -> None:
    run = native_choose if choose == "native" else reference_choose
    logits = torch.full((3, 1000), -1.0)
    logits[0, [999, 512, 700]] = 4.0
    logits[1, [300, 301]] = torch.tensor([-0.0, 0.0])
    assert run(logits, [GREEDY] * 3, [0.0] * 3) == [512, 300, 0]


@pytest.mark.parametrize("place", [0, 5, 256, 999])
@pytest.mark.parametrize("rule", [GREEDY, SamplingRule(1.0), SamplingRule(0.5, 3, 0.9)])
def test_only_rows_with_probabilities_choose(native_choose: Choose, place: int, rule: SamplingRule) -> None:
    logits = make_logits("normal", 1000, 3).repeat(6, 1)
    logits[0, place], logits[1, place], logits[2] = math.nan, math.inf, -math.inf
    logits[3, place], logits[4] = -math.inf, -math.inf
    logits[4, place] = -3.4e38
    for run in (native_choose, reference_choose):
        tokens = run(logits, [rule] * 6, [0.4] * 6)
        assert tokens[:3] == [NOT_FINITE] * 3
        assert NOT_FINITE not in tokens[3:] and tokens[3] != place and tokens[4] == place
        assert run(logits[5:], [rule], [0.4]) == tokens[5:]


def test_tokens_do_not_depend_on_threads_or_instruction_set(extension: ModuleType, pool: Any) -> None:
    logits = torch.stack([make_logits(KINDS[row % len(KINDS)], 32_000, row) for row in range(40)])
    kinds = [
        SamplingRule(1.0),
        GREEDY,
        SamplingRule(0.9, 0, 0.9),
        SamplingRule(1.2, 90, 0.8, 0.02),
        SamplingRule(2, 0, 1, 0.1),
    ]
    rules = [kinds[row % len(kinds)] for row in range(40)]
    uniforms = [(row * 0.37) % 1 for row in range(40)]

    def run(isa: str, threads: int, rows: Sequence[int]) -> list[int]:
        chosen = [rules[row] for row in rows], [uniforms[row] for row in rows]
        return cpu.choose_tokens(extension, pool, isa, logits, rows, *chosen, threads)

    expected = run("plain", 1, range(40))
    for isa in extension.instruction_sets():
        for threads in (1, 2, 3):
            assert run(isa, threads, range(40)) == expected
    assert [run("plain", 3, [row])[0] for row in range(39, -1, -1)] == expected[::-1]


def test_rows_of_a_larger_matrix(native_choose: Choose) -> None:
    logits = torch.randn(9, 40, generator=torch.Generator().manual_seed(2))
    assert native_choose(logits[2::3], [GREEDY] * 3, [0.0] * 3) == logits[2::3].argmax(-1).tolist()
    assert native_choose(logits[:, 5:20], [GREEDY] * 9, [0.0] * 9) == logits[:, 5:20].argmax(-1).tolist()
    assert native_choose(logits, [], []) == []


def test_what_cannot_be_read_is_refused(extension: ModuleType, pool: Any) -> None:
    def run(logits: torch.Tensor, rows: Sequence[int] = (0,), n_rules: int = 1) -> list[int]:
        return cpu.choose_tokens(extension, pool, "plain", logits, rows, [GREEDY] * n_rules, [0.0] * n_rules, 1)

    logits = torch.zeros(2, 5)
    for wrong in (logits.double(), logits[0], torch.zeros(2, 0), logits.t()):
        with pytest.raises(ValueError):
            run(wrong)
    with pytest.raises(ValueError):
        run(logits, [0], n_rules=2)
    for rows in ([2], [-1], [0, 5]):
        with pytest.raises(IndexError):
            run(logits, rows, n_rules=len(rows))
    with pytest.raises(ValueError):
        cpu.choose_tokens(extension, pool, "no such set", logits, [0], [GREEDY], [0.0], 1)


def mask_of(allowed: torch.Tensor, n_words: int | None = None) -> torch.Tensor:
    """int32 words of bool [n]; `n_words`: with so many of them, which may be more or fewer than tokens need."""
    bits = np.packbits(allowed.numpy(), bitorder="little")
    words = np.zeros(4 * (-(-len(allowed) // 32) if n_words is None else n_words), np.uint8)
    words[: len(bits)] = bits[: len(words)]
    return torch.from_numpy(words.view(np.int32).copy())


@settings(max_examples=150)
@given(st.sampled_from([1, 31, 32, 33, 300, 5000]), st.integers(0, 2**20), RULES, UNIFORMS, st.floats(0, 1), st.data())
def test_a_mask_leaves_a_choice_among_what_it_allows(
    extension: ModuleType,
    pool: Any,
    isa: str,
    vocab: int,
    seed: int,
    rule: SamplingRule,
    uniform: float,
    share: float,
    data: st.DataObject,
) -> None:
    logits = make_logits("normal", vocab, seed)[None].repeat(3, 1)
    n_words = data.draw(st.integers(1, vocab // 32 + 3))
    allowed = torch.rand(vocab, generator=torch.Generator().manual_seed(seed)) <= share
    allowed[0] = True
    mask = mask_of(allowed, n_words)
    allowed[32 * n_words :] = False
    hidden = logits.clone()
    hidden[1] = hidden[1].masked_fill(~allowed, -math.inf)
    rules, uniforms, masks = [rule] * 3, [uniform] * 3, [None, mask, None]
    ours = cpu.choose_tokens(extension, pool, isa, logits, range(3), rules, uniforms, 2, masks)
    assert ours == cpu.choose_tokens(extension, pool, isa, hidden, range(3), rules, uniforms, 2)
    theirs = reference.choose_tokens(logits, range(3), rules, uniforms, masks)
    assert theirs == reference.choose_tokens(hidden, range(3), rules, uniforms)
    assert allowed[ours[1]] and allowed[theirs[1]]


@pytest.mark.parametrize("rule", [GREEDY, SamplingRule(1.0), SamplingRule(0.5, 3, 0.9)])
def test_a_mask_hides_no_broken_row(extension: ModuleType, pool: Any, isa: str, rule: SamplingRule) -> None:
    logits = make_logits("normal", 100, 3).repeat(5, 1)
    logits[0, 50], logits[1, 50], logits[2, :40] = math.nan, math.inf, -math.inf
    first = mask_of(torch.arange(100) < 40)
    masks = [first, first, first, mask_of(torch.zeros(100, dtype=torch.bool)), first]
    for tokens in (
        cpu.choose_tokens(extension, pool, isa, logits, range(5), [rule] * 5, [0.4] * 5, 1, masks),
        reference.choose_tokens(logits, range(5), [rule] * 5, [0.4] * 5, masks),
    ):
        assert tokens[:4] == [NOT_FINITE] * 4
        assert 0 <= tokens[4] < 40


def test_masks_of_another_kind_are_refused(extension: ModuleType, pool: Any, isa: str) -> None:
    logits = torch.zeros(1, 8)
    for masks in ([torch.ones(1)], [torch.ones(2, 2, dtype=torch.int32).T], [None, None]):
        with pytest.raises(ValueError, match="mask"):
            cpu.choose_tokens(extension, pool, isa, logits, [0], [GREEDY], [0.0], 1, masks)
