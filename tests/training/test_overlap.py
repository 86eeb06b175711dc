"""Rows that are the same, counted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from landrace.training import overlap
from landrace.training.data import ChatRow, CompletionRow
from landrace.training.overlap import count_shared, row_hashes

ROWS = st.lists(
    st.builds(CompletionRow, st.text(max_size=3), st.sampled_from("abcd"), st.sampled_from("xyz")), max_size=12
)


@given(ROWS, ROWS)
def test_rows_are_the_same_by_what_they_say_alone(rows, others):
    told = {(row.prompt, row.completion) for row in others}
    expected = sum((row.prompt, row.completion) in told for row in rows)
    assert count_shared(rows, others) == expected
    packed = row_hashes(others)
    assert packed is not None and count_shared(rows, packed) == expected


def test_chats_and_completions_are_never_the_same():
    chat = ChatRow("f", ({"role": "user", "content": "a"}, {"role": "assistant", "content": "x"}))
    assert count_shared([chat], [CompletionRow("f", "a", "x")]) == 0
    assert count_shared([chat], [ChatRow("g", chat.messages)]) == 1
    assert count_shared([chat], [ChatRow("g", chat.messages, ({"name": "t"},))]) == 0


def test_of_too_many_rows_no_list_is_kept(monkeypatch):
    monkeypatch.setattr(overlap, "_MOST_ROWS", 2)
    rows = [CompletionRow("f", str(n), "x") for n in range(3)]
    assert row_hashes(rows) is None and row_hashes(rows[:2]) is not None


def test_a_record_that_is_not_ours_knows_nothing():
    assert count_shared([CompletionRow("f", "a", "x")], "no base64 ü") == 0
