"""`evaluate`: what is asked of the engine, how answers are judged and counted, and what is stored."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from landrace.errors import DataError, OptionError, RequestError
from landrace.evaluation.evaluate import evaluate
from landrace.evaluation.results import evaluation_from_dict, load_evaluation
from landrace.evaluation.task import Fields, Task

INTENTS = Task(
    "support",
    "classification",
    "Intent of: {text}",
    labels=("refund", "check_in", "other"),
    fields=Fields(answer="intent", id="id", groups=("language",)),
    system="Be brief.",
    max_tokens=7,
    stop=("\n",),
)
TICKETS = [
    {"id": "a", "text": "money", "intent": "refund", "language": "en"},
    {"id": "b", "text": "key", "intent": "check_in", "language": "en"},
    {"id": "c", "text": "tiền", "intent": "refund", "language": "vi"},
    {"id": "d", "text": "long", "intent": "other", "language": "vi"},
    {"id": "e", "text": "huge", "intent": "other", "language": "vi"},
]
ANSWERS: dict[str, Any] = {
    "money": "Refund.",
    "key": "refund",
    "tiền": "refund or other",
    "long": ("other, because", "length"),
    "huge": RequestError("The prompt is too long."),
}


def canned(prompt: str) -> Any:
    return next(answer for text, answer in ANSWERS.items() if f": {text}<" in prompt)


def run(fake_engine: Any, fake_tokenizer: Any, **options: Any) -> tuple[Any, Any]:
    engine = fake_engine(canned)
    evaluation = evaluate(engine, fake_tokenizer(), INTENTS, model_name="m", data=INTENTS.from_rows(TICKETS), **options)
    return engine, evaluation


def test_every_answer_is_judged_and_every_failure_counted(fake_engine: Any, fake_tokenizer: Any) -> None:
    _, found = run(fake_engine, fake_tokenizer)
    assert [row.correct for row in found.rows] == [True, False, False, True, False]
    assert [row.parsed for row in found.rows] == ["refund", "refund", None, "other", None]
    assert (found.correct, found.unparsed, found.capped, found.errors) == (2, 1, 1, 1)
    assert found.accuracy == 0.4
    assert found.interval.low < 0.4 < found.interval.high
    assert found.rows[4].error == "The prompt is too long."
    assert group_counts(found, "language") == [("en", 1, 2), ("vi", 1, 3)]
    assert group_counts(found, "expected") == [("check_in", 0, 1), ("other", 1, 2), ("refund", 1, 2)]


def group_counts(evaluation: Any, column: str) -> list[tuple[str, int, int]]:
    return [(score.value, score.correct, score.rows) for score in evaluation.by_group(column)]


def test_one_full_batch_with_the_prompt_that_training_saw(fake_engine: Any, fake_tokenizer: Any) -> None:
    engine, found = run(fake_engine, fake_tokenizer, adapter="tuned", seed=5)
    (batch,) = engine.batches
    assert bytes(batch[0].prompt_ids).decode() == "<system>Be brief.<user>Intent of: money<assistant>"
    assert len({request.id for request in batch}) == 5
    for index, request in enumerate(batch):
        params = request.params
        assert (params.temperature, params.max_tokens, params.stop, params.seed) == (0.0, 7, ("\n",), 5 + index)
        assert request.adapter == "tuned"
    assert found.sampling == {"temperature": 0.0, "max_tokens": 7, "stop": ["\n"]}
    assert (found.concurrency, found.adapter, found.chat_template_sha256) == (4, "tuned", "template")


def test_tokens_and_time_add_up(fake_engine: Any, fake_tokenizer: Any) -> None:
    engine, found = run(fake_engine, fake_tokenizer)
    found = replace(found, wall_seconds=10.0)
    assert found.prompt_tokens == sum(len(request.prompt_ids) for request in engine.batches[0])
    assert found.cached_prompt_tokens == 2 * 4
    assert found.completion_tokens == sum(len(row.answer.encode()) for row in found.rows)
    computed = found.prompt_tokens - found.cached_prompt_tokens + found.completion_tokens
    assert found.tokens_per_second == pytest.approx(computed / 10)
    assert found.seconds_per_answer == pytest.approx(2.0)


def test_progress_counts_each_answer_once(fake_engine: Any, fake_tokenizer: Any) -> None:
    seen: list[tuple[int, int]] = []
    run(fake_engine, fake_tokenizer, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(index, 5) for index in range(1, 6)]


def test_a_limit_draws_the_same_rows_for_the_same_seed(fake_engine: Any, fake_tokenizer: Any) -> None:
    _, first = run(fake_engine, fake_tokenizer, limit=2, seed=3)
    _, second = run(fake_engine, fake_tokenizer, limit=2, seed=3)
    assert [row.id for row in first.rows] == [row.id for row in second.rows]
    assert (len(first.rows), first.data_rows) == (2, 5)


@pytest.mark.parametrize(
    ("kind", "values", "accepted", "answer", "right"),
    [
        ("exact", {}, ["Beograd", "Belgrade"], "belgrade.", True),
        ("exact", {}, "Belgrade", "It is Belgrade", False),
        ("contains", {}, ["Beograd", "Belgrade"], "It is BELGRADE, of course.", True),
        ("contains", {}, "Belgrade", "It is Novi Sad", False),
        ("regex", {"pattern": r"#### (\d+)"}, "18", "9 + 9\n#### 18", True),
        ("regex", {"pattern": r"#### (\d+)"}, "9 + 9 = 18\n#### 18", "#### 18", True),
        ("regex", {"pattern": r"#### (\d+)"}, "18", "18", False),
        ("regex", {"pattern": r"#### (\d+)"}, "18", "#### 180", False),
    ],
)
def test_the_kinds_that_compare_text(
    kind: Any, values: Any, accepted: Any, answer: str, right: bool, fake_engine: Any, fake_tokenizer: Any
) -> None:
    task = Task("t", kind, "{q}", **values)
    data = task.from_rows([{"q": "?", "answer": accepted}])
    found = evaluate(fake_engine(lambda prompt: answer), fake_tokenizer(), task, model_name="m", data=data)
    assert found.rows[0].correct is right
    assert found.macro_f1 is None


def test_choice_by_likelihood_scores_the_choices_and_nothing_of_the_prompt(
    fake_engine: Any, fake_tokenizer: Any
) -> None:
    task = Task("quiz", "choice", "Q: {q}\nA:", mode="plain", answer_prefix=" ", fields=Fields(choices="c"))
    data = task.from_rows([{"q": "zzz", "c": ["b", "aaaa"], "answer": "aaaa"}])
    engine = fake_engine(lambda prompt: "")
    found = evaluate(engine, fake_tokenizer(chat=False), task, model_name="m", data=data)
    row = found.rows[0]
    texts = [bytes(request.prompt_ids[1:]).decode() for request in engine.batches[0]]
    assert texts == ["Q: zzz\nA: b", "Q: zzz\nA: aaaa"]
    assert all(request.params.max_tokens == 0 for request in engine.batches[0])
    # The space of the prefix (-32) is in no score.
    assert [score.logprob for score in row.choices] == [-98.0, -4 * 97.0]
    assert [score.tokens for score in row.choices] == [1, 4]
    assert [score.logprob_per_byte for score in row.choices] == [-98.0, -97.0]
    assert (row.parsed, row.correct, row.raw_correct) == ("aaaa", True, False)
    assert (found.accuracy, found.raw_accuracy, found.method) == (1.0, 0.0, "likelihood")
    assert (found.capped, found.unparsed, found.completion_tokens, row.finish_reason) == (0, 0, 0, None)
    assert evaluation_from_dict(found.to_dict()) == found


def test_the_norms_are_those_of_lm_eval(fake_engine: Any, fake_tokenizer: Any) -> None:
    """`acc`, `acc_norm` (per character) and `acc_bytes` (per byte) choose three different answers here."""
    task = Task("quiz", "choice", "{q}", mode="plain", fields=Fields(choices="c"))
    # 97 in one byte; 40 + 66 in two bytes; 195 + 151 in two bytes that are one character.
    choices = ["a", "(B", "×"]
    data = task.from_rows([{"q": "?", "c": choices, "answer": choice} for choice in choices])
    found = evaluate(fake_engine(lambda prompt: ""), fake_tokenizer(chat=False), task, model_name="m", data=data)
    scores = found.rows[0].choices
    assert [score.logprob for score in scores] == [-97.0, -106.0, -346.0]
    assert [score.logprob_per_byte for score in scores] == [-97.0, -53.0, -173.0]
    assert [row.correct for row in found.rows] == [False, True, False]
    assert [row.raw_correct for row in found.rows] == [True, False, False]
    assert (found.accuracy, found.raw_accuracy, found.character_accuracy) == (1 / 3, 1 / 3, 1 / 3)
    assert found.summary()["character_accuracy"] == 1 / 3
    assert found.sampling == {"decides": "log-probability per byte (acc_bytes)"}


@pytest.mark.parametrize("score", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_no_number_fails_its_row(
    score: float, fake_engine: Any, fake_tokenizer: Any, tmp_path: Path
) -> None:
    class Broken(fake_engine):  # type: ignore[misc]
        def _outputs(self, request: Any) -> Any:
            (output,) = super()._outputs(request)
            broken = tuple(replace(item, logprob=score) for item in output.prompt_logprobs)
            return [replace(output, prompt_logprobs=broken)] if request.id.startswith("row-0") else [output]

    task = Task("quiz", "choice", "{q}", mode="plain", labels=("yes", "no"))
    data = task.from_rows([{"q": "a", "answer": "yes"}, {"q": "b", "answer": "no"}])
    found = evaluate(Broken(lambda prompt: ""), fake_tokenizer(chat=False), task, model_name="m", data=data)
    assert (found.errors, found.rows[0].verdict, found.rows[1].verdict) == (1, "failed", "right")
    assert "log-probability of 'yes' is" in (found.rows[0].error or "")
    assert load_evaluation(found.save(tmp_path)) == found


def test_refusals_are_counted_apart(fake_engine: Any, fake_tokenizer: Any, tmp_path: Path) -> None:
    task = Task("t", "number", "{q}")
    answers = {"a": "7", "b": "8", "c": "well", "d": "I don't know."}
    data = task.from_rows([{"q": name, "answer": 7} for name in answers])
    engine = fake_engine(lambda prompt: next(text for name, text in answers.items() if f"<user>{name}<" in prompt))
    found = evaluate(engine, fake_tokenizer(), task, model_name="m", data=data)
    assert [row.verdict for row in found.rows] == ["right", "wrong", "unparsed", "refused"]
    assert (found.correct, found.unparsed, found.refused, found.errors) == (1, 1, 1, 0)
    assert found.summary()["refused"] == 1
    assert load_evaluation(found.save(tmp_path)) == found


def test_a_choice_that_fails_fails_its_row_only(fake_engine: Any, fake_tokenizer: Any) -> None:
    task = Task("quiz", "choice", "{q}", labels=("yes", "no"))
    data = task.from_rows([{"q": "bad", "answer": "yes"}, {"q": "good", "answer": "no"}])
    engine = fake_engine(lambda prompt: RequestError("No.") if "bad" in prompt and prompt.endswith("no") else "")
    found = evaluate(engine, fake_tokenizer(), task, model_name="m", data=data)
    assert [(row.error, row.correct) for row in found.rows] == [("No.", False), (None, True)]


def test_a_chat_task_needs_a_chat_template(fake_engine: Any, fake_tokenizer: Any) -> None:
    with pytest.raises(OptionError, match="no chat template"):
        evaluate(
            fake_engine(canned), fake_tokenizer(chat=False), INTENTS, model_name="m", data=INTENTS.from_rows(TICKETS)
        )


def test_what_is_stored_is_what_is_read(fake_engine: Any, fake_tokenizer: Any, tmp_path: Path) -> None:
    _, found = run(fake_engine, fake_tokenizer, provenance={"commit": "abc"}, training_seconds=2.5)
    path = found.save(tmp_path / "runs")
    assert load_evaluation(path) == found
    assert evaluation_from_dict(json.loads(json.dumps(found.to_dict()))) == found
    summary = json.loads(path.read_text())
    assert (summary["accuracy"], summary["unparsed"], summary["provenance"]) == (0.4, 1, {"commit": "abc"})
    lines = (path.parent / summary["rows_file"]).read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["a", "b", "c", "d", "e"]
    assert sorted(item.name for item in path.parent.iterdir()) == ["m.evaluation.json", "m.rows.jsonl"]


def test_a_model_name_cannot_leave_the_folder(fake_engine: Any, fake_tokenizer: Any, tmp_path: Path) -> None:
    _, found = run(fake_engine, fake_tokenizer)
    folder = tmp_path / "deep" / "runs"
    path = replace(found, model="../../Qwen/Qwen3:adapter").save(folder)
    assert path.parent == folder
    assert load_evaluation(path).model == "../../Qwen/Qwen3:adapter"


@pytest.mark.parametrize(
    "name",
    ["/etc/x", "..", ".", "", " ", "a\0b", "CON", "lpt1.txt", "x" * 5000, "模型" * 300, "a/../../b", "C:\\x", "-"],
)
def test_any_name_is_stored_inside_the_folder(name: str, fake_engine: Any, fake_tokenizer: Any, tmp_path: Path) -> None:
    _, found = run(fake_engine, fake_tokenizer)
    path = replace(found, model=name).save(tmp_path / "out")
    assert sorted(item.parent for item in tmp_path.rglob("*.*")) == [tmp_path / "out"] * 2
    assert load_evaluation(path).model == name


def test_two_names_that_make_one_file_name_overwrite_nothing(
    fake_engine: Any, fake_tokenizer: Any, tmp_path: Path
) -> None:
    _, found = run(fake_engine, fake_tokenizer)
    names = ["a/b", "a b", "a-b"]
    paths = [replace(found, model=name).save(tmp_path) for name in [*names, *names]]
    assert len(set(paths)) == 3
    assert [load_evaluation(path).model for path in paths[:3]] == names


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: text[:50], "is damaged"),
        (lambda text: "[]", "is not an evaluation"),
        (lambda text: text.replace('"format": 1', '"format": 2'), "format 1"),
        (lambda text: text.replace("m.rows.jsonl", "../m.rows.jsonl"), "names no rows file"),
        (lambda text: text.replace('"seed": 0', '"seed": "0"'), "seed"),
        (lambda text: text.replace('"kind"', '"kinds"'), "kind"),
    ],
)
def test_a_damaged_file_is_refused(
    damage: Any, words: str, fake_engine: Any, fake_tokenizer: Any, tmp_path: Path
) -> None:
    _, found = run(fake_engine, fake_tokenizer)
    path = found.save(tmp_path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(DataError) as caught:
        load_evaluation(path)
    assert words in caught.value.message


def test_damaged_or_missing_rows_are_refused(fake_engine: Any, fake_tokenizer: Any, tmp_path: Path) -> None:
    _, found = run(fake_engine, fake_tokenizer)
    path = found.save(tmp_path)
    rows = tmp_path / "m.rows.jsonl"
    good = rows.read_text()
    for bad in (good[:-20], "", good.replace('"correct": true', '"correct": 1')):
        rows.write_text(bad)
        with pytest.raises(DataError):
            load_evaluation(path)
    rows.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        load_evaluation(path)
