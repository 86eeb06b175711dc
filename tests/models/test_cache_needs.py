"""What `show` says of a sequence's cache, against the blocks that hold one."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tiny_models import reference

from landrace.checkpoints.checkpoint import open_checkpoint
from landrace.engine.cache.memory import CacheMemory
from landrace.model import cache_needs, cpu_decoder

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "all of the past": ("qwen3", {}),
    "windows": ("gpt_oss", {"sliding_window": 32}),
    "states": ("qwen3_5_text", {}),
    "latents": ("deepseek_v2", {}),
    "keys of pools": ("qwen4_exp_text", {}),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_sequence_needs(case: str, extension: ModuleType, shared: Path, tmp_path: Path) -> None:
    kind, changes = CASES[case]
    entry = json.loads((shared / "families" / "tiny_configs.json").read_text())[kind]
    reference(kind, {**entry["kwargs"], **changes}).save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    by_type = cache_needs(checkpoint)
    needs = by_type["float32"]
    assert list(by_type) == ["float32", "float16", "int8"] + (
        ["int4"] if case not in ("latents", "keys of pools") else []
    )
    memory = CacheMemory(
        cpu_decoder(checkpoint, extension, threads=1), [512] * len(checkpoint.spec.cache_groups), 16, None
    )
    grows, stays = {"all of the past": (True, False), "latents": (True, False)}.get(case, (True, True))
    assert (needs.a_token > 0, needs.at_most > 0) == (grows, stays)
    # A window's first block may hold positions that are no longer seen.
    block = 16 * memory.bytes_per_token
    for tokens in (48, 160, 480):
        assert 0 <= memory.bytes_of(tokens) - (tokens * needs.a_token + needs.at_most) <= block
