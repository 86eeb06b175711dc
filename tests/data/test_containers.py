"""The same rows out of every container, told by content; broken and hostile files end in one sentence with a place."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import os
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landrace.data import DataRow, read_table
from landrace.data.byte_stream import CHUNK_BYTES
from landrace.data.row import MAX_DEPTH, MAX_ROW_BYTES
from landrace.errors import DataError, LandraceError, OptionError, UnsupportedError
from landrace.evaluation.task import Task
from landrace.training.data import CompletionRow, read_rows

ROWS = [
    {"prompt": 'Say "yes", please', "completion": "yes\nand\r\nno"},
    {"prompt": "Žuta kuća, 黄色い家 😀\u2028", "completion": "007"},
    {"prompt": "\\ and \\u0041 and [ { ] }", "completion": 'x "'},
]


def json_lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def table(delimiter: str) -> Callable[[list[Any]], str]:
    def write(rows: list[Any]) -> str:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    return write


TEXTS: dict[str, Callable[[list[Any]], str]] = {
    "lines": json_lines,
    "lines, CRLF, blank lines": lambda rows: "\r\n \r\n" + json_lines(rows).replace("\n", "\r\n\r\n"),
    "array": json.dumps,
    "array, pretty": lambda rows: "\n" + json.dumps(rows, indent=3, ensure_ascii=False) + "\n\n",
    "comma": table(","),
    "tab": table("\t"),
    "semicolon": table(";"),
    "bar": table("|"),
}
ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "utf-8": str.encode,
    "utf-8 with a mark": lambda text: text.encode("utf-8-sig"),
    "utf-16": lambda text: text.encode("utf-16"),
    "utf-16, big end first": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
    "gzip": lambda text: gzip.compress(text.encode("utf-8-sig")),
    "gzip of two members": lambda text: gzip.compress(text.encode()[:9]) + gzip.compress(text.encode()[9:]) + bytes(9),
}


def values(path: Path, **names: str) -> list[Any]:
    return read_table(path, lambda row: row.values, names=names)


def refusal(path: Path, content: bytes | str) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as caught:
        values(path)
    assert str(path) in caught.value.message
    assert caught.value.message.count(str(path)) == 1
    return caught.value.message


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("text", TEXTS)
def test_the_same_rows_whatever_the_file_is_and_is_called(text: str, encoding: str, tmp_path: Path) -> None:
    """Both rooms that read rows see them, under names that say nothing or the wrong thing."""
    content = ENCODINGS[encoding](TEXTS[text](ROWS))
    task = Task("t", "exact", "{prompt}", fields=type(Task.fields)(answer="completion"))
    for name in ("rows.jsonl", "a+b č ref=1.json", "rows"):
        path = tmp_path / name
        path.write_bytes(content)
        assert values(path) == ROWS
    trained = read_rows(path)
    assert [(row.prompt, row.completion) for row in trained if isinstance(row, CompletionRow)] == [
        tuple(row.values()) for row in ROWS
    ]
    assert [row.inputs["prompt"] for row in task.load(path).rows] == [row["prompt"] for row in ROWS]


def test_parquet(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    import datetime

    import pyarrow

    day = datetime.date(2026, 1, 2)
    rows = [{"prompt": "a", "n": 1, "at": day, "turns": [{"role": "x", "name": None}]}, {"prompt": "b", "n": None}]
    path = tmp_path / "rows.csv"
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert values(path) == [
        {"prompt": "a", "n": 1, "at": "2026-01-02", "turns": [{"role": "x"}]},
        {"prompt": "b"},
    ]
    content = path.read_bytes()
    for broken in (content[:-30], content[:40], content[:100] + bytes(20) + content[120:]):
        path.write_bytes(broken)
        with pytest.raises(DataError, match="the Parquet file cannot be read"):
            values(path)
    parquet.write_table(pyarrow.table({"score": [1.0, math.nan]}), path)
    with pytest.raises(DataError, match="row 2: 'score' holds nan"):
        values(path)
    parquet.write_table(pyarrow.table({"text": pyarrow.array(["x" * (17 << 20)])}), path)
    with pytest.raises(DataError, match=r"row 1: the row is longer|unpacks to more"):
        values(path)


def test_parquet_without_pyarrow_says_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "rows").write_bytes(b"PAR1 and more")
    with pytest.raises(UnsupportedError, match="is Parquet, which needs pyarrow") as caught:
        values(tmp_path / "rows")
    assert "pip install pyarrow" in str(caught.value.hint)


BROKEN = {
    "an element that is none": ('[{"a": 1}, {"b" 2}]', "row 2: the row is not JSON: Expecting ':' delimiter at line 1"),
    "an element on its line": (
        '[\n{"a": 1},\n{\n"b" 2}]',
        "row 2: the row is not JSON: Expecting ':' delimiter at line 4",
    ),
    "a comma too many": ("[{},\n]", "row 2: the row is not JSON"),
    "no comma": ("[{} {}]", "row 1: the row is not JSON: Extra data"),
    "elements that are no rows": ('[1, "a"]', "row 1: the row is a number, not an object"),
    "an array cut off": ('[{"a": 1},\n{"b": [', "row 2: the JSON array ends in line 2 without its ']'"),
    "an array cut off in a string": ('["', "row 1: the JSON array ends"),
    "more behind the array": ('[{"a": 1}]\n{"b": 2}', "the JSON array ends in line 1, but there is more text"),
    "brackets of two kinds": ('[{"a": 1],\n{}]', "the ']' in line 1 closes a bracket of another kind"),
    "deep": ("[" * 300, "nested too deeply"),
    "deep in a row": (
        '{"a": ' + "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1) + "}",
        "line 1: 'a' is nested too deeply",
    ),
    "a byte in an array": (b'[{"a": 1},\n{"b": "\xff"}]', "row 2: line 2 is not UTF-8"),
    "a byte in a line": (b'{"a": 1}\n{"b": "\xff"}', "line 2: the line is not UTF-8 (byte 8)"),
    "a byte in a cell": (b"a,b\n1,2\n\xff,3\n4,5\n", "line 3: the line is not UTF-8 (byte 1)"),
    "NaN": ('{"a": 1}\n{"score": [NaN]}', "line 2: 'score' holds nan"),
    "infinity by overflow": ('{"a": -1e999}', "line 1: 'a' holds -inf"),
    "NaN in a cell": ("a,score\nx,NaN\n", "line 2: 'score' holds NaN"),
    "minus infinity in a cell": ("a,score\nx,-inf\n", "line 2: 'score' holds -inf"),
    "a key twice": ('{"a": {"b": 1, "c": 2, "b": 3}}', "line 1: the key 'b' occurs twice"),
    "half a pair": ('{"a": {"b": ["\\ud83d"]}}', "line 1: 'a' has half of a surrogate pair"),
    "half a pair in a key": ('{"a": {"\\udc00": 1}}', "half of a surrogate pair"),
    "a number too long": ('{"a": ' + "1" * 5000 + "}", "line 1: the line has a number too long"),
    "a line too long": (b'{"a": "' + b"x" * MAX_ROW_BYTES, "line 1: the line is longer than 16 MiB"),
    "an element too long": (b'[{"a": "' + b"x" * MAX_ROW_BYTES, "row 1: the row is longer than 16 MiB"),
    "a cell too long": (
        b'a,b\n"' + (b"x" * 999 + b"\n") * (MAX_ROW_BYTES // 999),
        "line 2: the row is longer than 16 MiB",
    ),
    "a quote left open": ('a,b\n1,"2\n3,4\n', "line 2: a quote that opens here is never closed"),
    "text behind a quote": ('a,b\n"1"x,2\n', "line 2: there is text behind a closing quote"),
    "cells too few": ("a,b,c\n1,2,3\n4,5\n", "line 3: the row has 2 cells and the header 3"),
    "cells too many": ("a,b\n1,2,3\n", "line 2: the row has 3 cells and the header 2"),
    "columns too many": ("a," * 5000 + "\n", "line 1: there are more than 4096 cells"),
    "a column twice": ("a,b,a\n1,2,3\n", "line 1: the header names the column 'a' twice"),
    "two delimiters": ("a;b,c\n1;2,3\n", "line 1: the header has as many ',' as ';'"),
    "carriage returns alone": ("a,b\r1,2\r", "carriage return"),
    "a gzip cut off": (gzip.compress(json_lines(ROWS * 9).encode())[:-9], "the gzip ends here, in the middle"),
    "a gzip damaged": (gzip.compress(b'{"a": 1}')[:-8] + bytes(8), "the gzip is damaged"),
    "text behind a gzip": (gzip.compress(b'{"a": 1}') + b"text", "the gzip is damaged"),
    "a gzip in a gzip": (gzip.compress(gzip.compress(b'{"a": 1}')), "packed twice"),
    "a bomb": (
        gzip.compress(b'{"a": 1}' + (b" " * 999 + b"\n") * (20 << 10)),
        "the gzip unpacks to more than 200 times its size",
    ),
    "a ZIP archive": (b"PK\x03\x04 and so on", "is a ZIP archive or an Excel workbook, which is not read"),
    "Zstandard": (b"\x28\xb5\x2f\xfd and so on", "is Zstandard, which is not read"),
    "UTF-16 cut off": ("\ufeff{}".encode("utf-16-le")[:-1], "the text is not UTF-16"),
    "an object on several lines": ('{\n "a": 1\n}\n', "line 1: the line is not JSON"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_ends_in_a_sentence_with_its_place(name: str, tmp_path: Path) -> None:
    content, words = BROKEN[name]
    assert words in refusal(tmp_path / "rows.jsonl", content)


def test_one_bad_row_does_not_hide_the_others(tmp_path: Path) -> None:
    lines = ['{"a": 1}', "{", "null", *["[]"] * 7, '{"a": 1, "a": 2}', '{"a": NaN}']
    said = refusal(tmp_path / "rows", "\n".join(lines))
    assert said.startswith(f"{tmp_path / 'rows'}, line 2: the line is not JSON")
    assert "Further rows that cannot be used: 10" in said
    assert "line 3: the row is null, not an object" in said
    assert "line 4, line 5, line 6 and 4 more: the row is a list, not an object" in said
    assert "line 11: the key 'a' occurs twice" in said
    assert "line 12: 'a' holds nan" in said


def test_places_are_those_of_an_editor(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_text('a,b\n\n"1\n\n2",3\n4,5\n')
    assert read_table(path, lambda row: row.place) == ["line 3", "line 6"]
    path.write_text('\n{"a": 1}\n\n{"a": 2}')
    assert read_table(path, lambda row: row.where) == [f"{path}, line 2", f"{path}, line 4"]
    path.write_text("[{}, {}]")
    assert read_table(path, lambda row: row.place) == ["row 1", "row 2"]


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, words in (
        (tmp_path / "pipe", "a pipe or a device"),
        (tmp_path, "cannot be read"),
        (tmp_path / "none", "cannot"),
    ):
        with pytest.raises(DataError, match=words):
            values(path)


def test_a_table_of_one_column_is_known_by_its_name(tmp_path: Path) -> None:
    for header in ("text", '"text"'):
        (tmp_path / "rows.csv.gz").write_bytes(gzip.compress(f"{header}\na\n\nb\n".encode()))
        assert values(tmp_path / "rows.csv.gz") == [{"text": "a"}, {"text": "b"}]


def test_words_in_quotes_are_words_and_cells_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('word\n"nan"\n"Infinity"\n007\n1e5\n5" pipe\n')
    assert [row["word"] for row in values(path)] == ["nan", "Infinity", "007", "1e5", '5" pipe']


def test_memory_holds_a_row_and_not_the_file(tmp_path: Path) -> None:
    text = "x" * 1000
    for content in (
        json.dumps([{"a": text}] * 8_000),
        json_lines([{"a": text}] * 8_000),
        table(",")([{"a": text, "b": ""}] * 8_000),
    ):
        path = tmp_path / "rows.gz"
        path.write_bytes(gzip.compress(content.encode(), compresslevel=0))
        tracemalloc.start()
        assert sum(read_table(path, lambda row: len(row.values["a"]))) == 8_000_000
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 3 << 20


def test_columns_under_other_names(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_text(json_lines([{"question": "a", "answer": "b"}, {"question": "c", "answer": "d", "id": 1}]))
    assert values(path, question="prompt", answer="completion")[0] == {"prompt": "a", "completion": "b"}
    assert values(path, question="answer", answer="question")[0] == {"answer": "a", "question": "b"}
    assert values(path, id="n")[1]["n"] == 1
    with pytest.raises(DataError, match="no row has the column 'prompt' that --map names") as caught:
        values(path, prompt="question")
    assert "--map OLD=question" in str(caught.value.hint)
    with pytest.raises(DataError, match="no row has the column 'promt'"):
        read_rows(path, {"promt": "prompt"})
    with pytest.raises(DataError, match="line 1: the column 'question' cannot be read as 'answer'"):
        values(path, question="answer")
    with pytest.raises(OptionError, match="two columns as 'x'"):
        values(path, question="x", answer="x")


# JSON that a file may hold, and every way to cut its bytes into pieces.
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(TEXT, VALUE, max_size=3), max_size=4), st.integers(0, 3), st.booleans())
def test_an_array_is_read_as_json_reads_it(rows: list[Any], indent: int, ascii_only: bool) -> None:
    from landrace.data.json_array import json_array

    content = json.dumps(rows, indent=indent or None, ensure_ascii=ascii_only).encode()
    for size in (1, 2, 7, len(content)):
        chunks = iter([content[at : at + size] for at in range(0, len(content), size)])
        assert [row.values for row in json_array(chunks, "f") if isinstance(row, DataRow)] == rows


@given(st.lists(st.lists(TEXT, min_size=2, max_size=2), max_size=5), st.sampled_from(",;\t|"))
def test_a_table_is_read_as_it_was_written(cells: list[list[str]], delimiter: str) -> None:
    from landrace.data.byte_stream import numbered_lines
    from landrace.data.csv_text import csv_rows

    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([["a", "b"], *cells])
    content = text.getvalue().encode()
    lines = numbered_lines(iter([content[at : at + 3] for at in range(0, len(content), 3)]), "f")
    assert [list(row.values.values()) for row in csv_rows(lines, "f") if isinstance(row, DataRow)] == cells


@settings(max_examples=300)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.text(alphabet='[]{}",:\\ \n\r\tab1;|\ufeff', max_size=40).map(str.encode),
        st.binary(max_size=40).map(lambda data: gzip.compress(data)[:-1] + data[:1]),
        st.binary(max_size=40).map(lambda data: b"PAR1" + data),
    )
)
def test_any_bytes_are_rows_or_one_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("bytes") / "rows"
    path.write_bytes(content)
    try:
        assert all(isinstance(row, dict) for row in values(path))
    except LandraceError as error:
        assert str(path) in error.message


def test_a_chunk_is_small_beside_a_row() -> None:
    """What the tests of memory and of cut pieces rest on."""
    assert CHUNK_BYTES * 16 < MAX_ROW_BYTES
