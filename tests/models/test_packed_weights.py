"""What becomes of a checkpoint's types where the C++ kernels hold the weights."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

from tiny_models import packed_logits, random_decoder, random_ids, tiny_spec, worst

from landrace.kernels.router import Router
from landrace.models.cpu_decoder import CpuDecoder
from landrace.models.decoder import Decoder
from landrace.models.ffn_spec import Moe
from landrace.models.stored import StoredTensor


def test_routers_are_held_in_float32(extension: ModuleType) -> None:
    """Whatever the checkpoint's type: rounding their inputs would choose other experts."""
    plain = tiny_spec()
    moe = Moe(n_experts=8, d_hidden=32, router=Router(3, renorm=True))
    spec = replace(plain, layers=tuple(replace(layer, ffn=moe) for layer in plain.layers))
    halves = {
        name: StoredTensor.of(tensor.bfloat16() if tensor.dim() > 1 else tensor)
        for name, tensor in random_decoder(spec).named_tensors()
    }
    ours = CpuDecoder(spec, extension, threads=2).load(halves)
    assert ours._weights.matrices["layers.0.mlp.router.weight"].block_type == "F32"
    assert ours._weights.stacks["layers.0.mlp.experts.up_proj.weight"][0].block_type == "BF16"
    sequences = random_ids((20, 3))
    theirs = packed_logits(Decoder(spec).load((name, tensor.values()) for name, tensor in halves.items()), sequences)
    largest = max(logits.abs().max().item() for logits in theirs)
    assert worst(packed_logits(ours, sequences), theirs) < 0.05 * largest  # type: ignore[arg-type]
