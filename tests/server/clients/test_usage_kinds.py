"""Every call leaves a row in the ledger that says which API it came by."""

from __future__ import annotations

from typing import Any

from patience import wait_until

from landrace.ledger import Ledger

HELLO = [{"role": "user", "content": "a"}]
CALLS = [
    ("response", "/v1/responses", {"input": "a", "max_output_tokens": 2}),
    ("message", "/v1/messages", {"messages": HELLO, "max_tokens": 2}),
    ("ollama", "/api/chat", {"messages": HELLO, "options": {"num_predict": 2}}),
    ("ollama", "/api/generate", {"prompt": "a", "options": {"num_predict": 2}, "stream": False}),
    ("embedding", "/api/embed", {"input": "a"}),
]


def test_every_call_leaves_a_row_of_its_kind(reciting: Any) -> None:
    def kinds() -> list[str]:
        with Ledger(reciting.server.ledger) as ledger:
            return [row.kind for row in ledger.usage()]

    for kind, path, fields in CALLS:
        before = kinds().count(kind)
        reply = reciting.server.post(path, {"model": reciting.calls, **fields})
        assert reply.status_code == 200, reply.text
        wait_until(lambda kind=kind, before=before: kinds().count(kind) == before + 1)
