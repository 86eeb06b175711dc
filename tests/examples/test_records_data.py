"""The tickets with records: shape, balance, records that follow from their texts, and no template in train and test."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from datetime import date, timedelta
from functools import cache
from itertools import combinations, product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from likeness import normalised, too_alike

from landrace.evaluation.task import load_task

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FOLDER = EXAMPLES / "records"
TASK = load_task(FOLDER / "task.json")
FIELDS = tuple(TASK.records.properties)
INTENTS = tuple(TASK.records.properties["intent"]["enum"])
LANGUAGES = tuple(TASK.records.properties["language"]["enum"])
ROWS_PER_CELL = {"train": 16, "test": 7}
SPLITS = tuple(ROWS_PER_CELL)
SCRIPTS = {"zh": re.compile(r"[\u4e00-\u9fff]"), "vi": re.compile(r"[ăâêôơưạảấầẩậắằặẹẻẽếềểệịỉĩọỏốồổộớờởợụủũứừửựỳỷỹ]")}


class Row(NamedTuple):
    id: str
    language: str
    text: str


@cache
def rows(split: str, folder: Path = FOLDER) -> tuple[dict[str, Any], ...]:
    return tuple(map(json.loads, (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()))


@cache
def texts(split: str, folder: Path = FOLDER) -> tuple[Row, ...]:
    return tuple(Row(row["id"], row["language"], row["text"]) for row in rows(split, folder))


@pytest.mark.parametrize("split", SPLITS)
def test_rows_have_exactly_the_stated_fields(split: str) -> None:
    for row in rows(split):
        assert list(row) == ["id", "language", "written", "text", "record"], row
        assert re.fullmatch(rf"{split}-{row['language']}-\d{{4}}", row["id"]), row
        assert tuple(row["record"]) == FIELDS, row
        for text in (row["text"], row["record"]["summary"]):
            assert text == text.strip() and "\n" not in text and unicodedata.is_normalized("NFC", text), row


@pytest.mark.parametrize("split", SPLITS)
def test_files_are_readable_text_that_ends_with_a_newline(split: str) -> None:
    content = (FOLDER / f"{split}.jsonl").read_text(encoding="utf-8")
    assert content.endswith("}\n") and "\\u" not in content and "\r" not in content


@pytest.mark.parametrize("split", SPLITS)
def test_every_intent_in_every_language_has_the_same_number_of_rows(split: str) -> None:
    cells = [(row["language"], row["record"]["intent"]) for row in rows(split)]
    assert Counter(cells) == dict.fromkeys(product(LANGUAGES, INTENTS), ROWS_PER_CELL[split])
    size = len(LANGUAGES) * len(INTENTS)
    assert all(len(set(cells[start : start + size])) == size for start in range(0, len(cells), size))


def test_ids_and_texts_are_unique() -> None:
    every = texts("train") + texts("test")
    assert len({row.id for row in every}) == len(every) == len({normalised(row.text) for row in every})


@pytest.mark.parametrize("split", SPLITS)
def test_each_row_is_in_its_language(split: str) -> None:
    for row in rows(split):
        assert row["record"]["language"] == row["language"], row
        found = {language for language, letters in SCRIPTS.items() if letters.search(row["text"].casefold())}
        assert found <= {row["language"]} and (row["language"] != "zh" or found), row
        assert row["record"]["summary"].isascii(), row


@pytest.mark.parametrize("split", SPLITS)
def test_records_keep_to_the_schema_and_follow_from_their_texts(split: str) -> None:
    TASK.load(FOLDER / f"{split}.jsonl")  # refuses what is not valid
    for row in rows(split):
        record, written = row["record"], date.fromisoformat(row["written"].split()[1])
        assert row["written"] == f"{written:%A} {written}", row
        assert record["code"] is None or record["code"] in row["text"], row
        days = [date.fromisoformat(record[name]) for name in ("from", "to") if record[name]]
        assert days == sorted(days), row
        assert all(abs(day - written) < timedelta(days=540) for day in days), row
        assert not record["summary"].endswith("."), row


def test_an_urgent_day_is_a_near_one() -> None:
    """What is wanted on the day of writing or on the next is urgent, unless the wish is only to know something."""
    for row in rows("train") + rows("test"):
        day = row["record"]["from"]
        if day and 0 <= (date.fromisoformat(day) - date.fromisoformat(row["written"].split()[1])).days <= 1:
            assert row["record"]["urgency"] == "high", row


@pytest.mark.parametrize("split", SPLITS)
def test_values_are_spread(split: str) -> None:
    records = [row["record"] for row in rows(split)]
    for name in ("code", "from", "to", "people"):
        given = sum(record[name] is not None for record in records) / len(records)
        assert 0.2 < given < 0.7, (name, given)
    urgency = Counter(record["urgency"] for record in records)
    assert min(urgency.values()) > 0.15 * len(records)


def test_no_test_row_is_a_near_duplicate_of_a_training_row() -> None:
    assert too_alike(product(texts("train"), texts("test"))) == []


def test_neither_task_has_its_test_rows_in_the_training_rows_of_the_other() -> None:
    support = EXAMPLES / "support"
    assert too_alike(product(texts("train", support), texts("test"))) == []
    assert too_alike(product(texts("train"), texts("test", support))) == []


@pytest.mark.parametrize("split", SPLITS)
def test_no_near_duplicates_within_a_file(split: str) -> None:
    assert too_alike(combinations(texts(split), 2)) == []


def test_readme_lists_every_field_and_intent_and_the_counts() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    named = {
        name
        for line in re.findall(r"^\| (`[^|]*)\|", readme, flags=re.MULTILINE)
        for name in re.findall(r"`([\w.]+)`", line)
    }
    assert set(FIELDS) | set(INTENTS) <= named
    for split in SPLITS:
        assert f"| `{split}.jsonl` | {len(rows(split))} | {ROWS_PER_CELL[split]} |" in readme
    support = {row.text for row in texts("train", EXAMPLES / "support")}
    reused = sum(row.text in support for row in texts("train"))
    assert f"other {reused} training rows" in readme and f"{len(rows('train')) - reused} of the training rows" in readme
