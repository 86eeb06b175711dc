"""Task files and data rows: what is read, and what is refused by name and line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from landrace.errors import DataError, OptionError
from landrace.evaluation.parsing import Normalisation
from landrace.evaluation.task import Fields, Task, load_task, task_from_dict
from landrace.evaluation.template import PromptTemplate

SUPPORT: dict[str, Any] = {
    "name": "support",
    "kind": "classification",
    "data": "test.jsonl",
    "train": "train.jsonl",
    "template": "One of {labels}.\n\n{text}",
    "system": "Answer with the intent.",
    "labels": ["refund", "check_in"],
    "fields": {"id": "id", "answer": "intent", "groups": ["language"]},
    "max_tokens": 12,
    "stop": ["\n"],
}
ROWS = [
    {"id": "a1", "text": "Money back, please", "intent": "refund", "language": "en"},
    {"id": "a2", "text": "Gde je ključ?", "intent": "check_in", "language": "sr"},
]


def write(folder: Path, task: dict[str, Any] = SUPPORT, rows: list[Any] = ROWS) -> Path:
    (folder / "task.json").write_text(json.dumps(task), encoding="utf-8")
    (folder / "test.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return folder / "task.json"


def changed(**values: Any) -> dict[str, Any]:
    return {**SUPPORT, **values}


def without(*keys: str) -> dict[str, Any]:
    return {key: value for key, value in SUPPORT.items() if key not in keys}


def test_a_task_file_becomes_prompts_and_training_rows(tmp_path: Path) -> None:
    task = load_task(write(tmp_path))
    data = task.load()
    assert [row.id for row in data.rows] == ["a1", "a2"]
    assert data.rows[1].groups == {"language": "sr"}
    assert data.sha256 == hashlib.sha256((tmp_path / "test.jsonl").read_bytes()).hexdigest()
    assert task.messages(data.rows[0]) == [
        {"role": "system", "content": "Answer with the intent."},
        {"role": "user", "content": "One of refund, check_in.\n\nMoney back, please"},
    ]
    for row, trained in zip(data.rows, task.to_training_rows(data), strict=True):
        assert trained["messages"][:-1] == task.messages(row)
        assert trained["messages"][-1] == {"role": "assistant", "content": row.expected[0]}


def test_plain_mode_trains_on_the_prompt_that_is_asked(tmp_path: Path) -> None:
    task = load_task(write(tmp_path, {**without("system"), "mode": "plain", "answer_prefix": " "}))
    data = task.load()
    assert task.to_training_rows(data)[0] == {"prompt": task.prompt_text(data.rows[0]), "completion": " refund"}


def test_toml_and_json_describe_the_same_task(tmp_path: Path) -> None:
    write(tmp_path)
    toml = """
    name = "support"
    kind = "classification"
    data = "test.jsonl"
    train = "train.jsonl"
    template = "One of {labels}.\\n\\n{text}"
    system = "Answer with the intent."
    labels = ["refund", "check_in"]
    max_tokens = 12
    stop = ["\\n"]
    [fields]
    id = "id"
    answer = "intent"
    groups = ["language"]
    """
    (tmp_path / "task.toml").write_text(toml, encoding="utf-8")
    assert load_task(tmp_path / "task.toml") == load_task(tmp_path / "task.json")


def test_training_rows_are_read_by_the_trainer(tmp_path: Path) -> None:
    data_module = pytest.importorskip("landrace.training.data")
    task = load_task(write(tmp_path))
    for row in task.to_training_rows(task.load()):
        assert data_module.parse_row(row, "row").messages[-1]["role"] == "assistant"


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (changed(kindness=1), "unknown key 'kindness'"),
        (changed(fields={"answer": "intent", "label": "x"}), "fields: unknown key 'label'"),
        (changed(normalisation={"lower": True}), "normalisation: unknown key 'lower'"),
        (changed(normalisation={"casefold": "yes"}), "'casefold' must be true or false"),
        (without("name"), "'name' is missing"),
        (without("template"), "'template' is missing"),
        (changed(max_tokens="12"), "'max_tokens' must be a whole number"),
        (changed(max_tokens=True), "'max_tokens' must be a whole number"),
        (changed(max_tokens=0), "max_tokens must be at least 1"),
        (changed(kind="quiz"), "kind must be one of"),
        (changed(kind=["quiz"]), "'kind' must be text"),
        (changed(labels="refund"), "'labels' must be a list"),
        (changed(labels=["refund"]), "at least two labels"),
        (changed(labels=["refund", "Refund."]), "must differ"),
        (changed(labels=["refund", "..."]), "empty once normalised"),
        (changed(template="{labels}"), "names no {field}"),
        (changed(template="{{text}}"), "names no {field}"),
        (changed(mode="plain"), "system needs chat mode"),
        (changed(answer_prefix=" "), "answer_prefix needs plain mode"),
        (changed(pattern="(x)"), "pattern goes with kind regex"),
        (changed(kind="regex"), "pattern goes with kind regex"),
        (changed(kind="regex", pattern="("), "not a regular expression"),
        (changed(kind="regex", pattern="x"), "capture group"),
        (changed(fields={"choices": "options"}), "belongs to kind choice"),
        (changed(kind="choice", fields={"choices": "options"}), "not both"),
        (changed(stop=[""]), "list of non-empty texts"),
        ([SUPPORT], "must be an object"),
    ],
)
def test_a_task_that_cannot_be_honoured_is_refused_by_name(task: Any, words: str) -> None:
    with pytest.raises((DataError, OptionError)) as caught:
        task_from_dict(task)
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"id": "x", "intent": "refund", "language": "en"}, "line 3: the field 'text' is missing"),
        ({**ROWS[0], "intent": "other"}, "line 3: 'other' is not one of the 2 answers"),
        ({**ROWS[0], "intent": ["refund"]}, "line 3: 'intent' must be one answer"),
        ({**ROWS[0], "text": ["a"]}, "line 3: the field 'text' must be text or a number, not list"),
        ({**ROWS[0], "text": True}, "not bool"),
        ({**ROWS[0], "text": "\ud800"}, "half of a surrogate pair"),
        ({"id": "x", "text": "a", "intent": "refund"}, "the field 'language' is missing"),
        (["a"], "the row is a list, not an object"),
        (ROWS[0], "the row id 'a1' occurs twice"),
    ],
)
def test_a_bad_row_is_refused_by_line(tmp_path: Path, row: Any, words: str) -> None:
    with pytest.raises(DataError) as caught:
        load_task(write(tmp_path, rows=[*ROWS, row])).load()
    assert words in caught.value.message
    assert "test.jsonl" in caught.value.message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"id": "a1",', "line 1: the line is not JSON"),
        (b"\n\n\xff\xfe\n", "line 3: the line is not UTF-8"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"id": ' + b"9" * 5000 + b"}", "line 1: the line has a number too long"),
        (b"", "has no rows"),
        (b" \n \n", "has no rows"),
        (b"x" * (17 << 20), "longer than 16 MiB"),
    ],
)
def test_a_hostile_file_ends_in_one_error(tmp_path: Path, content: bytes, words: str) -> None:
    task = load_task(write(tmp_path))
    (tmp_path / "test.jsonl").write_bytes(content)
    with pytest.raises(DataError) as caught:
        task.load()
    assert words in caught.value.message


def test_files_that_are_not_there_or_not_tasks(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        load_task(tmp_path / "none.json")
    (tmp_path / "task.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="not valid json"):
        load_task(tmp_path / "task.json")
    (tmp_path / "task.toml").write_bytes(b"\xff")
    with pytest.raises(DataError, match="not valid toml"):
        load_task(tmp_path / "task.toml")
    (tmp_path / "test.jsonl").unlink(missing_ok=True)
    with pytest.raises(DataError, match="cannot be read"):
        load_task(write_task_only(tmp_path)).load()
    with pytest.raises(OptionError, match="names no data file"):
        Task("t", "exact", "{q}").load()


def write_task_only(folder: Path) -> Path:
    (folder / "only.json").write_text(json.dumps(SUPPORT), encoding="utf-8")
    return folder / "only.json"


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), ["x", float("inf")]])
def test_a_number_that_is_none_is_refused_from_memory_and_from_files(tmp_path: Path, value: Any) -> None:
    row = {"q": "?", "answer": "a", "score": value}
    with pytest.raises(DataError, match="rows, row 1: 'score' holds"):
        Task("t", "exact", "{q}").from_rows([row])
    (tmp_path / "rows").write_text(json.dumps(row))
    with pytest.raises(DataError, match="line 1: 'score' holds"):
        Task("t", "exact", "{q}").load(tmp_path / "rows")


def test_columns_of_the_data_under_other_names(tmp_path: Path) -> None:
    (tmp_path / "rows").write_text("question,reply\nwhat?,that\n")
    value = {"name": "t", "kind": "exact", "template": "{q}", "data": "rows", "map": {"question": "q"}}
    task = task_from_dict(value, base=tmp_path)
    (row,) = task.with_map({"reply": "answer"}).load().rows
    assert (row.inputs, row.expected) == ({"q": "what?"}, ("that",))
    assert task.sha256 != task_from_dict({**value, "map": {}}).sha256
    for names in (["q"], {"question": 1}, {"question": ""}):
        with pytest.raises(DataError, match="'map' must be an object of names"):
            task_from_dict({**value, "map": names})
    with pytest.raises(OptionError, match="two columns as 'q'"):
        task.with_map({"reply": "q"})


def test_a_byte_order_mark_and_blank_lines_do_not_matter(tmp_path: Path) -> None:
    task = load_task(write(tmp_path, changed(fields={"answer": "intent"})))
    text = "\ufeff" + json.dumps(ROWS[0]) + "\r\n\r\n" + json.dumps(ROWS[1]) + "\n"
    (tmp_path / "test.jsonl").write_text(text, encoding="utf-8", newline="")
    assert [row.id for row in task.load().rows] == ["line 1", "line 3"]


def test_choices_of_a_row_and_answers_by_number() -> None:
    task = Task("quiz", "choice", "{q}", fields=Fields(choices="options"))
    rows = [{"q": "1+1", "options": ["4", "2"], "answer": 1}, {"q": "2+2", "options": ["3", "4"], "answer": "4"}]
    data = task.from_rows(rows)
    assert [(row.choices, row.expected) for row in data.rows] == [(("4", "2"), ("2",)), (("3", "4"), ("4",))]
    assert task.to_training_rows(data)[0]["messages"][-1]["content"] == "2"
    bad_answers = [{"answer": value} for value in (2, -1, "5", True)]
    for bad in (*bad_answers, {"options": ["1", "1"]}, {"options": "12"}):
        with pytest.raises(DataError, match="row 1"):
            task.from_rows([{**rows[0], **bad}])


def test_an_integer_answer_is_a_label_or_a_number_and_never_both() -> None:
    rated = Task("t", "choice", "{q}", labels=("1", "2", "3", "4"))
    assert rated.from_rows([{"q": "?", "answer": 1}]).rows[0].expected == ("1",)
    named = Task("t", "choice", "{q}", labels=("bad", "good"))
    assert named.from_rows([{"q": "?", "answer": 1}]).rows[0].expected == ("good",)
    for kind in ("choice", "option"):
        task = Task("t", kind, "{q}", fields=Fields(choices="options"))  # type: ignore[arg-type]
        with pytest.raises(DataError, match="number of one choice and the text of another"):
            task.from_rows([{"q": "?", "options": ["1", "2", "3"], "answer": 1}])
        agreed = task.from_rows([{"q": "?", "options": ["0", "1"], "answer": 1}]).rows[0]
        assert agreed.expected == ("1" if kind == "choice" else "B",)


@pytest.mark.parametrize(
    ("kind", "row", "words"),
    [
        ("number", {"answer": "many"}, "'many', which is no number"),
        ("number", {"answer": "1,5"}, "no number"),
        ("math", {"answer": "\\frac{1"}, "cannot parse"),
        ("set", {"answer": "1, 2"}, "must be a list of items"),
        ("option", {"answer": "E", "options": ["a", "b"]}, "neither the name nor the text"),
        ("option", {"answer": "A", "options": ["a"]}, "at least two"),
        ("option", {"answer": "A", "options": [str(number) for number in range(27)]}, "more than 26"),
    ],
)
def test_an_answer_that_could_never_be_given_is_refused(kind: Any, row: dict[str, Any], words: str) -> None:
    fields = Fields(choices="options") if kind == "option" else Fields()
    with pytest.raises(DataError, match="row 1") as caught:
        Task("t", kind, "{q}", fields=fields).from_rows([{"q": "?", **row}])
    assert words in caught.value.message


def test_labels_that_could_not_be_told_apart_are_refused() -> None:
    for labels in (("check_in", "check-in"), ("Straße", "STRASSE"), ("ｙｅｓ", "yes"), ("όχι", "ΟΧΙ")):
        with pytest.raises(OptionError, match="must differ"):
            Task("t", "classification", "{q}", labels=labels)


def test_several_accepted_answers_and_answers_that_could_never_be_given() -> None:
    task = Task("capital", "exact", "{q}")
    assert task.from_rows([{"q": "?", "answer": ["Beograd", "Belgrade"]}]).rows[0].expected == ("Beograd", "Belgrade")
    for answer in ("...", "", [], [""], ["Beograd", "!"], None):
        with pytest.raises(DataError):
            task.from_rows([{"q": "?", "answer": answer}])


def test_the_hashes_change_with_what_they_stand_for_and_only_then(tmp_path: Path) -> None:
    task = task_from_dict(SUPPORT)
    same = task_from_dict(changed(data="elsewhere.jsonl"), base=tmp_path)
    assert (task.sha256, task.template_sha256) == (same.sha256, same.template_sha256)
    for other in (changed(system="Say the intent."), changed(template="{labels}: {text}"), changed(labels=["a", "b"])):
        assert task_from_dict(other).template_sha256 != task.template_sha256
    longer = task_from_dict(changed(max_tokens=13))
    assert longer.template_sha256 == task.template_sha256
    assert longer.sha256 != task.sha256
    assert task_from_dict(changed(normalisation={"first_line": True})).normalisation == Normalisation(first_line=True)


def test_a_sample_is_drawn_from_the_whole_file_and_repeats() -> None:
    task = Task("t", "exact", "{q}")
    data = task.from_rows([{"q": str(index), "answer": "x"} for index in range(100)])
    drawn = data.sample(10, seed=1)
    places = [int(row.inputs["q"]) for row in drawn.rows]
    assert places == sorted(set(places))
    assert len(places) == 10
    assert places[-1] > 20
    assert drawn == data.sample(10, seed=1) != data.sample(10, seed=2)
    assert drawn.sha256 == data.sha256
    assert data.sample(None, 0) is data
    assert data.sample(100, 0) is data
    with pytest.raises(OptionError, match="limit"):
        data.sample(0, 0)


def test_templates_fill_fields_and_leave_every_other_brace() -> None:
    template = PromptTemplate('{"a": {"b": {x}}} {{x}} {} { x } {0} {x.y} {имя}')
    assert template.fields == ("x", "имя")
    assert template.render({"x": "{y}", "имя": "{{x}}"}) == '{"a": {"b": {y}}} {x} {} { x } {0} {x.y} {{x}}'


def test_any_column_can_be_named_and_a_missing_one_is_refused_by_name() -> None:
    row = {"user-name": "Ana", "a b": "c", "x.y": "z", "answer": "1"}
    task = Task("t", "exact", '{user-name} {a b} {x.y} {{user-name}} {{x.y}} {"k": 1} { q }')
    (built,) = task.from_rows([row]).rows
    assert task.prompt_text(built) == 'Ana c z {user-name} {x.y} {"k": 1} { q }'
    with pytest.raises(DataError, match="'user-name' is missing"):
        task.from_rows([{"answer": "1"}])


@given(st.text(alphabet="{}xy \n", max_size=30), st.text(alphabet="{}xy", max_size=10))
def test_no_template_and_no_value_breaks_rendering(text: str, value: str) -> None:
    template = PromptTemplate(text)
    rendered = template.render(dict.fromkeys(template.fields, value))
    if not template.fields and "{{" not in text:
        assert rendered == text
