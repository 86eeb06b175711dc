"""What the tests of attention in C++ share: sequences, steps that serve them, and the reference that they are held
against."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from cpu_steps import Kernels, assert_near, poisoned_caches
from cut_sequences import Step, angles, run_steps, slots_of
from torch import Tensor

from landrace.kernels.cpu.cache import Heads
from landrace.kernels.head_form import QkNorm, Temperature
from landrace.kernels.layer_cache import INT4, LayerCache
from landrace.kernels.mask import FULL, Mask
from landrace.kernels.reference.attention import attention, plan_attention
from landrace.kernels.reference.heads import alibi_slopes, normed, temperature
from landrace.kernels.reference.rotary import rotate

CPU = torch.device("cpu")
CACHES = (torch.float32, torch.float16, torch.bfloat16, torch.int8)
HEAD_CACHES = (*CACHES, INT4)
"""Latents are not kept in INT4."""
EPS = 1e-3


@dataclass(frozen=True)
class Case:
    """Sequences, where their keys and values go, and what is done with them."""

    heads: Heads
    lengths: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    mask: Mask = FULL
    rotary_half: int | None = None
    """None: half the channels of a head."""
    norm: QkNorm | None = None
    temperature: Temperature | None = None
    sinks: bool = False
    alibi: bool = False
    scale: float = 0.3
    spread: float = 1.0
    """Standard deviation of the inputs."""

    def inputs(self) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """By sequence: q [length, n_heads, head_dim], and k and v [length, n_kv_heads, head_dim]."""
        generator = torch.Generator().manual_seed(len(self.lengths))
        shapes = (self.heads.n_heads, self.heads.n_kv_heads, self.heads.n_kv_heads)
        q, k, v = (
            [torch.randn(n, heads, self.heads.head_dim, generator=generator) * self.spread for n in self.lengths]
            for heads in shapes
        )
        return q, k, v

    @property
    def half(self) -> int:
        return self.heads.head_dim // 2 if self.rotary_half is None else self.rotary_half

    def angles(self) -> tuple[Tensor, Tensor]:
        return angles(max(self.lengths), self.half)

    def norm_weights(self) -> tuple[Tensor | None, Tensor | None]:
        """Of q and k."""
        if self.norm is None or self.norm.kind == "l2":
            return None, None
        generator = torch.Generator().manual_seed(6)
        joint = self.norm.over == "all_heads"
        sizes = (self.heads.head_dim * (n if joint else 1) for n in (self.heads.n_heads, self.heads.n_kv_heads))
        q, k = (1 + 0.3 * torch.randn(size, generator=generator) for size in sizes)
        return q, k

    def head_sinks(self) -> Tensor | None:
        """Scores of the size of others."""
        return torch.linspace(-1.5, 2.5, self.heads.n_heads) if self.sinks else None

    def slopes(self) -> Tensor | None:
        return alibi_slopes(self.heads.n_heads) if self.alibi else None

    def turned(self, x: Tensor, weight: Tensor | None, queries: bool) -> Tensor:
        """A sequence's q or k after norm, rotation and temperature, by the reference kernels in float64."""
        x = x.double()
        if self.norm is not None and self.norm.when == "before_rope":
            x = normed(x, weight, self.norm, EPS).double()
        if self.half:
            cos, sin = self.angles()
            x = rotate(x, cos[: len(x)].double(), sin[: len(x)].double())
        if self.norm is not None and self.norm.when == "after_rope":
            x = normed(x, weight, self.norm, EPS).double()
        if queries and self.temperature is not None:
            x = x * temperature(torch.arange(len(x)), self.temperature)[:, None, None]
        return x * self.scale if queries else x


def unpacked(cache: LayerCache, heads: Heads) -> tuple[Tensor, Tensor]:
    """The same of 4-bit codes: scale * code + minimum, for every 32 channels of a slot and head."""
    assert cache.values is not None and cache.key_scales is not None and cache.value_scales is not None

    def numbers(codes: Tensor, scales: Tensor) -> Tensor:
        """codes [tiles, heads, 16, channels], scales [tiles, heads, groups, 2, 16]."""
        scale, minimum = (
            scales[:, :, :, n].double().transpose(2, 3).repeat_interleave(32, 3)[..., : heads.head_dim] for n in (0, 1)
        )
        return (codes[..., : heads.head_dim] * scale + minimum).transpose(1, 2).flatten(0, 1)

    keys = torch.stack((cache.keys & 15, cache.keys >> 4), 3).flatten(2, 3).transpose(2, 3)
    halves = cache.values.unflatten(3, (-1, 16))
    values = torch.stack((halves & 15, halves >> 4), 4).flatten(3)
    return numbers(keys, cache.key_scales), numbers(values, cache.value_scales)


def int4_step(x: Tensor) -> Tensor:
    """What a code is apart from the next one, for each channel: [..., head_dim]."""
    groups = [
        ((g.amax(-1, keepdim=True) - g.amin(-1, keepdim=True)) / 15).expand_as(g) for g in x.double().split(32, -1)
    ]
    return torch.cat(groups, -1)


def flat(cache: LayerCache, heads: Heads) -> tuple[Tensor, Tensor]:
    """Keys and values as [n_slots, n_kv_heads, head_dim] float64."""
    if cache.keys.dtype == INT4:
        return unpacked(cache, heads)
    keys = cache.keys.double().permute(0, 3, 1, 2).reshape(-1, heads.n_kv_heads, heads.head_dim)
    values = cache.values.double().transpose(1, 2).flatten(0, 1)[:, :, : heads.head_dim]
    if cache.key_scales is None or cache.value_scales is None:
        return keys, values
    scales = (
        x.double().transpose(1, 2).reshape(-1, heads.n_kv_heads, 1) for x in (cache.key_scales, cache.value_scales)
    )
    return keys * next(scales), values * next(scales)


@dataclass(frozen=True)
class Result:
    out: list[Tensor]
    """By sequence: [length, n_heads, head_dim]; NaN where nothing was computed."""
    q: list[Tensor]
    """The same of the turned queries."""
    cache: LayerCache


def serve(
    kernels: Kernels,
    isa: str,
    threads: int,
    case: Case,
    schedule: list[Step],
    inputs: tuple[list[Tensor], list[Tensor], list[Tensor]] | None = None,
) -> Result:
    """Computes all steps with NaN in every slot and row that nobody has written."""
    heads = case.heads
    q, k, v = inputs or case.inputs()
    program = kernels.program(isa)
    sizes = (heads.n_heads, heads.n_kv_heads, heads.n_kv_heads, heads.n_heads)
    buffers = [program.buffer(n * heads.head_dim) for n in sizes]
    q_at, k_at, v_at, out_at = buffers
    q_norm, k_norm = (None if weight is None else kernels.vector(weight) for weight in case.norm_weights())
    sinks = case.head_sinks()
    program.rope(
        0, heads, q_at, k_at, v_at, rotary=0 if case.half else None, rotary_half=case.half, scale=case.scale,
        norm=case.norm, q_norm=q_norm, k_norm=k_norm, eps=EPS, temperature=case.temperature,
    )  # fmt: skip
    packed_sinks = None if sinks is None else kernels.vector(sinks)
    program.attention(0, heads, q_at, out_at, mask=case.mask, sinks=packed_sinks, slopes=case.slopes())
    (cache,) = poisoned_caches(kernels, [heads], slots_of(case.lengths)[1], case.dtype)
    program.bind_cache([cache])
    found = run_steps(program, threads, case, schedule, {q_at: q, k_at: k, v_at: v}, (out_at, q_at))
    out, turned = ([rows.unflatten(1, (heads.n_heads, -1)) for rows in each] for each in found)
    return Result(out, turned, cache)


def check(kernels: Kernels, isa: str, threads: int, case: Case, schedule: list[Step]) -> Result:
    """Queries, cache and outputs against the reference kernels."""
    result = serve(kernels, isa, threads, case, schedule)
    q, k, v = case.inputs()
    slots, _ = slots_of(case.lengths)
    keys, values = flat(result.cache, case.heads)
    q_norm, k_norm = case.norm_weights()
    for s in range(len(q)):
        # Rounding in the cache: half a unit of the last place, and for int8 half of 1/127 of the greatest.
        for ours, theirs in (
            (keys[slots[s]], case.turned(k[s], k_norm, queries=False)),
            (values[slots[s]], v[s].double()),
        ):
            near = 2e-6 * case.spread * math.sqrt(case.heads.head_dim) + 1e-6 * theirs.abs()
            greatest = theirs.abs().amax(-1, keepdim=True) + near
            rounding = {
                torch.float32: 0,
                torch.float16: theirs.abs() / 2048 + 2**-25,
                torch.bfloat16: theirs.abs() / 256,
                torch.int8: greatest / 253,
                # Half a code, and the rounding of scale and minimum to float16.
                INT4: int4_step(theirs) * 0.52 + greatest / 1000 + 1e-6,
            }[case.dtype]
            assert_near(ours, theirs, rounding + near, 1.0)
        turned = case.turned(q[s], q_norm, queries=True)
        assert_near(result.q[s], turned, 1e-6 * turned.abs() + 2e-6 * case.spread, 1.0)
    starts = [sum(case.lengths[:s]) for s in range(len(q) + 1)]
    plan = plan_attention(starts, slots, CPU)
    expected = attention(
        torch.cat(result.q).double(),
        keys,
        values,
        plan,
        scale=1.0,
        mask=case.mask,
        sinks=case.head_sinks(),
        slopes=case.slopes(),
    )
    assert_near(torch.cat(result.out), expected, 2e-5 * max(1.0, case.spread**2) * case.spread, 1.0)
    return result
