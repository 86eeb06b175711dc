"""`Exchanges`: conversations that were kept, and what people said of their answers, as rows."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select

from landrace.errors import DataError
from landrace.ledger.conversations import Exchange, Feedback
from landrace.ledger.database import Database
from landrace.ledger.tables import EXCHANGES, FEEDBACK
from landrace.ledger.values import plain_text, stamp


class Exchanges:
    """Of one ledger. Raises what `Ledger` raises."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, exchange: Exchange) -> None:
        """Keeps an exchange; one of the same response and choice that is there already stays as it is."""
        row = {
            **{name: getattr(exchange, name) for name in _EXCHANGE_FIELDS},
            "messages": _json(list(exchange.messages)),
            "answer": _json(dict(exchange.answer)),
            "tools": _json(list(exchange.tools)),
            "created": stamp(exchange.created),
        }
        with self._database.transaction() as connection:
            if connection.execute(_same(exchange.response_id, exchange.choice)).first() is None:
                connection.execute(insert(EXCHANGES).values(row))

    def add_feedback(self, feedback: Feedback) -> int:
        """Keeps what was said; returns its number. What is said later of the same answer counts more."""
        row = {
            **{name: getattr(feedback, name) for name in _FEEDBACK_FIELDS},
            "correction": None if feedback.correction is None else plain_text(feedback.correction),
            "comment": None if feedback.comment is None else plain_text(feedback.comment),
            "created": stamp(feedback.created),
        }
        with self._database.transaction() as connection:
            key: Any = connection.execute(insert(FEEDBACK).values(row)).inserted_primary_key
        return int(key[0])

    def knows(self, response_id: str, choice: int) -> bool:
        """Whether the texts of an answer are kept."""
        return bool(self._database.rows(_same(response_id, choice)))

    def all(self, *, since: datetime | None = None, until: datetime | None = None) -> list[Exchange]:
        """From `since` up to, not including, `until`; oldest first."""
        wanted = select(EXCHANGES).where(*_within(EXCHANGES.c.created, since, until)).order_by(EXCHANGES.c.id)
        return [
            Exchange(
                **{name: getattr(row, name) for name in _EXCHANGE_FIELDS},
                messages=json.loads(row.messages),
                answer=json.loads(row.answer),
                tools=json.loads(row.tools),
                created=datetime.fromisoformat(row.created),
            )
            for row in self._database.rows(wanted)
        ]

    def feedback(self, *, since: datetime | None = None, until: datetime | None = None) -> list[Feedback]:
        """From `since` up to, not including, `until`; oldest first."""
        wanted = select(FEEDBACK).where(*_within(FEEDBACK.c.created, since, until)).order_by(FEEDBACK.c.id)
        return [_feedback_of_row(row) for row in self._database.rows(wanted)]

    def latest_feedback(self, count: int) -> list[Feedback]:
        """The newest first."""
        wanted = select(FEEDBACK).order_by(FEEDBACK.c.id.desc()).limit(count)
        return [_feedback_of_row(row) for row in self._database.rows(wanted)]


_EXCHANGE_FIELDS = ("response_id", "choice", "conversation", "model", "finish_reason", "key_id", "team")
_FEEDBACK_FIELDS = ("response_id", "choice", "rating", "key_id", "team")


def _feedback_of_row(row: Any) -> Feedback:
    return Feedback(
        **{name: getattr(row, name) for name in _FEEDBACK_FIELDS},
        correction=row.correction,
        comment=row.comment,
        created=datetime.fromisoformat(row.created),
    )


def _same(response_id: str, choice: int) -> Any:
    return select(EXCHANGES.c.id).where(EXCHANGES.c.response_id == response_id, EXCHANGES.c.choice == choice)


def _within(column: Any, since: datetime | None, until: datetime | None) -> list[Any]:
    bounds = []
    if since is not None:
        bounds.append(column >= stamp(since))
    if until is not None:
        bounds.append(column < stamp(until))
    return bounds


def _json(value: Any) -> str:
    try:
        return plain_text(json.dumps(value, ensure_ascii=False, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"A conversation cannot be written as JSON: {error}.") from error
