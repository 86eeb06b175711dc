"""The decoder by itself: packing, windows, caches, lengths, strict loading."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import cached_logits, opened_for, packed_logits, random_decoder, random_ids, tiny_spec, worst
from torch import Tensor

from landrace.errors import CheckpointError
from landrace.kernels.head_form import QkNorm
from landrace.kernels.mask import FULL, Sliding
from landrace.models.batch import ForwardBatch
from landrace.models.declared import shapes_of
from landrace.models.decoder import Decoder
from landrace.models.families.names import Naming
from landrace.models.mixer_spec import RopeSpec
from landrace.models.reference_ops import ReferenceOps
from landrace.models.spec import PLAIN, Sandwich


@settings(max_examples=15)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_packed_sequences_do_not_see_each_other(lengths: list[int]) -> None:
    decoder = random_decoder(tiny_spec())
    sequences = random_ids(tuple(lengths))
    alone = [packed_logits(decoder, [ids])[0] for ids in sequences]
    assert worst(packed_logits(decoder, sequences), alone) < 1e-5


def test_the_future_is_hidden() -> None:
    decoder = random_decoder(tiny_spec())
    ids = random_ids((20,))[0]
    before = packed_logits(decoder, [ids])[0]
    after = packed_logits(decoder, [[*ids[:-1], (ids[-1] + 1) % 110]])[0]
    assert torch.equal(before[:-1], after[:-1])
    assert (before[-1] - after[-1]).abs().max() > 1e-3


@pytest.mark.parametrize("window", [1, 5, 12, 100])
def test_windows_against_an_explicit_mask(window: int) -> None:
    """One layer's attention, by the definition: position i sees j when 0 <= i - j < window."""
    spec = tiny_spec(mask=Sliding(window), rope=None)
    decoder = random_decoder(spec)
    x = torch.randn(30, spec.d_model, generator=torch.Generator().manual_seed(0))
    batch = ForwardBatch.packed([[1] * 17, [1] * 13])
    ops = ReferenceOps(batch, decoder.adapters, torch.float32, None)
    attention = decoder.layers[0].self_attn
    with torch.no_grad():
        ours = attention(x, ops, None, None, 1.0)
        parts = [_by_hand(attention, part, window) for part in x.split([17, 13])]
    torch.testing.assert_close(ours, torch.cat(parts), rtol=1e-5, atol=1e-5)


def _by_hand(attention: torch.nn.Module, x: Tensor, window: int) -> Tensor:
    heads, groups, size = 4, 2, 12
    q = (x @ attention.q_proj.weight.T).view(-1, heads, size)
    k = (x @ attention.k_proj.weight.T).view(-1, groups, size)
    v = (x @ attention.v_proj.weight.T).view(-1, groups, size)
    out = torch.zeros(len(x), heads, size)
    for h in range(heads):
        for i in range(len(x)):
            seen = range(max(0, i - window + 1), i + 1)
            weights = torch.stack([q[i, h] @ k[j, h // 2] for j in seen]).mul(size**-0.5).softmax(0)
            out[i, h] = sum(weight * v[j, h // 2] for weight, j in zip(weights, seen, strict=True))
    return out.flatten(1) @ attention.o_proj.weight.T


@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("prefill", [1, 7, 23, 39])
def test_cached_steps_equal_whole_sequences(window: int | None, prefill: int) -> None:
    decoder = random_decoder(tiny_spec(mask=FULL if window is None else Sliding(window)))
    sequences = random_ids((40, 23, 31))
    assert worst(cached_logits(decoder, sequences, prefill), packed_logits(decoder, sequences)) < 1e-5


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_one_table_for_short_and_long_sequences(kind: str) -> None:
    """A cached prefix has the same keys whatever comes after it and whatever is beside it."""
    factors = {"short_factor": (1.0,) * 6, "long_factor": (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)} if kind == "longrope" else {}
    rope = RopeSpec(1e4, 12, kind, factor=4.0, original_length=16, **factors)  # type: ignore[arg-type]
    decoder = random_decoder(tiny_spec(rope=rope))
    sequences = random_ids((40, 12))
    assert worst(cached_logits(decoder, sequences, prefill=9), packed_logits(decoder, sequences)) < 1e-5
    stretched = opened_for(decoder, 40)
    assert worst(cached_logits(stretched, sequences, prefill=9), packed_logits(stretched, sequences)) < 1e-5
    for one in (decoder, stretched):
        beginning, whole = packed_logits(one, [sequences[0][:12]])[0], packed_logits(one, [sequences[0]])[0]
        torch.testing.assert_close(beginning, whole[:12], rtol=0, atol=1e-5)
    assert worst(packed_logits(decoder, sequences), packed_logits(stretched, sequences)) > 1e-3


def test_only_the_wanted_rows() -> None:
    decoder = random_decoder(tiny_spec())
    sequences = random_ids((9, 5))
    rows = torch.tensor([8, 13, 2])
    with torch.no_grad():
        picked = decoder(ForwardBatch.packed(sequences, logit_rows=rows))
    torch.testing.assert_close(picked, torch.cat(packed_logits(decoder, sequences))[rows], rtol=0, atol=1e-6)


def test_products_may_run_in_bfloat16() -> None:
    spec = tiny_spec()
    exact = random_decoder(spec)
    rough = Decoder(spec, product_dtype=torch.bfloat16).load(exact.named_tensors())
    sequences = random_ids((20,))
    difference = worst(packed_logits(rough, sequences), packed_logits(exact, sequences))
    assert packed_logits(rough, sequences)[0].dtype == torch.float32
    assert 1e-5 < difference < 0.1 * packed_logits(exact, sequences)[0].abs().max().item()


def test_loading_casts_to_the_decoders_types() -> None:
    spec = tiny_spec()
    half = Decoder(spec, dtype=torch.bfloat16).load(random_decoder(spec).named_tensors())
    assert half.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    assert half.norm.weight.dtype == torch.float32
    assert torch.isfinite(packed_logits(half, random_ids((7,)))[0]).all()


def _tensors(drop: str | None = None, **changed: Tensor) -> Iterator[tuple[str, Tensor]]:
    for name, shape in shapes_of(tiny_spec()).items():
        if name != drop:
            yield name, changed.get(name.replace(".", "_"), torch.zeros(shape))


def test_loading_is_strict() -> None:
    decoder = Decoder(tiny_spec())
    with pytest.raises(CheckpointError, match=r"lacks 1 tensors.*norm\.weight"):
        decoder.load(_tensors(drop="norm.weight"))
    with pytest.raises(CheckpointError, match="stranger"):
        decoder.load([*_tensors(), ("stranger", torch.zeros(1))])
    with pytest.raises(CheckpointError, match="twice"):
        decoder.load([*_tensors(), ("norm.weight", torch.zeros(32))])
    with pytest.raises(CheckpointError, match=r"\[33\].*\[32\]"):
        decoder.load(_tensors(norm_weight=torch.zeros(33)))
    with pytest.raises(CheckpointError, match="int64"):
        decoder.load(_tensors(norm_weight=torch.zeros(32, dtype=torch.long)))


@pytest.mark.parametrize("sandwich", [False, True])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_names_cover_every_parameter(sandwich: bool, tied: bool, bias: bool) -> None:
    spec = replace(
        tiny_spec(
            qkv_bias=bias,
            o_bias=bias,
            qk_norm=QkNorm("after_rope") if bias else None,
            residual=Sandwich() if sandwich else PLAIN,
        ),
        tie_embeddings=tied,
        lm_head_bias=bias,
    )
    spec = replace(spec, layers=tuple(replace(layer, ffn=replace(layer.ffn, bias=bias)) for layer in spec.layers))
    shapes = shapes_of(spec)
    assert set(Naming(prefixes=(("", ""),)).sources(spec, shapes)) == set(shapes)
    fused = Naming(
        fused={"qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")}, prefixes=(("", ""),)
    ).sources(spec, shapes)
    for name, source in fused.items():
        if source.rows is not None:
            assert source.rows[1] - source.rows[0] == shapes[name][0]
