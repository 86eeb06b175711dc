"""Certificates of models whose attention goes over chosen positions, and indexers that rounding brings past a tie."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

from matrix import mostly_long
from short_certificates import SHORT, failures

from landrace.certify import BOUNDS, certify
from landrace.certify.certificate import compare_scores
from landrace.certify.choices import follow, hear_trainer
from landrace.checkpoints import open_checkpoint
from landrace.models.decoder import Decoder

MakeModel = Callable[..., Path]
KINDS = mostly_long(
    ("deepseek_v32", "glm_moe_dsa", "minimax_m3_vl_text", "hy_v4", "qwen4_exp_text", "glm5_next", "deepseek_v4"),
    ("deepseek_v32", "minimax_m3_vl_text", "glm5_next", "deepseek_v4"),
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_every_path_agrees(kind: str, dtype: torch.dtype, tiny_model: MakeModel, extension: object) -> None:
    certificate = certify(str(tiny_model(kind, dtype)), conversations=SHORT[:1])
    assert certificate.passed, failures(certificate)
    paths = {path.name: path for path in certificate.paths}
    # transformers turns Hy4's heads otherwise than its published weights want.
    assert {"as served, answers", *(["transformers, float32"] if kind != "hy_v4" else [])} <= paths.keys()
    served = paths["as served, one batch"].equal_choices.positions
    assert served is not None and (served == 1.0 or dtype != torch.float32)


def test_a_position_past_a_tie_is_told_from_rounding(tiny_model: MakeModel) -> None:
    checkpoint = open_checkpoint(tiny_model("deepseek_v32"))
    exact = Decoder(checkpoint.spec).load(checkpoint.tensors())
    rounding = Decoder(checkpoint.spec, product_dtype=torch.bfloat16).load(exact.named_tensors())
    generator = torch.Generator().manual_seed(0)
    sequences = [tuple(torch.randint(0, 256, (60,), generator=generator).tolist()) for _ in range(2)]
    own, heard = hear_trainer(exact, sequences, None)
    same, equal = follow(exact, sequences, None, heard)
    assert (equal.experts, equal.positions) == (1.0, 1.0) and same == own
    scores, heard = hear_trainer(rounding, sequences, None)
    followed, equal = follow(exact, sequences, None, heard)
    apart = compare_scores("apart", own, scores, BOUNDS["bfloat16"])
    together = compare_scores("together", followed, scores, BOUNDS["bfloat16"], equal)
    assert equal.positions is not None and 0.96 < equal.positions < 1
    assert together.passed and together.largest < 0.1 < apart.largest


def test_an_indexer_that_chooses_wrongly_fails(tiny_model: MakeModel) -> None:
    checkpoint = open_checkpoint(tiny_model("deepseek_v32"))
    decoder = Decoder(checkpoint.spec).load(checkpoint.tensors())
    sequences = [tuple(range(3, 60))]
    scores, heard = hear_trainer(decoder, sequences, None)
    # Queries, keys and weights of indexers; each row asks what the row before it should.
    wrong = [[(one[0].roll(1, dims=0), *one[1:]) if len(one) == 3 else one for one in heard[0]]]
    _, equal = follow(decoder, sequences, None, wrong)
    assert equal.positions is not None and equal.positions < 0.95
    assert not compare_scores("wrong", scores, scores, BOUNDS["bfloat16"], equal).passed
