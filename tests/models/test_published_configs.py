"""Files as published open as they are, and the models are as large as their makers say."""

from __future__ import annotations

import pytest
from published_configs import PUBLISHED

from landrace.models.declared import count
from landrace.models.families import FAMILIES, read_config


def test_there_are_enough() -> None:
    kinds = {read_config(one.config).spec.layers[0].mixer.__class__.__name__ for one in PUBLISHED.values()}
    types = {one.config.get("text_config", one.config).get("model_type") for one in PUBLISHED.values()}
    assert len(PUBLISHED) >= 60
    assert {"Gqa", "Mla", "Gdn"} <= kinds
    assert len(types & set(FAMILIES)) >= 20


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_file(name: str) -> None:
    """Makers round or cut their figures. Some leave the embedding and the head out of what a token uses; some count
    the tower, or the layers that guess, in the whole."""
    published = PUBLISHED[name]
    spec = read_config(published.config).spec
    counts = count(spec)
    assert (counts.total, counts.active) == published.counted
    total, active = published.total, published.active
    assert abs(counts.total - total.value) < total.slack
    tables = spec.vocab_size * spec.d_model * (1 if spec.tie_embeddings else 2)
    assert counts.active - tables - active.slack < active.value < counts.active + active.slack
    assert read_config({**published.config, "quantization_config": {"quant_method": "fp8"}}).spec == spec
