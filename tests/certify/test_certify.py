"""The certificate passes on a sound model and fails on one whose paths disagree."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from landrace.certify import BOUNDS, Certificate, PathResult, PromptResult, certify
from landrace.certify.certificate import EqualChoices, compare_scores
from landrace.certify.scores import Scores, scores_of
from landrace.cli.main import app
from landrace.errors import LandraceError


def test_smollm2_agrees_along_every_path(smollm2_path: Path) -> None:
    short = [
        [
            {"role": "user", "content": "Is ice lighter than water?"},
            {"role": "assistant", "content": "Yes, it floats."},
        ],
        [{"role": "user", "content": "冰比水轻吗？"}, {"role": "assistant", "content": "是的，它会浮起来。"}],
    ]
    certificate = certify(str(smollm2_path), conversations=short)
    assert certificate.passed, [(path.name, path.largest) for path in certificate.paths if not path.passed]
    names = [path.name for path in certificate.paths]
    assert {"engine, chunked and paged", "engine, prefix reused", "engine, answers", "transformers, float32"} <= set(
        names
    )
    assert certificate.template_sha256 is not None
    assert len(certificate.weights_sha256) == 64
    assert certificate.prompts is not None and certificate.prompts.passed
    assert "contents in parts" in certificate.prompts.compared
    # SmolLM2's template writes neither tools nor calls.
    assert [reason.partition(":")[0] for reason in certificate.prompts.refused] == [
        "tools",
        "a call with null content, and its result",
    ]


def test_a_path_that_disagrees_fails(smollm2_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import landrace.certify.paths as module

    honest = module._engine_scores

    def shifted(*arguments: object) -> list[Scores]:
        return [Scores([x - 0.01 for x in part.logprobs], part.argmax) for part in honest(*arguments)]  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_engine_scores", shifted)
    monkeypatch.setattr(module, "transformers_scores", lambda model, sequences, adapter: shifted_none(model, sequences))

    def shifted_none(model: module.Model, sequences: object) -> list[Scores]:
        return module._trainer_scores(model.decoder, sequences, None)  # type: ignore[arg-type]

    certificate = certify(str(smollm2_path), conversations=[[{"role": "user", "content": "Hello there, friend."}]])
    failed = {path.name for path in certificate.paths if not path.passed}
    assert failed >= set(module.ENGINE_WAYS)
    assert "transformers, float32" not in failed
    assert not certificate.passed


def test_differences_are_measured_from_the_end() -> None:
    whole = [Scores([-1.0, -2.0, -3.0], [1, 2, 3]), Scores([-4.0], [4])]
    part = [Scores([-2.5, -3.0], [2, 9]), Scores([-4.0], [4])]
    result = compare_scores("half", whole, part, BOUNDS["float32"])
    assert (result.tokens, result.largest) == (3, 0.5)
    assert result.mean == pytest.approx(0.5 / 3)
    assert result.equal_argmax == pytest.approx(2 / 3)
    assert not result.passed


def test_another_token_that_is_as_likely_is_a_near_tie() -> None:
    """As likely as what the path's own arithmetic moves on average, and no less."""
    logits = torch.tensor([[0.0, -0.05, -0.2, -3.0], [0.0, -0.05, -0.2, -3.0], [9.0, 0.0, 0.0, 0.0]])
    reference = scores_of(logits, [0, 1, 1])
    told = Scores(reference.logprobs, [1, 2])
    result = compare_scores("other tokens", [reference], [told], BOUNDS["bfloat16"])
    assert (result.equal_argmax, result.near_ties) == (0.0, 0.5) and not result.passed
    for argmax, passed in (([0, 1], True), ([0, 2], False), ([3, 0], False)):
        result = compare_scores("one", [reference], [Scores(told.logprobs, argmax)], BOUNDS["bfloat16"])
        assert result.equal_argmax == 0.5 and result.passed == passed
        assert not compare_scores("one", [reference], [Scores(told.logprobs, argmax)], BOUNDS["float32"]).passed


def test_nan_never_passes() -> None:
    result = compare_scores(
        "bad", [Scores([-1.0, -1.0], [0, 0])], [Scores([math.nan, -1.0], [0, 0])], BOUNDS["bfloat16"]
    )
    assert not result.passed


def test_a_path_without_scores_is_an_error() -> None:
    with pytest.raises(LandraceError, match="scored no token"):
        compare_scores("empty", [Scores([-1.0], [0])], [Scores([], [])], BOUNDS["float32"])


@pytest.mark.parametrize(
    ("different", "code", "said"),
    [
        ((), 0, "2 of 2 kinds of conversation have the ids of transformers"),
        (("tools",), 2, "other ids: tools"),
    ],
)
def test_the_command_tells_of_prompts(
    monkeypatch: pytest.MonkeyPatch, different: tuple[str, ...], code: int, said: str
) -> None:
    prompts = PromptResult(("one question", "tools"), different, ("calls: The chat template leaves out [the call].",))
    path = PathResult("engine", 3, 0.0, 0.0, 1.0, BOUNDS["float32"])
    made = Certificate("m", None, "trainer", "ab", None, "cd", "float32", 2048, (path,), prompts, ())
    monkeypatch.setattr("landrace.certify.certify", lambda *_, **__: made)
    result = CliRunner().invoke(app, ["certify", "m"])
    assert result.exit_code == code
    assert said in " ".join(result.output.split())
    assert "leaves out [the call]" in " ".join(result.output.split())


def test_no_figure_is_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a model that chooses experts and positions, in a window of 80 columns."""
    choices = EqualChoices(0.98765, 0.87654)
    path = PathResult(
        "trainer, bfloat16 products", 12345, 4.56e-1, 7.89e-2, 0.99876, BOUNDS["bfloat16"], 0.01234, choices
    )
    made = Certificate("m", None, "trainer", "ab", None, "cd", "float32", 2048, (path,), None, ())
    monkeypatch.setattr("landrace.certify.certify", lambda *_, **__: made)
    output = CliRunner().invoke(app, ["certify", "m"]).output
    for figure in ("12345", "4.6e-01", "7.9e-02", "99.88%", "1.23%", "98.77%", "87.65%", "FAIL"):
        assert figure in output, output
