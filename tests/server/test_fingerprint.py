"""The fingerprint changes with the draws, which no file of a model tells."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from landrace.engine import EngineOptions
from landrace.engine.draws import uniform
from landrace.engine.sampler import SamplingState
from landrace.model import open_engine
from landrace.models.decoder import Decoder
from landrace.server.engines.fingerprint import fingerprint


@pytest.mark.parametrize(
    ("owner", "name", "other"),
    [
        (SamplingState, "uniform", property(lambda state: uniform(state.seed, state.n_output + 1))),
        (Decoder, "choose_tokens", lambda self, logits, rows, rules, uniforms, masks: [0] * len(rows)),
    ],
)
def test_other_draws_have_another_fingerprint(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, other: Callable[..., object]
) -> None:
    options = EngineOptions()
    opened = open_engine(str(tiny_model), kernels="reference")
    own = fingerprint(opened, "stored", options, None)
    assert fingerprint(opened, "stored", options, None) == own
    monkeypatch.setattr(owner, name, other)
    assert fingerprint(opened, "stored", options, None) != own
