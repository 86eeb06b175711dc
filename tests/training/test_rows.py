"""Rows are read exactly or refused by line."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from landrace.data.row import MAX_ROW_BYTES
from landrace.errors import DataError
from landrace.training.data import (
    ChatRow,
    CompletionRow,
    ExcludedRow,
    TextRow,
    parse_row,
    read_rows,
    rows_sha256,
)

GOOD = '{"prompt": "a", "completion": "b"}'


def chat(*messages):
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in messages]})


def test_both_formats_in_one_file(jsonl):
    lines = (
        GOOD,
        "",
        '{"messages": [{"role": "user", "content": "Zdravo"}, {"role": "assistant", "content": "你好"}]}',
    )
    path = jsonl(b"\xef\xbb\xbf" + lines[0].encode(), *lines[1:])
    completion, conversation = read_rows(path)
    assert completion == CompletionRow(f"{path}, line 1", "a", "b")
    assert isinstance(conversation, ChatRow)
    assert conversation.where == f"{path}, line 3"
    assert conversation.messages[1]["content"] == "你好"


def test_extra_keys_are_left_alone(jsonl):
    (row,) = read_rows(jsonl('{"prompt": "a", "completion": "b", "intent": "refund"}'))
    assert row.completion == "b"


BAD = {
    "not JSON": ("{", "not JSON"),
    "not UTF-8": (b'{"prompt": "\xff"}', "UTF-8"),
    "not an object": ("[1]", "a list, not an object"),
    "number": ("3", "a number"),
    "no format": ('{"x": "y"}', "neither"),
    "two formats": ('{"prompt": "a", "completion": "b", "messages": []}', "both"),
    "no completion": ('{"prompt": "a"}', "'completion' is missing"),
    "empty completion": ('{"prompt": "a", "completion": " "}', "'completion' is empty"),
    "completion not text": ('{"prompt": "a", "completion": 3}', "'completion' is a number, not a string"),
    "no messages": ('{"messages": []}', "at least one message"),
    "message not an object": ('{"messages": ["hi"]}', "message 1 is a string"),
    "no role": ('{"messages": [{"content": "x"}]}', "'role' of message 1 is missing"),
    "parts": ('{"messages": [{"role": "user", "content": [{"type": "text"}]}]}', "'content' of message 1 is a list"),
    "no assistant": (chat(("user", "hi")), "no message has the role 'assistant'"),
    "assistant first": (chat(("assistant", "hi"), ("user", "x")), "nothing that it answers"),
    "empty answer": (chat(("user", "hi"), ("assistant", "\n")), "'content' of message 2 is empty"),
    "null answer": (
        '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": null}]}',
        "missing",
    ),
    "tools": (
        '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], "tools": 3}',
        "tools",
    ),
    "surrogate": ('{"prompt": "\\ud800", "completion": "b"}', "surrogate"),
    "deep": ("[" * 100_000, "nested too deep"),
    "long number": ('{"prompt": ' + "1" * 10_000 + "}", "number too long"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rows_name_file_and_line(jsonl, name):
    line, said = BAD[name]
    path = jsonl(GOOD, line)
    with pytest.raises(DataError) as caught:
        read_rows(path)
    assert f"{path}, line 2: " in caught.value.message
    assert said in caught.value.message


def test_a_tool_call_may_have_no_content(jsonl):
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    (read,) = read_rows(jsonl(json.dumps({"messages": turns})))
    assert read.messages[1]["tool_calls"] == [call]


def test_endless_line_is_not_read_whole(jsonl):
    with pytest.raises(DataError, match="line 1: the line is longer than 16 MiB"):
        read_rows(jsonl(b" " * (MAX_ROW_BYTES + 1)))


def test_absent_and_empty_files(tmp_path, jsonl):
    with pytest.raises(DataError, match="cannot be read"):
        read_rows(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="has no rows"):
        read_rows(jsonl("", " "))


def test_hash_is_of_content():
    rows = [parse_row({"prompt": "a", "completion": "b"}, where) for where in ("x, line 1", "y, line 7")]
    other = parse_row({"prompt": "a", "completion": "c"}, "x, line 1")
    assert rows_sha256(rows[:1]) == rows_sha256(rows[1:])
    assert rows_sha256([other]) != rows_sha256(rows[:1])


KEYS = [
    *("messages", "conversations", "prompt", "completion", "role", "content", "from", "value", "type", "text"),
    *("tools", "tool_calls", "function", "name", "arguments", "instruction", "output", "history", "weight", "system"),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.sampled_from(["user", "gpt", "assistant", "{}"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_value_is_a_row_or_a_data_error(value):
    try:
        row = parse_row(value, "f, line 1")
    except DataError as error:
        assert error.message.startswith("f, line 1: ")
    else:
        assert isinstance(row, (ChatRow, CompletionRow, TextRow, ExcludedRow))
