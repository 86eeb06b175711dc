"""A model whose rotary table depends on length has one table for every path, chosen when it is opened."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from landrace.engine import EngineOptions, Request, SamplingParams
from landrace.errors import OptionError
from landrace.model import open_engine, open_model
from landrace.training.loss import token_logprobs

SCALINGS: dict[str, dict[str, Any]] = {
    "longrope": {
        "rope_type": "longrope",
        "short_factor": [1.0, 1.0, 1.1, 1.2],
        "long_factor": [1.0, 2.0, 4.0, 8.0],
        "original_max_position_embeddings": 64,
    },
    "dynamic": {"rope_type": "dynamic", "factor": 8.0},
}
SIZES = {"longrope": 512, "dynamic": 64}
TRAINED, REACH = 64, 512
PROMPTS = [tuple(random.Random(seed).choices(range(250), k=20)) for seed in range(4)]


@pytest.fixture(scope="module", params=SCALINGS)
def model(request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained at 64 tokens, and said to reach 512."""
    folder = tmp_path_factory.mktemp("lengths") / request.param
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"rope_scaling": SCALINGS[request.param], "max_position_embeddings": SIZES[request.param]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def asked(name: str, prompt: tuple[int, ...], max_tokens: int, **fields: Any) -> Request:
    params = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True, logprobs=1, **fields)
    return Request(name, prompt, params)


@pytest.mark.parametrize("max_length", [None, 48, REACH])
@pytest.mark.parametrize("kernels", ["reference", "auto"])
def test_answers_do_not_depend_on_how_long_they_may_become(model: Path, kernels: str, max_length: int | None) -> None:
    """And the engine gives every token of prompt and answer the trainer's log-probability."""
    engine = open_engine(str(model), kernels=kernels, options=EngineOptions(max_length=max_length)).engine
    trainer = open_model(str(model), dtype="float32", max_length=max_length, device=torch.device("cpu")).decoder
    for prompt in PROMPTS:
        short, long, whole = (
            engine.generate([asked("r", prompt, n, prompt_logprobs_from=1)])[0] for n in (4, 24, 10_000)
        )
        assert short.token_ids == long.token_ids[:4] == whole.token_ids[:4]
        assert long.token_ids == whole.token_ids[:24]
        ours = [entry.logprob for entry in (*whole.prompt_logprobs, *whole.logprobs)]
        theirs = token_logprobs(trainer, [[*prompt, *whole.token_ids]])[0].tolist()
        assert len(ours) == len(theirs) == (max_length or TRAINED) - 1
        assert ours == pytest.approx(theirs, abs=2e-3)


def test_a_longer_reach_is_another_table(model: Path) -> None:
    """To which a short prompt belongs as well; and no prefix cached at one reach is used at another."""
    told = {}
    for max_length in (None, 32, REACH):
        opened = open_engine(str(model), options=EngineOptions(max_length=max_length))
        (completion,) = opened.engine.generate([asked("r", PROMPTS[0], 4, prompt_logprobs_from=1)])
        told[max_length] = [entry.logprob for entry in completion.prompt_logprobs]
        assert opened.notice is not None and str(max_length or TRAINED) in opened.notice
        assert ("--max-length opens" in opened.notice) == (max_length != REACH)
    assert told[None] == told[32]
    assert max(abs(a - b) for a, b in zip(told[None], told[REACH], strict=True)) > 1e-3


def test_beyond_its_reach_it_is_refused(model: Path) -> None:
    for opening in (
        lambda: open_model(str(model), max_length=REACH + 1),
        lambda: open_engine(str(model), options=EngineOptions(max_length=REACH + 1)),
    ):
        with pytest.raises(OptionError, match=f"{REACH + 1}.*{REACH}"):
            opening()


def test_other_models_have_no_such_notice(tiny_model: Path) -> None:
    assert open_engine(str(tiny_model), options=EngineOptions(max_length=100)).notice in (None, "")


def test_a_server_says_what_it_was_opened_for(model: Path, start_server: Callable[..., Any]) -> None:
    answers = {}
    for arguments in ((), ("--max-length", str(REACH))):
        server = start_server(str(model), *arguments)
        entry = server.get("/v1/models").json()["data"][0]
        length = entry["max_model_len"]
        assert length == (REACH if arguments else TRAINED)
        assert f"up to {length} tokens" in " ".join("".join(server.lines).split())
        answers[length] = [
            server.post(
                "/v1/completions", {"model": entry["id"], "prompt": list(PROMPTS[1]), "max_tokens": n, "temperature": 0}
            ).json()["choices"][0]["text"]
            for n in (8, 40)
        ]
        server.stop()
    assert all(long.startswith(short) or short.endswith("�") for short, long in answers.values())
