"""Extraction: records read out of answers, judged by field and as a whole, stored, compared and reported."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from landrace.errors import DataError, OptionError
from landrace.evaluation.baseline import evaluate_baseline
from landrace.evaluation.compare import compare
from landrace.evaluation.evaluate import evaluate
from landrace.evaluation.judging import judge_answer
from landrace.evaluation.parsing import Normalisation
from landrace.evaluation.records import RecordSchema, read_record, token_f1
from landrace.evaluation.report import render_report
from landrace.evaluation.results import load_evaluation
from landrace.evaluation.statistics import mean_interval
from landrace.evaluation.tables import comparison_table, to_markdown
from landrace.evaluation.task import Fields, Task, load_task, task_from_dict
from landrace.evaluation.verdict import verdict
from landrace.text.guides import Guide

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "intent": {"enum": ["booking", "money"]},
        "code": {"type": ["string", "null"]},
        "from": {"type": ["string", "null"], "format": "date"},
        "people": {"type": ["integer", "null"]},
        "note": {"type": "string"},
    },
    "required": ["intent", "code", "from", "people", "note"],
    "additionalProperties": False,
}
RECORDS = RecordSchema(SCHEMA, ("note",))
TASK = Task("tickets", "extraction", "{text}", schema=SCHEMA, free_text=("note",), fields=Fields(answer="record"))
GOLD = {"intent": "booking", "code": "VL-33", "from": "2026-08-03", "people": 3, "note": "Wants a flat"}
PLAIN = Normalisation()

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
VALID = st.fixed_dictionaries(
    {
        "intent": st.sampled_from(["booking", "money"]),
        "code": st.none() | st.from_regex(r"[A-Z]{2}-?[0-9]{2,5}", fullmatch=True),
        "from": st.none() | st.dates().map(str),
        "people": st.none() | st.integers(0, 10**6),
        "note": st.text(alphabet="abc dé租", min_size=1),
    }
)


def scores(read: Mapping[str, Any], expected: Mapping[str, Any] = GOLD) -> dict[str, float]:
    return RECORDS.scores(read, expected, PLAIN, "en")


def judged(answer: str) -> Any:
    (row,) = TASK.from_rows([{"text": "?", "record": GOLD}]).rows
    return judge_answer(TASK, row, answer)


# How a record is read.


@given(VALID, st.sampled_from([None, 0, 2]), st.sampled_from(["", "Here it is:\n\n", "I think {maybe} this: "]))
def test_a_record_is_read_alone_in_a_block_and_in_prose(value: dict[str, Any], indent: int | None, before: str) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    assert read_record(f"{before}{text}") == value
    assert read_record(f"{before}```json\n{text}\n```\nAnything else?") == value


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ('First {"a": 1}, no: {"a": 2}.', {"a": 2}),
        ('{"a": "}{", "b": {"c": [1]}}', {"a": "}{", "b": {"c": [1]}}),
        ('A brace { that never closes, then {"a": 1}', {"a": 1}),
        ('{"a": "two\nlines"}', {"a": "two\nlines"}),
        ('"{"a": 1}"', {"a": 1}),
        ('[{"a": 1}]', {"a": 1}),
        ("{'a': 1}", None),
        ('{"a": NaN}', None),
        ('{"a": 1', None),
        ('{"a": {"b": 1}', None),
        ("nothing", None),
        ("", None),
    ],
)
def test_what_is_read_of_an_answer(answer: str, found: object) -> None:
    assert read_record(answer) == found


@pytest.mark.parametrize("piece", ["{", '{"a":', "[{", '{"', "}{", '{"a":{}', '\\"{'])
def test_hostile_answers_are_read_in_linear_time(piece: str) -> None:
    assert read_record(piece * 200_000) in (None, {})


def test_nesting_is_bounded() -> None:
    assert read_record('{"a":' * 60 + "1" + "}" * 60) is not None
    assert read_record('{"a":' * 70 + "1" + "}" * 70) is None
    assert read_record('{"a":' + "[" * 5000 + "]" * 5000 + "}") is None


# How it is judged.


@given(VALID)
def test_a_record_equals_itself_in_any_order_of_its_keys(value: dict[str, Any]) -> None:
    in_order = {name: value[name] for name in SCHEMA["properties"]}
    again = dict(reversed(in_order.items()))
    assert set(scores(again, value).values()) == {1.0}
    assert RECORDS.text(again) == json.dumps(in_order, ensure_ascii=False)
    assert RECORDS.fault(value) is None and Draft202012Validator(SCHEMA).is_valid(value)


@given(VALID, VALID)
def test_fields_are_judged_apart(read: dict[str, Any], expected: dict[str, Any]) -> None:
    found = scores(read, expected)
    for name in RECORDS.judged:
        assert found[name] == float(read[name] == expected[name])
        assert scores({name: expected[name]}, expected)[name] == 1.0


@given(st.dictionaries(st.sampled_from([*SCHEMA["properties"], "other"]), JSON_VALUES), VALID)
def test_any_record_is_judged_by_every_field(read: dict[str, Any], expected: dict[str, Any]) -> None:
    found = scores(read, expected)
    assert list(found) == list(SCHEMA["properties"])
    assert all(0 <= score <= 1 for score in found.values())
    assert (RECORDS.fault(read) is None) == Draft202012Validator(
        SCHEMA, format_checker=Draft202012Validator.FORMAT_CHECKER
    ).is_valid(read)
    json.loads(RECORDS.text(read)), RECORDS.text(read).encode()


@pytest.mark.parametrize(
    ("field", "read", "right"),
    [
        ("intent", "Booking", True),
        ("intent", "money", False),
        ("code", "vl-33", True),
        ("code", " VL-33. ", True),
        ("code", "VL33", False),
        ("code", None, False),
        ("from", "2026-8-3", True),
        ("from", "2026/08/03", True),
        ("from", "2026-08-03T00:00:00", True),
        ("from", "2026年8月3日", True),
        ("from", "2026-03-08", False),
        ("from", "3 August", False),
        ("from", "2026-08-32", False),
        ("people", 3.0, True),
        ("people", "3", True),
        ("people", "three", False),
        ("people", True, False),
        ("people", [3], False),
        ("people", 10**400, False),
    ],
)
def test_values_are_compared_by_their_type(field: str, read: object, right: bool) -> None:
    assert scores({**GOLD, field: read})[field] == float(right)


def test_missing_counts_as_null_and_null_as_nothing_else() -> None:
    gold = {**GOLD, "code": None, "people": None}
    assert scores({"intent": "booking"}, gold) == {"intent": 1, "code": 1, "from": 0, "people": 1, "note": 0}
    assert scores({**gold, "code": "", "people": 0}, gold)["code"] == 0
    assert scores({**gold, "code": "null", "people": 0}, gold)["people"] == 0


def test_lists_and_objects_are_compared_within() -> None:
    schema = {
        "type": "object",
        "properties": {
            "days": {"type": "array", "items": {"type": "string", "format": "date"}},
            "who": {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}},
            "paid": {"type": "boolean"},
        },
    }
    records = RecordSchema(schema)
    gold = {"days": ["2026-08-03", "2026-08-10"], "who": {"name": "Ana", "age": 3}, "paid": False}
    same = {"paid": False, "who": {"age": "3", "name": "ANA"}, "days": ["2026-8-3", "2026-08-10"]}
    assert records.scores(same, gold, PLAIN, "en") == {"days": 1, "who": 1, "paid": 1}
    other = {"days": ["2026-08-10", "2026-08-03"], "who": {"name": "Ana", "age": 3, "x": 1}, "paid": 0}
    assert records.scores(other, gold, PLAIN, "en") == {"days": 0, "who": 0, "paid": 0}
    assert records.text({"who": {"z": 1, "age": 3, "name": "Ana"}, "days": []}) == (
        '{"days": [], "who": {"name": "Ana", "age": 3, "z": 1}}'
    )


def test_the_words_of_a_free_text_are_compared() -> None:
    assert token_f1("Wants a flat", "wants a FLAT!") == 1
    assert token_f1("wants flat now", "wants a flat") == pytest.approx(2 / 3)
    assert token_f1("a a a", "a") == pytest.approx(0.5)
    assert token_f1("租房", "租三房") == pytest.approx(0.8)
    assert (token_f1(None, None), token_f1("", None), token_f1("a", None), token_f1(None, "a")) == (1, 1, 0, 0)


def test_a_whole_record_is_right_without_its_free_text() -> None:
    right = judged(json.dumps({**GOLD, "note": "Something else"}))
    assert (right.verdict, right.valid, right.fields["note"]) == ("right", True, 0)
    loose = judged(json.dumps({**GOLD, "people": "3", "more": 1}))
    assert (loose.verdict, loose.valid) == ("right", False)
    wrong = judged(json.dumps({**GOLD, "people": 4}))
    assert (wrong.verdict, wrong.fields["people"], wrong.fields["code"]) == ("wrong", 0, 1)
    for answer, verdict_of in (("Sure, booking.", "unparsed"), ("I cannot answer that.", "refused")):
        none = judged(answer)
        assert (none.verdict, none.valid, none.parsed) == (verdict_of, False, None)
        assert none.fields == dict.fromkeys(SCHEMA["properties"], 0.0)


def test_an_answer_with_half_a_surrogate_pair_can_be_stored() -> None:
    found = judged('{"code": "\\ud800"}')
    assert found.parsed.encode() and json.loads(found.parsed) == {"code": "\ud800"}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(0, 3))
def test_the_interval_of_a_mean_holds_it_and_repeats(values: list[float], seed: int) -> None:
    interval = mean_interval(values, seed=seed)
    assert min(values) - 1e-9 <= interval.low <= interval.high <= max(values) + 1e-9
    assert interval == mean_interval(values, seed=seed)


# What a task may say.


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": None}, "goes with kind extraction"),
        ({"kind": "exact"}, "goes with kind extraction"),
        ({"schema": {"type": "object"}}, "object with properties"),
        ({"schema": {"properties": {"a": {}}}}, "object with properties"),
        ({"schema": {"type": "objekt", "properties": {"a": {}}}}, "no JSON Schema"),
        ({"free_text": ("nota",)}, "'nota'"),
        ({"free_text": tuple(SCHEMA["properties"])}, "no field to judge"),
    ],
)
def test_a_task_without_a_record_to_extract_is_refused(changes: dict[str, Any], words: str) -> None:
    given_values: dict[str, Any] = {"kind": "extraction", "schema": SCHEMA, "free_text": ("note",), **changes}
    with pytest.raises(OptionError, match=re.escape(words)):
        Task("t", template="{text}", **given_values)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({**GOLD, "people": "3"}, "people: '3' is not of type"),
        ({**GOLD, "from": "2026-02-30"}, "from: '2026-02-30' is not a 'date'"),
        ({"intent": "booking"}, "'code' is a required property"),
        (None, "None is not of type 'object'"),
        ("{", "is not JSON"),
        ('{"intent": "booking", "intent": "money"}', "'intent' occurs twice"),
    ],
)
def test_an_expected_record_keeps_to_the_schema(record: object, words: str) -> None:
    with pytest.raises(DataError) as caught:
        TASK.from_rows([{"text": "?", "record": record}])
    assert words in caught.value.message and "row 1: 'record'" in caught.value.message


def test_a_task_file_may_name_the_file_of_its_schema(tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    body = {"name": "t", "kind": "extraction", "template": "{text}", "fields": {"answer": "record"}}
    (tmp_path / "named.json").write_text(json.dumps({**body, "schema": "schema.json", "free_text": ["note"]}))
    (tmp_path / "inline.json").write_text(json.dumps({**body, "schema": SCHEMA, "free_text": ["note"]}))
    named, inline = load_task(tmp_path / "named.json"), load_task(tmp_path / "inline.json")
    assert named.sha256 == inline.sha256 != Task("t", "exact", "{text}").sha256
    for schema, words in (("absent.json", "cannot be read"), ("named.json", "object with properties"), (3, "'schema'")):
        with pytest.raises((DataError, OptionError), match=words):
            task_from_dict({**body, "schema": schema}, base=tmp_path)


def test_tuning_rows_hold_the_record_in_the_order_of_the_schema(tmp_path: Path) -> None:
    shuffled = dict(sorted(GOLD.items()))
    (tmp_path / "rows.csv").write_text('text,record\nhi,"' + json.dumps(shuffled).replace('"', '""') + '"\n')
    for data in (TASK.from_rows([{"text": "hi", "record": shuffled}]), TASK.load(tmp_path / "rows.csv")):
        (row,) = TASK.to_training_rows(data)
        assert row["messages"][-1] == {"role": "assistant", "content": json.dumps(GOLD)}


# Through the engine, into files, tables and the report.

ROWS = [
    {"id": str(index), "text": f"ticket {index} {'pay' if index % 2 else 'stay'}", "record": {
        **GOLD, "intent": ("booking", "money")[index % 2], "people": index or None}}
    for index in range(12)
]  # fmt: skip


def engine_answer(prompt: str) -> str:
    number = int(re.findall(r"ticket (\d+)", prompt)[-1])
    if number == 11:
        return "no idea"
    record = {**ROWS[number]["record"], "note": "a flat, please"}  # type: ignore[dict-item]
    return json.dumps({**record, "code": None} if number % 3 == 0 else record)


@pytest.fixture
def measured(fake_engine: Any, fake_tokenizer: Any) -> Any:
    return evaluate(fake_engine(engine_answer), fake_tokenizer(), TASK, model_name="tuned", data=TASK.from_rows(ROWS))


def test_fields_are_scored_stored_and_read_again(measured: Any, tmp_path: Path) -> None:
    assert measured.correct == 7 and measured.refused == 1 and measured.schema_valid == 11
    by_field = {score.name: score for score in measured.by_field}
    assert list(by_field) == list(SCHEMA["properties"])
    assert (by_field["code"].score, by_field["intent"].score) == (pytest.approx(7 / 12), pytest.approx(11 / 12))
    assert by_field["note"].score == pytest.approx(2 * 2 / 6 * 11 / 12)
    assert by_field["note"].interval.low < by_field["note"].score < by_field["note"].interval.high
    again = load_evaluation(measured.save(tmp_path))
    assert again == measured and again.by_field == measured.by_field
    summary = json.loads(next(tmp_path.glob("*.evaluation.json")).read_text())
    assert summary["fields"]["code"] == by_field["code"].score and summary["schema_valid"] == 11


def test_a_comparison_shows_fields_and_sets_the_baseline_against_them(measured: Any, tmp_path: Path) -> None:
    rows = TASK.from_rows(ROWS)
    baseline = evaluate_baseline(TASK, rows, data=rows)
    assert baseline.partial and not measured.partial
    assert [score.name for score in baseline.by_field] == ["intent"]
    assert load_evaluation(baseline.save(tmp_path)).partial
    comparison = compare([measured, baseline])
    ours, theirs = comparison_table(comparison)
    assert ours["right"] == "7 of 12" and theirs["right"] == theirs["accuracy (95%)"] == "-"
    assert ours["valid to the schema"] == "91.7%"
    assert theirs["field intent (95%)"].startswith("100.0%") and theirs["field code (95%)"] == "-"
    assert "| field code (95%) | 58.3%" in to_markdown([ours, theirs])
    (pair,) = comparison.field_pairs
    assert (pair.field, pair.pair.first, pair.pair.second) == ("intent", baseline.model, "tuned")
    told = verdict(comparison)
    assert "not whole records. Set against tuned: intent 100.0% against 91.7% (95% interval" in told
    page = render_report(comparison, [measured, baseline])
    assert "By field" in page and page.count("58.3%") >= 2
    assert "intent 100.0%" in verdict(compare([baseline]))
    json.dumps(comparison.to_dict())


def test_a_baseline_that_answers_every_field_is_whole() -> None:
    schema = {"type": "object", "properties": {"intent": SCHEMA["properties"]["intent"]}, "required": ["intent"]}
    task = Task("t", "extraction", "{text}", schema=schema, fields=Fields(answer="record"))
    rows = task.from_rows([{**row, "record": {"intent": row["record"]["intent"]}} for row in ROWS])  # type: ignore[index]
    found = evaluate_baseline(task, rows, data=rows)
    assert (found.partial, found.correct, found.schema_valid) == (False, 12, 12)
    bare = Task("t", "extraction", "{text}", schema={"type": "object", "properties": {"a": {}}})
    with pytest.raises(OptionError, match="kind 'extraction' has neither"):
        evaluate_baseline(bare, rows, data=rows)


def test_guided_answers_are_held_to_the_schema(fake_engine: Any, fake_tokenizer: Any) -> None:
    engine, data = fake_engine(engine_answer), TASK.from_rows(ROWS)
    found = evaluate(engine, fake_tokenizer(), TASK, model_name="m", data=data, guided=True)
    (requests,) = engine.batches
    assert {request.guide for request in requests} == {Guide.of_schema(SCHEMA)} and found.guided


# Examples in the prompt.


def with_train(folder: Path, **values: Any) -> Task:
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    given_values = {"kind": "extraction", "schema": SCHEMA, "free_text": ("note",), **values}
    return Task("t", template="{text}", train=folder / "train.jsonl", fields=Fields("record", "id"), **given_values)


def test_examples_stand_before_every_question(fake_engine: Any, fake_tokenizer: Any, tmp_path: Path) -> None:
    task = with_train(tmp_path, system="Extract.")
    prompts: list[str] = []

    def answer(prompt: str) -> str:
        prompts.append(prompt)
        return engine_answer(prompt)

    data = task.from_rows(ROWS[:3])
    found = evaluate(fake_engine(answer), fake_tokenizer(), task, model_name="m", data=data, shots=2, seed=5)
    assert found.shots == 2
    shown = task.examples(2, 5)
    assert shown == task.load_train().sample(2, 5).rows
    opening = "<system>Extract." + "".join(f"<user>{r.inputs['text']}<assistant>{r.expected[0]}" for r in shown)
    assert [prompt.startswith(opening + f"<user>ticket {index}") for index, prompt in enumerate(prompts)] == [True] * 3
    bare = evaluate(fake_engine(answer), fake_tokenizer(), task, model_name="bare", data=data)
    remarks = compare([found, bare]).remarks
    assert any("number of examples in the prompt" in remark for remark in remarks)


def test_examples_of_plain_prompts_end_with_their_answers(fake_engine: Any, tmp_path: Path) -> None:
    task = with_train(tmp_path, mode="plain", answer_prefix=" ")
    (first, second) = task.examples(2, 0)
    prompt = task.plain_prompt(first, (second,))
    assert prompt == f"{second.inputs['text']} {second.expected[0]}\n\n{first.inputs['text']}"


@pytest.mark.parametrize("shots", [-1, 13])
def test_more_examples_than_training_rows_are_refused(shots: int, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="from 0 to the 12 training rows"):
        with_train(tmp_path).examples(shots, 0)
