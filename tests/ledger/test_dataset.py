"""Training rows out of kept conversations: every exchange is a row or counted, and none says what nobody meant."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from landrace.ledger.conversations import Exchange, Feedback
from landrace.ledger.dataset import ROW_KINDS, build_dataset

ASKED = ({"role": "user", "content": "When do you open?"},)


def exchange(n: int, answer: str = "", *, finish: str = "stop", messages: Any = ASKED, **more: Any) -> Exchange:
    said = {"role": "assistant", "content": answer or f"Answer {n}"}
    return Exchange(f"r{n}", more.pop("choice", 0), f"c{n}", "m", messages, said, finish, **more)


def rows(kind: str, exchanges: list[Exchange], feedback: list[Feedback]) -> list[dict[str, Any]]:
    return build_dataset(exchanges, feedback, kind, validation=0.0).train


def test_what_was_good_is_learned_and_what_was_corrected_too() -> None:
    exchanges = [exchange(n) for n in range(5)] + [exchange(5, finish="length")]
    said = [
        Feedback("r0", rating="up"),
        Feedback("r1", rating="down"),
        Feedback("r2", rating="down", correction="At nine."),
        Feedback("r3", comment="hm"),
        Feedback("r5", rating="up"),
        Feedback("nobody", rating="up"),
    ]
    found = build_dataset(exchanges, said, "sft", validation=0.0)
    assert [row["messages"][-1]["content"] for row in found.train] == ["Answer 0", "At nine."]
    assert dict(found.left_out) == {
        "rated down, without a correction": 1,
        "nobody said anything of the answer": 2,
        "the answer ended with length": 1,
    }


def test_a_correction_is_preferred_to_what_it_corrects() -> None:
    (row,) = rows("preference", [exchange(1)], [Feedback("r1", rating="down", correction="At nine.")])
    assert row == {
        "prompt": list(ASKED),
        "chosen": [{"role": "assistant", "content": "At nine."}],
        "rejected": [{"role": "assistant", "content": "Answer 1"}],
    }


def test_of_two_answers_to_one_prompt_the_better_is_preferred() -> None:
    both = [exchange(1, "Good"), exchange(2, "Bad")]
    said = [Feedback("r1", rating="up"), Feedback("r2", rating="down")]
    (row,) = rows("preference", both, said)
    assert (row["chosen"][0]["content"], row["rejected"][0]["content"]) == ("Good", "Bad")
    other = ({"role": "user", "content": "And on Sundays?"},)
    assert rows("preference", [both[0], exchange(2, "Bad", messages=other)], said) == []


def test_the_last_word_counts() -> None:
    said = [Feedback("r1", rating="up"), Feedback("r1", rating="down"), Feedback("r1", comment="so there")]
    assert rows("sft", [exchange(1)], said) == []
    assert [row["label"] for row in rows("kto", [exchange(1)], said)] == [False]


def test_labels_are_of_the_answer_and_of_its_correction() -> None:
    found = rows("kto", [exchange(1)], [Feedback("r1", correction="At nine.")])
    assert [(row["completion"][0]["content"], row["label"]) for row in found] == [
        ("Answer 1", False),
        ("At nine.", True),
    ]


def test_what_is_said_twice_is_written_once_and_tools_stay() -> None:
    tools = ({"type": "function", "function": {"name": "hours", "parameters": {}}},)
    twice = [exchange(1, "Same", tools=tools), exchange(2, "Same", tools=tools)]
    found = build_dataset(twice, [Feedback(f"r{n}", rating="up") for n in (1, 2)], "sft", validation=0.0)
    assert [row["tools"] for row in found.train] == [list(tools)]
    assert dict(found.left_out) == {"says the same as another row": 1}


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from(["stop", "length"]), st.sampled_from(["up", "down", "fix", None])),
        max_size=30,
    ),
    st.sampled_from(ROW_KINDS),
    st.sampled_from([0.0, 0.3, 0.9]),
)
def test_no_conversation_is_on_both_sides(drawn: list[tuple[int, str, Any]], kind: str, validation: float) -> None:
    exchanges, said = [], []
    for n, (conversation, finish, rating) in enumerate(drawn):
        asked = ({"role": "user", "content": f"Conversation {conversation}"},)
        own = exchange(n, finish=finish, messages=asked)
        exchanges.append(Exchange(**{**vars(own), "conversation": str(conversation)}))
        if rating == "fix":
            said.append(Feedback(f"r{n}", correction=f"Better {n}"))
        elif rating:
            said.append(Feedback(f"r{n}", rating=rating))
    found = build_dataset(exchanges, said, kind, validation=validation)
    sides = [
        {json.dumps((row.get("prompt") or row["messages"])[0]) for row in side}
        for side in (found.train, found.validation)
    ]
    assert not sides[0] & sides[1]
    if kind == "sft":
        assert len(found.train) + len(found.validation) + sum(found.left_out.values()) == len(exchanges)


@pytest.mark.parametrize("kind", ROW_KINDS)
def test_nothing_gives_nothing(kind: str) -> None:
    assert rows(kind, [], []) == []
