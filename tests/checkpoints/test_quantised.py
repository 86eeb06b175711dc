"""Checkpoints in published quantised forms: opened by their folder, against transformers with the values they mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from quantised_files import FORMS, write_model

from landrace.checkpoints.checkpoint import open_checkpoint
from landrace.models.batch import ForwardBatch
from landrace.models.decoder import Decoder

IDS = list(range(3, 40))


def our_logits(folder: Path) -> torch.Tensor:
    checkpoint = open_checkpoint(folder)
    decoder = Decoder(checkpoint.spec).load(checkpoint.tensors())
    with torch.no_grad():
        return decoder(ForwardBatch.packed([IDS]))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0].float()


@pytest.mark.parametrize("kind", ["dense", "experts"])
@pytest.mark.parametrize("form", FORMS)
def test_a_form_means_what_its_formula_says(form: str, kind: str, tmp_path: Path) -> None:
    model = write_model(tmp_path, kind, *FORMS[form])
    torch.testing.assert_close(our_logits(tmp_path), logits(model), atol=1e-4, rtol=1e-4)
