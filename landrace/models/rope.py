"""Inverse frequencies of every kind of rotary embedding, and tables of positions."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from landrace.models.mixer_spec import RopeSpec


def inverse_frequencies(rope: RopeSpec) -> Tensor:
    """[rotary_dim / 2] float32.

    linear: Chen et al. 2023; dynamic: NTK-aware scaling; llama3: Llama 3.1's frequency bands;
    yarn: Peng et al. 2023; longrope: Ding et al. 2024.
    """
    exponents = torch.arange(0, rope.rotary_dim, 2, dtype=torch.float32) / rope.rotary_dim
    theta = rope.theta
    if rope.kind == "dynamic":
        reach = max(rope.length, rope.original_length)
        stretch = rope.factor * reach / rope.original_length - (rope.factor - 1)
        theta = theta * stretch ** (rope.rotary_dim / (rope.rotary_dim - 2))
    wavelengths = theta**exponents
    if rope.kind == "linear":
        return 1.0 / wavelengths / rope.factor
    if rope.kind == "longrope":
        factors = rope.long_factor if rope.length > rope.original_length else rope.short_factor
        return 1.0 / (torch.tensor(factors, dtype=torch.float32) * wavelengths)
    if rope.kind == "llama3":
        return _llama3(1.0 / wavelengths, rope)
    if rope.kind == "yarn":
        return _yarn(wavelengths, rope)
    return 1.0 / wavelengths


def _llama3(frequencies: Tensor, rope: RopeSpec) -> Tensor:
    """Long waves are slowed by `factor`, short ones kept, those between blended."""
    wavelengths = 2 * math.pi / frequencies
    blend = (rope.original_length / wavelengths - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    blended = (1 - blend) * frequencies / rope.factor + blend * frequencies
    slow = wavelengths > rope.original_length / rope.low_freq_factor
    fast = wavelengths < rope.original_length / rope.high_freq_factor
    return torch.where(slow, frequencies / rope.factor, torch.where(fast, frequencies, blended))


def _yarn(wavelengths: Tensor, rope: RopeSpec) -> Tensor:
    """Interpolates dimensions that turn fewer than beta_slow times over the original length, keeps those that
    turn more than beta_fast times, and ramps linearly between."""

    def dimension(turns: float) -> float:
        return rope.rotary_dim * math.log(rope.original_length / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.rotary_dim - 1)
    if low == high:
        high += 0.001
    ramp = ((torch.arange(rope.rotary_dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    # The order of these operations is the reference's: at position 100,000 one rounding of a frequency shows.
    kept = 1 - ramp
    return 1.0 / (rope.factor * wavelengths) * (1 - kept) + 1.0 / wavelengths * kept


def further_ropes(rope: RopeSpec) -> tuple[RopeSpec, RopeSpec]:
    """What turns a query on from its own place to meet the keys of the chunk before, and those of earlier ones."""
    return replace(rope, onwards="next", attention_factor=1.0), replace(rope, onwards="older", attention_factor=1.0)


def _places(rope: RopeSpec, positions: Tensor) -> Tensor:
    """By how many places each position is turned."""
    if rope.chunks is None:
        return positions
    size, reach = rope.chunks.size, rope.chunks.reach
    own = positions % size
    match rope.onwards:
        case None:
            return own
        case "next":
            return (own + size).clamp(max=reach) - own
        case "older":
            return min(2 * size - 1, reach) - own


def rotary_tables(rope: RopeSpec, positions: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of `positions` [T], each [T, rotary_dim / 2] float32, times the attention factor.

    A position's row is the same whatever sequence it is in and however long that one is.
    """
    return tables_of(rope, inverse_frequencies(rope).to(positions.device), positions)


def tables_of(rope: RopeSpec, frequencies: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """The same from `inverse_frequencies` that lie on the device already."""
    angles = _places(rope, positions)[:, None].float() * frequencies
    return angles.cos() * rope.attention_factor, angles.sin() * rope.attention_factor
