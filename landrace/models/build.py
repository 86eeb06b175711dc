"""From a spec's members to the blocks that compute them: the one place that matches on the unions."""

from __future__ import annotations

from typing import assert_never

import torch
from torch import nn

from landrace.models.compressed_spec import Compressed
from landrace.models.ffn.dense import DenseBlock
from landrace.models.ffn.moe import MoeBlock
from landrace.models.ffn_spec import Dense, Ffn, Moe
from landrace.models.mixer_spec import Gdn, Gqa, Kda, Lightning, Mixer, Mla
from landrace.models.mixers.compressed import CompressedBlock
from landrace.models.mixers.gdn import GdnBlock
from landrace.models.mixers.gqa import GqaBlock
from landrace.models.mixers.kda import KdaBlock
from landrace.models.mixers.lightning import LightningBlock
from landrace.models.mixers.mla import MlaBlock
from landrace.models.residual.gated import GatedBlock, GatedHead
from landrace.models.residual.hyper import HyperBlock, HyperHead
from landrace.models.spec import GatedStreams, Hyper, ModelSpec, Streams


def mixer_block(spec: Mixer, model: ModelSpec, cache: int, dtype: torch.dtype) -> nn.Module:
    """`cache`: the number of the layer's cache."""
    match spec:
        case Gqa():
            return GqaBlock(spec, model.d_model, model.norm_eps, cache, dtype)
        case Mla():
            return MlaBlock(spec, model.d_model, cache, dtype)
        case Compressed():
            return CompressedBlock(spec, model.d_model, cache, dtype)
        case Gdn():
            return GdnBlock(spec, model.d_model, model.norm_eps, cache, dtype)
        case Kda():
            return KdaBlock(spec, model.d_model, model.norm_eps, cache, dtype)
        case Lightning():
            return LightningBlock(spec, model.d_model, cache, dtype)
        case _:
            assert_never(spec)


def ffn_block(spec: Ffn, model: ModelSpec, dtype: torch.dtype) -> nn.Module:
    match spec:
        case Dense():
            return DenseBlock(spec, model.d_model, dtype)
        case Moe():
            return MoeBlock(spec, model.d_model, model.vocab_size, model.norm_eps, dtype)
        case _:
            assert_never(spec)


def stream_block(spec: Streams, model: ModelSpec, dtype: torch.dtype) -> HyperBlock | GatedBlock:
    """Around one branch."""
    match spec:
        case Hyper():
            return HyperBlock(spec.form, model.d_model, model.norm_eps)
        case GatedStreams():
            return GatedBlock(spec, model.d_model, model.norm_eps, dtype)
        case _:
            assert_never(spec)


def stream_head(spec: Streams, model: ModelSpec, dtype: torch.dtype) -> HyperHead | GatedHead:
    """Before the output head."""
    match spec:
        case Hyper():
            return HyperHead(spec.form, model.d_model, model.norm_eps, spec.weighted_head)
        case GatedStreams():
            return GatedHead(spec, model.d_model, model.norm_eps, dtype)
        case _:
            assert_never(spec)
