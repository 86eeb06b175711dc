"""An encoder's engine: whose turn it is, and what becomes of requests that cannot be computed."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers")

from tiny_embedders import write_encoder

from landrace.embedding.encoder_engine import EncoderEngine
from landrace.encoder_model import open_encoder
from landrace.engine import Request, SamplingParams
from landrace.engine.readout import Labels, Pooling, TokenLogits
from landrace.errors import DeadlineError, PromptTooLongError, StepError

MEAN = Pooling(("mean",))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("models") / "pairs"
    return open_encoder(str(write_encoder(folder, kind="BertForSequenceClassification", num_labels=1)))[0]


def reading(name: str, n_tokens: int = 10, **more: Any) -> Request:
    return replace(Request.reading(name, range(5, 5 + n_tokens), MEAN), **more)


def test_every_client_has_its_turn_and_a_pass_is_bounded(encoder: Any) -> None:
    engine = EncoderEngine(encoder, pass_tokens=30)
    for n in range(5):
        engine.add(reading(f"low{n}", priority=-1, client="batch"))
    for n in range(5):
        engine.add(reading(f"many{n}", client="many"))
    engine.add(reading("one", client="other"))
    passes = []
    while engine.has_work:
        passes.append([output.request_id for output in engine.step()])
    assert passes == [
        ["many0", "one", "many1"],
        ["many2", "many3", "many4"],
        ["low0", "low1", "low2"],
        ["low3", "low4"],
    ]
    assert engine.facts.steps == 4 and engine.facts.prompt_tokens == 110 and engine.facts.waiting == 0


def test_kinds_are_not_mixed_and_results_do_not_depend_on_the_pass(encoder: Any, extension: Any) -> None:
    ids = tuple(range(5, 25))
    pair = Request.reading("pair", ids, Labels((0,) * 10 + (1,) * 10))
    requests = [reading("a", 20), pair, reading("b", 15), replace(pair, id="again")]
    together = EncoderEngine(encoder).generate(requests)
    alone = [EncoderEngine(encoder).generate([request])[0] for request in requests]
    for one, other in zip(together, alone, strict=True):
        assert one.read is not None and np.array_equal(one.read, other.read)
    assert together[1].read.shape == (1,)


def test_what_cannot_be_served_is_refused_alone(encoder: Any) -> None:
    engine = EncoderEngine(encoder)
    wrong = [
        Request("chat", (5, 6), SamplingParams(max_tokens=4)),
        reading("adapter", adapter="a"),
        Request.reading("empty", (), MEAN),
        Request.reading("token", (5, 9999), MEAN),
        Request.reading("logits", (5, 6), TokenLogits((1,))),
        Request.reading("kind", (5, 6), Pooling(("middle",))),  # type: ignore[arg-type]
        Request.reading("types", (5, 6), Labels((0,))),
    ]
    fields = ["prompt", "adapter", "prompt", "prompt", "readout", "readout", "readout"]
    found = engine.generate([*wrong, reading("long", 200), reading("good")])
    assert [one.error.field for one in found[:7] if one.error is not None] == fields
    assert isinstance(found[7].error, PromptTooLongError) and found[8].read is not None


def test_requests_end_by_abort_deadline_and_failure(encoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = EncoderEngine(encoder)
    engine.add(reading("gone"))
    engine.add(reading("late", deadline=time.monotonic() - 1))
    engine.add(reading("kept"))
    engine.abort("gone")
    ended = {output.request_id: output for output in engine.step()}
    assert ended["gone"].finish_reason == "abort" and isinstance(ended["late"].error, DeadlineError)
    assert ended["kept"].finish_reason == "stop" and ended["kept"].machine_seconds > 0

    def fail(*_: Any) -> Any:
        raise MemoryError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(encoder, "hidden", fail)
        (broken,) = engine.generate([reading("broken")])
    assert isinstance(broken.error, StepError) and "no room" in broken.error.message
    assert engine.generate([reading("next")])[0].read is not None
