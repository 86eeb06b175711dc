"""Certificates of models whose attention goes over chosen positions: every path in float32 chooses alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from matrix import mostly_long

from landrace.certify import certify

MakeModel = Callable[..., Path]

QUESTION = [
    [{"role": "user", "content": "Is ice lighter than water?"}, {"role": "assistant", "content": "Yes, it floats."}]
]


@pytest.mark.parametrize(
    "kind",
    mostly_long(
        ("deepseek_v32", "glm_moe_dsa", "minimax_m3_vl_text", "deepseek_v4"), ("deepseek_v32", "minimax_m3_vl_text")
    ),
)
def test_every_path_chooses_alike(kind: str, tiny_model: MakeModel, extension: object) -> None:
    certificate = certify(str(tiny_model(kind)), conversations=QUESTION)
    # Products in bfloat16 bring an indexer past a tie, and of 8 positions another one is much.
    failed = {path.name: path.largest for path in certificate.paths if not path.passed}
    assert failed.keys() <= {"trainer, bfloat16 products"}, failed
    assert {"as served, answers", "transformers, float32"} <= {path.name for path in certificate.paths}
