"""Rows of every form and container that people have, against what is expected of each row of a set of files."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from landrace.data import DataRow, read_table
from landrace.errors import DataError
from landrace.training.data import ChatRow, CompletionRow, ExcludedRow, Row, TextRow, read_rows
from landrace.training.examples import build_examples
from landrace.training.forms import training_row

LATER = {"preference": "preference", "kto": "verdict", "ranking": "ranking"}
"""Forms that are told apart, and what a refusal calls them."""
UNREADABLE = "unreadable"
"""Where `outcomes` puts the one error that tells of every line that holds no row at all."""
PYARROW = importlib.util.find_spec("pyarrow") is not None
ROWS = 110 if PYARROW else 108


def outcomes(path: Path) -> dict[str, Row | DataError]:
    """What becomes of each row that can be parsed, by its place; a refusal does not stop the reading."""
    found: dict[str, Row | DataError] = {}

    def parse(row: DataRow) -> None:
        try:
            found[row.place] = training_row(row.values, row.where)
        except DataError as error:
            found[row.place] = error

    try:
        read_table(path, parse)
    except DataError as error:
        found[UNREADABLE] = error
    return found


def place(where: str) -> str:
    """ "row 2 (lines 3-4)" of a CSV is known here by the line that it begins on."""
    if "(" not in where:
        return where
    return "line " + where.partition("(")[2].split()[1].rstrip(")").partition("-")[0]


def cases(shared: Path) -> Iterator[tuple[Path, str, dict[str, Any]]]:
    folder = shared / "golden" / "data_forms"
    for file in json.loads((folder / "expected.json").read_text(encoding="utf-8"))["files"]:
        if file["container"]["type"] == "parquet" and not PYARROW:
            continue
        for expected in file["expect"]:
            yield folder / file["file"], place(expected["where"]), expected


def turns(row: ChatRow) -> list[dict[str, Any]]:
    """As `expected.json` writes them."""
    written = []
    for k, message in enumerate(row.messages):
        turn = {"role": message["role"], "content": message.get("content")}
        turn["learned"] = message["role"] == "assistant" and k not in row.context_only
        if message.get("tool_calls"):
            calls = [call["function"] for call in message["tool_calls"]]
            turn["tool_calls"] = [{"name": call["name"], "arguments": call["arguments"]} for call in calls]
        if "tool_call_id" in message:
            turn["answers"] = message["tool_call_id"]
        written.append(turn)
    return written


def holds(expected: dict[str, Any], row: Row | DataError, path: Path, where: str) -> bool:
    form = expected["is"]
    if form == "refused" or form in LATER or expected.get("images"):
        named = LATER.get(form, "") if form in LATER else "text" if expected.get("images") else ""
        return isinstance(row, DataError) and f"{path}, {where}: " in row.message and named in row.message
    if form == "excluded_and_counted":
        return isinstance(row, ExcludedRow | DataError)
    if form == "chat":
        messages = expected["messages"]
        unnamed = {"answers": "the call before it"}.items()
        wanted = [{key: value for key, value in turn.items() if (key, value) not in unnamed} for turn in messages]
        tools = [tool["function"]["name"] for tool in row.tools or ()] if isinstance(row, ChatRow) else None
        return isinstance(row, ChatRow) and turns(row) == wanted and tools == expected.get("tools", [])
    if form == "text":
        return isinstance(row, TextRow) and row.text == expected["text"]
    return isinstance(row, CompletionRow) and (row.prompt, row.completion) == (
        expected["prompt"],
        expected["completion"],
    )


def test_every_row_of_the_set_is_read_or_refused_as_expected(shared, byte_tokenizer):
    tokenizer = byte_tokenizer()
    wrong, seen = [], 0
    read: dict[Path, dict[str, Row | DataError]] = {}
    for path, where, expected in cases(shared):
        found = read.setdefault(path, outcomes(path))
        row = found.get(where, found.get(UNREADABLE))
        seen += 1
        if isinstance(row, CompletionRow) and "stop token" in expected.get("because", ""):
            with pytest.raises(DataError, match="stop token") as caught:
                build_examples([row], tokenizer, max_length=1000)
            row = caught.value
        if isinstance(row, DataError) and found.get(where) is None:
            holding = expected["is"] == "refused" and where in row.message.replace(f"{path}, ", "")
        else:
            holding = row is not None and holds(expected, row, path, where)
        if not holding:
            wrong.append((path.name, where, expected, row))
    assert wrong == []
    assert seen == ROWS


def test_every_row_that_is_read_can_be_learned(shared, byte_tokenizer):
    for path in {
        path for path, _, expected in cases(shared) if expected["is"] in ("chat", "prompt_completion", "text")
    }:
        rows = [row for row in outcomes(path).values() if not isinstance(row, DataError)]
        fit = [row for row in rows if "<|im_end|>" not in str(row) and "tool_calls" not in str(row)]
        if any(not isinstance(row, ExcludedRow) for row in fit):
            assert build_examples(fit, byte_tokenizer(), max_length=1000)[1].rows == len(fit)


@pytest.mark.parametrize(
    ("name", "rows", "words"),
    [
        ("hh_rlhf_harmless_test/test.jsonl.gz", 0, ("'chosen' makes this a preference row", "2311")),
        ("llamafactory_demos/dpo_en_demo.json", 0, ("'chosen' makes this a preference row", "299")),
        ("llamafactory_demos/dpo_zh_demo.json", 0, ("'chosen' makes this a preference row", "299")),
        ("llamafactory_demos/kto_en_demo.json", 0, ("'label' says whether the answer is good", "KTO", "299")),
        ("llamafactory_demos/glaive_toolcall_en_demo.json", 300, ()),
        ("llamafactory_demos/glaive_toolcall_zh_demo.json", 300, ()),
        ("llamafactory_demos/identity.json", 91, ()),
        ("llamafactory_demos/reason_tool_use_demo_50.jsonl", 50, ()),
    ],
)
def test_data_sets_as_they_are_published(shared, name, rows, words):
    path = shared / "data" / "finetune" / name
    if words:
        with pytest.raises(DataError) as caught:
            read_rows(path)
        assert all(word in caught.value.message for word in words)
        assert "--map" in caught.value.hint
    else:
        read = read_rows(path)
        assert len(read) == rows
        assert all(isinstance(row, ChatRow) for row in read)


def test_verdicts_are_not_learned_as_answers(shared, tmp_path):
    """Rows with a verdict in a file of one object a line: half of them are bad answers."""
    source = shared / "data" / "finetune" / "llamafactory_demos" / "kto_en_demo.json"
    path = tmp_path / "kto.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in json.loads(source.read_text(encoding="utf-8"))))
    with pytest.raises(DataError, match=r"line 1: 'label' says whether the answer is good.*KTO.*cannot be used: 299"):
        read_rows(path)
