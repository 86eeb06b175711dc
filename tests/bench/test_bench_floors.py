"""The machine's limit of a step, against sums done by hand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from landrace.bench.floors import (
    Floor,
    MatrixBytes,
    ModelCost,
    StepWork,
    arithmetic_of,
    held_matrix_bytes,
    peak_gop_s,
    stored_matrix_bytes,
)
from landrace.checkpoints import open_checkpoint
from landrace.kernels.machine_limits import MachineLimits
from landrace.kernels.mask import Sliding
from landrace.kernels.router import Router
from landrace.models.declared import declared
from landrace.models.ffn_spec import Dense, Moe
from landrace.models.mixer_spec import Gqa
from landrace.models.selection_spec import MeanSelection, PoolSelection
from landrace.models.spec import LayerSpec, ModelSpec

WHOLE = LayerSpec(Gqa(n_heads=2, n_kv_heads=1, head_dim=2, scale=1.0, rope=None), Dense(6))
WINDOWED = replace(WHOLE, mixer=replace(WHOLE.mixer, mask=Sliding(4)))
SPEC = ModelSpec(vocab_size=10, d_model=4, layers=(WHOLE, WHOLE), norm_eps=1e-5, tie_embeddings=True, max_length=100)
WIDE: Mapping[str, int] = defaultdict(lambda: 1 << 60)
"""Of weights that take more in memory than in the file."""
COST = ModelCost(SPEC, matrices=MatrixBytes(500), cache_bytes_per_token=32, arithmetic="int8")


def test_operations_of_a_step() -> None:
    # In each layer q and o 4 x 4, k and v 4 x 2, gate, up and down 4 x 6.
    # Layers 2 * 240 weights * 3 tokens, head 2 * 40; the tokens see 6, 7 and 8, four heads' dimensions, two layers.
    one = 1440 + 80 + 2 * (4 * 4 * (6 + 7 + 8))
    assert COST.operations(StepWork(streams=1, new=3, past=5)) == one
    assert COST.operations(StepWork(streams=7, new=3, past=5)) == 7 * one


def test_a_window_limits_operations_and_bytes() -> None:
    cost = replace(COST, spec=replace(SPEC, layers=(WHOLE, WINDOWED)))
    work = StepWork(streams=1, new=3, past=5)
    assert cost.operations(work) == 1440 + 80 + 4 * 4 * (6 + 7 + 8) + 4 * 4 * (4 + 4 + 4)
    # One layer reads all five tokens, the other the three that the first new token still sees.
    assert cost.bytes(work) == 500 + 16 * 5 + 16 * 3


def test_what_is_chosen_by_means_of_keys_limits_operations() -> None:
    wide = replace(WHOLE, mixer=replace(WHOLE.mixer, head_dim=16))
    chosen = replace(wide, mixer=replace(wide.mixer, selection=MeanSelection(16, 8, 1, 2, dense_length=200)))

    def saved(past: int) -> float:
        dense, sparse = (replace(COST, spec=replace(SPEC, layers=(layer,))) for layer in (wide, chosen))
        work = StepWork(streams=1, new=1, past=past)
        return dense.operations(work) - sparse.operations(work)

    assert saved(198) == 0
    # 128 positions of 300, 2 x 2 x 16 channels; and the means of 300, in shares of one value that two heads meet.
    assert saved(299) == 2 * (64 * (300 - 128) - 2 * 300)


def test_an_indexer_meets_the_keys_of_pools() -> None:
    """Three heads of eight channels, and of every four positions a key, of which two are chosen."""
    layer = replace(WHOLE, mixer=replace(WHOLE.mixer, selection=PoolSelection(3, 8, pool=4, top_k=2)))
    # Keys and values, an indexer's key until its pool is whole, and a fourth of the pool's.
    cost = replace(COST, spec=replace(SPEC, layers=(layer,)), cache_bytes_per_token=4 + 8 + 2)
    few, many = (cost.operations(StepWork(streams=1, new=1, past=past)) for past in (10, 99))
    assert many - few == 2 * 3 * 8 * 25
    assert [cost.cache_bytes(past) for past in (10, 99)] == pytest.approx([4 * 10, 4 * 10 + 8 * 25])


def test_bytes_count_matrices_once_and_every_stream_s_cache() -> None:
    assert COST.bytes(StepWork(streams=1, new=1, past=0)) == 500
    assert COST.bytes(StepWork(streams=3, new=1, past=5)) == 500 + 3 * 5 * 32


def test_a_token_reads_and_computes_its_own_experts() -> None:
    """Of 8 experts of 4 x 6 three times, two a token; the router is 8 x 4."""
    moe = Moe(n_experts=8, d_hidden=6, router=Router(top_k=2), shared=Dense(3))
    layer = replace(WHOLE, ffn=moe)
    cost = replace(COST, spec=replace(SPEC, layers=(layer,)), matrices=MatrixBytes(500, 800))
    attention = 4 * 2 * 2
    assert cost.operations(StepWork(1, 1, 0)) == 2 * (48 + 32 + 2 * 72 + 36) + 80 + attention
    assert cost.bytes(StepWork(1, 1, 0)) == 500 + 800 / 4
    assert cost.bytes(StepWork(3, 2, 0)) == pytest.approx(500 + 800 * (1 - 0.75**6))
    held = {param.name: 7 * param.size for param in declared(cost.spec)}
    assert held_matrix_bytes(cost.spec, held) == MatrixBytes(7 * (48 + 32 + 36 + 40), 7 * 576)


def test_the_larger_of_the_two_is_the_floor(machine: MachineLimits) -> None:
    one = COST.floor(StepWork(streams=1, new=1, past=0), machine)
    assert one == Floor(500 / 10e9, "bytes")
    many = StepWork(streams=1000, new=1, past=0)
    assert COST.floor(many, machine) == Floor(pytest.approx(1000 * (480 + 80 + 32) / 400e9), "operations")


def test_the_peak_follows_the_weights(machine: MachineLimits) -> None:
    assert [peak_gop_s(machine, kind) for kind in ("int8", "bfloat16", "float32")] == [400, 200, 100]
    without = replace(machine, int8_gop_s=None, bf16_gflop_s=50.0)
    assert [peak_gop_s(without, kind) for kind in ("int8", "bfloat16", "float32")] == [100, 100, 100]


def test_held_bytes_leave_out_an_embedding_that_is_not_the_head() -> None:
    layers = 2 * (48 + 72)
    for spec in (SPEC, replace(SPEC, tie_embeddings=False)):
        held = {param.name: param.size for param in declared(spec)}
        assert held_matrix_bytes(spec, held) == MatrixBytes(layers + 40)


def test_a_folder_of_floats(tiny_folder: Path) -> None:
    checkpoint = open_checkpoint(tiny_folder)
    weights = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96) + 256 * 64
    assert stored_matrix_bytes(checkpoint, WIDE) == MatrixBytes(4 * weights)
    held = {param.name: 3 * param.size for param in declared(checkpoint.spec)}
    assert stored_matrix_bytes(checkpoint, held) == MatrixBytes(3 * weights)
    assert arithmetic_of(checkpoint, "stored") == "float32"
    assert arithmetic_of(checkpoint, "bfloat16") == "bfloat16"
    assert arithmetic_of(checkpoint, "int4") == "int8"


def test_smollm2_as_stored(smollm2_path: Path) -> None:
    checkpoint = open_checkpoint(smollm2_path)
    layers = 30 * (2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536)
    # Q4_1 layers, 20 bytes for 32 weights; a Q8_0 embedding that is the head as well, 34 bytes.
    assert stored_matrix_bytes(checkpoint, WIDE) == MatrixBytes(layers // 32 * 20 + 49152 * 576 // 32 * 34)
    assert arithmetic_of(checkpoint, "stored") == "int8"
