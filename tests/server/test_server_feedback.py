"""From served to tuned: an answer is kept with consent, rated over the API, exported, and read by `tune`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from landrace.ledger import Ledger
from landrace.training.data import read_rows

ASKED = [{"role": "user", "content": "When do you open?"}]


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ledger") / "book.sqlite"


@pytest.fixture(scope="module")
def keeping(start_server: Callable[..., Any], tiny_model: Path, book: Path) -> Any:
    return start_server(str(tiny_model), "--keep-conversations", ledger=book)


def ask(server: Any, model: Path, **more: Any) -> Any:
    return server.client.chat.completions.create(
        model=str(model), messages=ASKED, max_tokens=4, extra_body={"ignore_eos": False}, **more
    )


def say(server: Any, **body: Any) -> Any:
    answer = server.post("/v1/feedback", body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_only_what_was_agreed_to_is_kept(keeping: Any, tiny_model: Path, book: Path) -> None:
    plain = ask(keeping, tiny_model)
    kept = ask(keeping, tiny_model, store=True, n=2)
    stream = keeping.client.chat.completions.create(
        model=str(tiny_model), messages=ASKED, max_tokens=4, store=True, stream=True
    )
    streamed = {chunk.id for chunk in stream}.pop()
    assert not say(keeping, response_id=plain.id, rating="up")["text_kept"]
    assert say(keeping, response_id=kept.id, choice=1, rating="down", correction="At nine.")["text_kept"]
    assert say(keeping, response_id=streamed, rating="up", comment="fine")["text_kept"]
    with Ledger(book) as ledger:
        found = {(one.response_id, one.choice): one for one in ledger.exchanges.all()}
        assert found.keys() == {(kept.id, 0), (kept.id, 1), (streamed, 0)}
        assert found[kept.id, 1].answer["content"] == kept.choices[1].message.content
        assert list(found[kept.id, 1].messages) == ASKED
        assert len({one.conversation for one in found.values()}) == 1


def test_a_rating_may_bring_its_conversation(keeping: Any, tiny_model: Path) -> None:
    answer = ask(keeping, tiny_model)
    told = say(keeping, response_id=answer.id, rating="up", messages=ASKED, answer="At nine.", model=str(tiny_model))
    assert told["text_kept"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "response_id"),
        ({"response_id": "a b", "rating": "up"}, "response_id"),
        ({"response_id": "a"}, "rating"),
        ({"response_id": "a", "rating": "five"}, "rating"),
        ({"response_id": "a", "rating": "up", "messages": ASKED}, "messages"),
        ({"response_id": "a", "rating": "up", "stars": 5}, "stars"),
    ],
)
def test_what_says_nothing_is_refused_by_name(keeping: Any, body: Any, param: str) -> None:
    answer = keeping.post("/v1/feedback", body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_a_server_that_keeps_nothing_says_so(server: Any, tiny_model: Path) -> None:
    chat = {"model": str(tiny_model), "messages": ASKED, "store": True}
    assert server.post("/v1/chat/completions", chat).json()["error"]["param"] == "store"
    texts = {"messages": ASKED, "answer": "x", "model": "m", "response_id": "r", "rating": "up"}
    assert server.post("/v1/feedback", texts).json()["error"]["param"] == "messages"


def test_what_was_served_can_be_tuned_on(keeping: Any, tiny_model: Path, book: Path, tmp_path: Path) -> None:
    for n in range(12):
        told = [{"role": "user", "content": f"Question {n}"}]
        answer = keeping.client.chat.completions.create(model=str(tiny_model), messages=told, max_tokens=3, store=True)
        say(keeping, response_id=answer.id, correction=f"Reply {n}")
    out = tmp_path / "rows.jsonl"

    def export(*more: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "landrace", "dataset", "export", "--ledger", str(book), "--out", str(out)]
        done = subprocess.run([*command, "--json", *more], capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    counts = export("--validation", "0.4")
    beside = tmp_path / "rows.validation.jsonl"
    rows = [json.loads(line) for path in (out, beside) for line in path.read_text().splitlines()]
    assert len(rows) == counts["train"] + counts["validation"] >= 12
    assert counts["validation"] > 0
    replies = {row["messages"][-1]["content"] for row in rows}
    assert {f"Reply {n}" for n in range(12)} <= replies
    assert len(read_rows(out, {})) == counts["train"]
