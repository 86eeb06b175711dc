"""`Source`: rows and rotary layout, there and back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from landrace.errors import CheckpointError
from landrace.models.families.weights import Rotary, Source


@st.composite
def cases(draw: st.DrawFn) -> tuple[Source, torch.Tensor]:
    """A source and a checkpoint tensor that it fits: weight, bias or lora_B, whole or fused, rotary or not."""
    heads, half, kept = draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(st.integers(0, 3))
    before, after = draw(st.integers(0, 5)), draw(st.integers(0, 5))
    own = heads * (2 * half + kept)
    rest = draw(st.sampled_from([(), (1,), (3,)]))
    whole = draw(st.booleans())
    total = own if whole else before + own + after
    tensor = torch.arange(total * (rest[0] if rest else 1), dtype=torch.float32).reshape(total, *rest)
    rotary = Rotary(heads, 2 * half + kept, 2 * half) if draw(st.booleans()) else None
    return Source("w", None if whole else (before, before + own), rotary), tensor


@given(cases())
def test_put_undoes_take(case: tuple[Source, torch.Tensor]) -> None:
    source, stored = case
    again = torch.full_like(stored, -1)
    source.put({"w": again}, source.take({"w": stored}))
    start, end = source.rows or (0, stored.shape[0])
    assert torch.equal(again[start:end], stored[start:end])
    assert bool((again[:start] == -1).all()) and bool((again[end:] == -1).all())
    assert sorted(source.take({"w": stored}).flatten().tolist()) == stored[start:end].flatten().tolist()


def test_interleaved_rows_become_evens_then_odds() -> None:
    source = Source("w", (1, 11), Rotary(n_heads=2, head_dim=5, rotary_dim=4))
    stored = torch.arange(12)
    assert source.take({"w": stored}).tolist() == [1, 3, 2, 4, 5, 6, 8, 7, 9, 10]


def test_rotation_of_pairs_is_rotation_of_halves() -> None:
    """The layouts differ in storage only: rotating before or after `take` gives the same vector."""
    dim, angle = 8, torch.linspace(0.1, 1.3, 4)
    x = torch.randn(dim)
    pairs = torch.view_as_real(torch.view_as_complex(x.view(4, 2)) * torch.polar(torch.ones(4), angle)).flatten()
    source = Source("w", None, Rotary(1, dim, dim))
    first, second = source.take({"w": x}).chunk(2)
    halves = torch.cat((first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()))
    torch.testing.assert_close(source.take({"w": pairs}), halves)


def test_gguf_llama_layout_is_undone() -> None:
    """llama.cpp's converter stores q and k of llama models with the halves of a head interleaved."""
    heads, dim = 3, 6
    hub = torch.randn(heads * dim, 4)
    stored = hub.reshape(heads, 2, dim // 2, 4).swapaxes(1, 2).reshape(hub.shape)
    assert torch.equal(Source("w", None, Rotary(heads, dim, dim)).take({"w": stored}), hub)


@pytest.mark.parametrize(
    "source", [Source("w", (2, 9)), Source("w", (-1, 3)), Source("w", (3, 3)), Source("w", None, Rotary(2, 2, 2))]
)
def test_rows_that_are_not_there_are_refused(source: Source) -> None:
    with pytest.raises(CheckpointError):
        source.take({"w": torch.zeros(8, 2)})


@pytest.mark.parametrize("shape", [(0, 4, 4), (2, 4, 3), (2, 4, 6), (2, 4, 0)])
def test_impossible_layouts_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(CheckpointError):
        Rotary(*shape)


def test_put_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"w.*takes"):
        Source("w", (0, 4)).put({"w": torch.zeros(8, 2)}, torch.zeros(4, 1))
