"""Packing changes no number; the loss is the mean over the trained tokens of the whole step."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from landrace.errors import OptionError
from landrace.models.batch import AdapterRows, ForwardBatch
from landrace.models.lora_spec import LoraSpec
from landrace.training import loss as loss_module
from landrace.training.examples import Example
from landrace.training.loss import backward_loss, loss_sum, token_logprobs
from landrace.training.optimizer import DivergedError, make_optimizer, optimizer_step
from landrace.training.options import TuneOptions
from landrace.training.packing import Order, micro_batches, pack


def random_examples(count, *, seed=0, longest=30):
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for _ in range(count):
        length = int(torch.randint(2, longest, (1,), generator=generator))
        ids = torch.randint(0, 260, (length,), generator=generator).tolist()
        trained = (torch.rand(length, generator=generator) < 0.4).tolist()
        examples.append(Example(tuple(ids), (False, *trained[1:-1], True)))
    return examples


def gradients(decoder):
    return {name: p.grad.clone() for name, p in decoder.named_parameters() if p.grad is not None}


def trainable(decoder):
    decoder.requires_grad_(True)
    return decoder


def naive_loss(decoder, example):
    """Sum of -log p over trained tokens from full logits of one sequence alone."""
    logprobs = decoder(ForwardBatch.packed([list(example.token_ids)])).log_softmax(-1)
    return -sum(logprobs[i - 1, token] for i, token in enumerate(example.token_ids) if example.trained[i])


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 64))
def test_pack_takes_everything_once_within_the_limit(lengths, most):
    groups = pack(lengths, most)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in group) <= most or len(group) == 1 for group in groups)


@given(st.integers(1, 40), st.integers(1, 10), st.integers(1, 3), st.integers(0, 5))
def test_every_epoch_takes_every_example_once(n, batch, epochs, seed):
    order = Order(n, batch_examples=batch, epochs=epochs, seed=seed, max_steps=None)
    plans = [order.step(s) for s in range(order.total_steps)]
    for epoch in range(epochs):
        mine = [plan for plan in plans if plan.epoch == epoch]
        assert sorted(i for plan in mine for i in plan.indices) == list(range(n))
        assert [plan.ends_epoch for plan in mine] == [False] * (len(mine) - 1) + [True]
        assert all(len(plan.indices) == batch for plan in mine[:-1])
    fresh = Order(n, batch_examples=batch, epochs=epochs, seed=seed, max_steps=None)
    assert fresh.step(order.total_steps - 1) == plans[-1]


def test_epochs_and_seeds_shuffle_differently():
    def order(seed):
        return Order(50, batch_examples=50, epochs=2, seed=seed, max_steps=None)

    orders = [order(seed).step(s).indices for seed in (0, 1) for s in (0, 1)]
    assert len({*orders, tuple(range(50))}) == 5
    assert Order(50, batch_examples=5, epochs=9, seed=0, max_steps=3).total_steps == 3


def test_micro_batches_predict_the_trained_tokens():
    examples = random_examples(7)
    micros = micro_batches(examples, 64)
    assert sum(m.tokens for m in micros) == sum(len(e.token_ids) for e in examples)
    assert sum(m.targets.numel() for m in micros) == sum(sum(e.trained) for e in examples)
    for micro in micros:
        assert torch.equal(micro.batch.token_ids[micro.batch.logit_rows + 1], micro.targets)


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("rows", [1, 3, 512])
def test_pack_equals_separate_sequences(tiny_decoder, monkeypatch, tie, rows):
    """Loss and every gradient of a pack are the sums over its sequences alone: there is no cross-talk."""
    monkeypatch.setattr(loss_module, "LOGIT_ROWS", rows)
    examples = random_examples(6)
    packed, alone = (trainable(tiny_decoder(tie=tie)) for _ in range(2))
    (micro,) = micro_batches(examples, 10_000)
    total = backward_loss(packed, micro, divisor=5.0)
    expected = sum(naive_loss(alone, example) for example in examples)
    (expected / 5.0).backward()
    assert total == pytest.approx(expected.item(), abs=1e-4)
    ours, theirs = gradients(packed), gradients(alone)
    assert set(ours) == set(theirs) == set(dict(packed.named_parameters()))
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], atol=2e-6, rtol=1e-5)


def test_other_sequences_in_the_pack_do_not_matter(tiny_decoder):
    decoder = tiny_decoder()
    first, *strangers = random_examples(5)
    alone = token_logprobs(decoder, [first.token_ids])[0]
    packed = token_logprobs(decoder, [strangers[0].token_ids, first.token_ids, strangers[1].token_ids])[1]
    torch.testing.assert_close(packed, alone, atol=1e-6, rtol=0)


def test_one_large_pass_equals_many_small_ones(tiny_decoder):
    """Same step, same loss, same weights, whether the examples go in one forward pass or in one each."""
    examples = random_examples(12, longest=20)
    results = []
    for micro_tokens in (10_000, 64, 20):
        decoder = trainable(tiny_decoder())
        options = TuneOptions(method="full", micro_tokens=micro_tokens, learning_rate=1e-3)
        optimizer = make_optimizer(dict(decoder.named_parameters()), options)
        taken = optimizer_step(decoder, optimizer, examples, step=1, rate=1e-3, options=options)
        results.append((taken, gradients(decoder)))
    (whole, whole_gradients), *others = results
    for taken, grads in others:
        assert taken.loss == pytest.approx(whole.loss, abs=1e-6)
        assert taken.grad_norm == pytest.approx(whole.grad_norm, rel=1e-5)
        assert (taken.tokens, taken.trained_tokens) == (whole.tokens, whole.trained_tokens)
        for name, gradient in whole_gradients.items():
            torch.testing.assert_close(grads[name], gradient, atol=1e-6, rtol=1e-4)


def test_untrained_tokens_are_not_learned(tiny_decoder):
    """The loss does not change with a token that is neither trained nor before one that is."""
    decoder = tiny_decoder()
    losses = []
    for last in (7, 9):
        (micro,) = micro_batches([Example((1, 2, 3, last), (False, True, True, False))], 100)
        losses.append(loss_sum(decoder, micro))
    assert losses[0] == losses[1] > 0


def test_token_logprobs_equal_full_logits(tiny_decoder):
    decoder = tiny_decoder()
    sequences = [list(example.token_ids) for example in random_examples(9)]
    first = [1 + i % (len(ids) - 1) for i, ids in enumerate(sequences)]
    for most_tokens in (1, 40, 10_000):
        scored = token_logprobs(decoder, sequences, first=first, most_tokens=most_tokens)
        for ids, begin, part in zip(sequences, first, scored, strict=True):
            full = decoder(ForwardBatch.packed([ids])).log_softmax(-1)
            expected = full[torch.arange(begin - 1, len(ids) - 1), torch.tensor(ids[begin:])]
            torch.testing.assert_close(part, expected, atol=1e-6, rtol=0)


def test_token_logprobs_of_an_adapter(tiny_decoder):
    decoder = tiny_decoder()
    ids = [[5, 6, 7, 8]]
    base = token_logprobs(decoder, ids)[0]
    shapes = {
        f"layers.{n}.self_attn.q_proj.{leaf}": shape
        for n in (0, 1)
        for leaf, shape in (("lora_A", (2, 32)), ("lora_B", (32, 2)))
    }
    slot = decoder.add_adapter(LoraSpec(2, 4.0, ("q_proj",)), {n: torch.randn(s) for n, s in shapes.items()})
    assert torch.equal(token_logprobs(decoder, ids)[0], base)
    assert not torch.allclose(token_logprobs(decoder, ids, adapters=(AdapterRows(slot, None),))[0], base, atol=1e-3)


def test_token_logprobs_refuses_what_has_no_probability(tiny_decoder):
    decoder = tiny_decoder()
    with pytest.raises(OptionError, match="first token has no probability"):
        token_logprobs(decoder, [[1, 2]], first=[0])
    with pytest.raises(OptionError, match="2 entries for 1"):
        token_logprobs(decoder, [[1, 2]], first=[1, 1])
    assert token_logprobs(decoder, [[1]])[0].shape == (0,)
    assert token_logprobs(decoder, []) == []


def test_norms_and_biases_do_not_decay(tiny_decoder):
    decoder = trainable(tiny_decoder())
    optimizer = make_optimizer(dict(decoder.named_parameters()), TuneOptions(method="full", weight_decay=0.5))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in decoder.named_parameters():
        assert decay[id(parameter)] == (0.0 if "norm" in name else 0.5)


@pytest.mark.parametrize("poison", ["embed_tokens.weight", "layers.1.mlp.down_proj.weight"])
def test_a_diverged_step_is_named_and_changes_nothing(tiny_decoder, poison):
    decoder = trainable(tiny_decoder())
    with torch.no_grad():
        decoder.get_parameter(poison)[0, 0] = float("inf")
    before = copy.deepcopy(dict(decoder.named_parameters()))
    options = TuneOptions(method="full")
    optimizer = make_optimizer(dict(decoder.named_parameters()), options)
    with pytest.raises(DivergedError, match="in step 17"):
        optimizer_step(
            decoder, optimizer, [Example((0, 0, 1), (False, True, True))], step=17, rate=0.1, options=options
        )
    for name, parameter in decoder.named_parameters():
        assert torch.equal(parameter, before[name])
