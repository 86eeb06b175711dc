"""The model whose own layer guesses as well as it is told: it opens, it is drafted for, and answers stay the same."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from landrace.engine import Completion, Engine, EngineOptions, Request, SamplingParams
from landrace.engine import depth as depth_module
from landrace.engine.step_times import StepTimes
from landrace.errors import UnsupportedError
from landrace.model import open_engine


@pytest.fixture(scope="module")
def rigged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import rigged_mtp

    folder = tmp_path_factory.mktemp("rigged") / "model"
    arguments, sys.argv = sys.argv, ["rigged_mtp.py", str(folder), "--right", "0.6", "--layers", "4", "--width", "256"]
    try:
        rigged_mtp.main()
    finally:
        sys.argv = arguments
    return folder


def answers(engine: Engine, temperature: float) -> Sequence[Completion]:
    params = SamplingParams(max_tokens=120, temperature=temperature, seed=3, ignore_eos=True)
    return engine.generate([Request(f"r{n}", (70 + n, 80, 90), params) for n in range(2)])


def test_guesses_are_right_as_often_as_was_asked_for(rigged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StepTimes, "most_rows", 1000)
    monkeypatch.setattr(StepTimes, "seconds", lambda times, rows: 1.0)
    monkeypatch.setattr(depth_module, "MARGIN", 0.0)
    options = EngineOptions(draft="mtp", block_size=16)
    serving = open_engine(str(rigged), kernels="reference", options=options)
    assert serving.notice is None
    for temperature in (0.0, 0.3):
        plain = answers(Engine(serving.engine.decoder, serving.engine.tokenizer), temperature)
        drafted = answers(serving.engine, temperature)
        assert [one.token_ids for one in drafted] == [one.token_ids for one in plain]
        assert len(set(drafted[0].token_ids)) > 60
        accepted = sum(one.accepted_tokens for one in drafted)
        assert 0.15 < accepted / sum(one.drafted_tokens for one in drafted) < 0.9 and accepted > 60


def test_without_the_layer_there_is_nothing_to_open(rigged: Path, tmp_path: Path) -> None:
    for file in rigged.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(rigged / "model.safetensors")
    save_file({n: t for n, t in tensors.items() if not n.startswith("mtp.")}, tmp_path / "model.safetensors")
    open_engine(str(tmp_path), kernels="reference", options=EngineOptions(draft="ngram"))
    with pytest.raises(UnsupportedError, match="no layer that guesses further tokens"):
        open_engine(str(tmp_path), kernels="reference", options=EngineOptions(draft="mtp"))
