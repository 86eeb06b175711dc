"""`evaluate` on the real engine and a small real model, against plain forward passes of the same decoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from reciting_model import THINKING, write_reciting_model

from landrace.evaluation.evaluate import build_prompt, evaluate
from landrace.evaluation.task import Fields, Task

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def model(smollm2_path: Path) -> Any:
    from landrace.model import open_model

    return open_model(str(smollm2_path))


def engine_of(model: Any, **options: Any) -> Any:
    from landrace.engine import Engine, EngineOptions

    return Engine(model.decoder, model.tokenizer, EngineOptions(**options))


def plain_logits(model: Any, ids: list[int]) -> Any:
    """Logits of every position, in one pass without a cache."""
    from landrace.models.batch import ForwardBatch

    with torch.inference_mode():
        return model.decoder(ForwardBatch.packed([ids])).double()


def test_likelihoods_equal_a_plain_forward_pass(model: Any) -> None:
    task = Task("t", "choice", "The capital of {c} is", mode="plain", answer_prefix=" ", fields=Fields(choices="o"))
    data = task.from_rows([{"c": "Serbia", "o": ["Belgrade", "Novi Sad", "a very small town"], "answer": "Belgrade"}])
    found = evaluate(engine_of(model, max_step_tokens=7), model.tokenizer, task, model_name="m", data=data)
    prompt = list(build_prompt(task, model.tokenizer, data.rows[0]).token_ids)
    for score in found.rows[0].choices:
        ids = model.tokenizer.encode(f"The capital of Serbia is {score.choice}")
        assert ids[: len(prompt)] == prompt
        logprobs = torch.log_softmax(plain_logits(model, ids), dim=-1)
        answer = range(len(prompt), len(ids))
        assert score.tokens == len(answer)
        assert score.logprob == pytest.approx(sum(float(logprobs[at - 1, ids[at]]) for at in answer), abs=1e-3)


def test_generated_answers_equal_naive_greedy_ones_and_an_impossible_row_fails_alone(model: Any) -> None:
    task = Task("t", "contains", "{q}", max_tokens=8)
    rows = [
        {"q": "What is the capital of France? Answer with one word.", "answer": "Paris"},
        {"q": "word " * 600, "answer": "word"},
        {"q": "What is the capital of Japan? Answer with one word.", "answer": "Tokyo"},
    ]
    data = task.from_rows(rows)
    engine = engine_of(model, max_length=256)
    found = evaluate(engine, model.tokenizer, task, model_name="m", data=data)
    assert [row.correct for row in found.rows] == [True, False, True]
    assert [row.error is None for row in found.rows] == [True, False, True]
    assert (found.errors, found.unparsed) == (1, 0)
    ids = list(build_prompt(task, model.tokenizer, data.rows[0]).token_ids)
    start = len(ids)
    while len(ids) < start + 8 and ids[-1] not in model.tokenizer.eos_ids:
        ids.append(int(plain_logits(model, ids)[-1].argmax()))
    assert found.rows[0].answer == model.tokenizer.decode(ids[start:])
    assert found.rows[0].prompt_tokens == start


def test_the_trainer_sees_the_prompt_that_is_asked(model: Any) -> None:
    chat = pytest.importorskip("landrace.training.chat")
    data_module = pytest.importorskip("landrace.training.data")
    task = Task("t", "classification", "Which? {q}", labels=("refund", "check_in"), system="Answer with one label.")
    data = task.from_rows([{"q": "Gde je ključ?", "answer": "check_in"}])
    (trained,) = task.to_training_rows(data)
    (answer,) = chat.Conversation(data_module.parse_row(trained, "row"), model.tokenizer).answers()
    assert answer.token_ids[: answer.prompt_length] == build_prompt(task, model.tokenizer, data.rows[0]).token_ids
    assert model.tokenizer.decode(answer.token_ids[answer.prompt_length :]).strip() == "check_in"


def test_what_is_said_is_judged_and_no_thought(tmp_path: Path) -> None:
    chains = [[":", "<think>", "check_in", "</think>", "refund"]]
    folder = write_reciting_model(tmp_path / "model", tmp_path / "extras", chains, THINKING)
    from landrace.model import open_engine

    serving = open_engine(str(folder))
    task = Task("t", "classification", "Which? {q}", labels=("refund", "check_in"), max_tokens=4)
    data = task.from_rows([{"q": "a", "answer": "refund"}])
    for max_tokens, parsed in ((4, "refund"), (2, None)):
        told = replace(task, max_tokens=max_tokens)
        found = evaluate(serving.engine, serving.model.tokenizer, told, model_name="m", data=data).rows[0]
        assert (found.parsed, found.correct) == (parsed, parsed is not None)
        assert found.answer.startswith("<think>check_in")


def test_what_the_parser_calls_content_is_no_thought(tmp_path: Path) -> None:
    """Whatever marks of another family stand in it."""
    chains = [[":", "<seed:think>", "check_in", "</seed:think>", "<think>", "refund"]]
    template = THINKING.replace("think>", "seed:think>")
    folder = write_reciting_model(tmp_path / "model", tmp_path / "extras", chains, template)
    from landrace.model import open_engine

    serving = open_engine(str(folder))
    task = Task("t", "contains", "Which? {q}", max_tokens=9)
    data = task.from_rows([{"q": "a", "answer": "refund"}])
    found = evaluate(serving.engine, serving.model.tokenizer, task, model_name="m", data=data).rows[0]
    assert (found.answer, found.correct) == ("<seed:think>check_in</seed:think><think>refund", True)


def test_thoughts_that_no_template_shows_are_read_off_the_text(tmp_path: Path) -> None:
    chains = [[":", "<think", ">check_in</", "think>", "refund"]]
    template = "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}assistant:"
    folder = write_reciting_model(tmp_path / "model", tmp_path / "extras", chains, template)
    from landrace.model import open_engine

    serving = open_engine(str(folder))
    data_of = Task("t", "classification", "Which? {q}", labels=("refund", "check_in"), max_tokens=9)
    for task in (data_of, replace(data_of, mode="plain", template="{q}:")):
        data = task.from_rows([{"q": "a", "answer": "refund"}])
        found = evaluate(serving.engine, serving.model.tokenizer, task, model_name="m", data=data).rows[0]
        assert (found.answer, found.parsed) == ("<think>check_in</think>refund", "refund")
