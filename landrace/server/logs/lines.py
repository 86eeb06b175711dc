"""How log records are written on stderr: a line each, in which nothing that a client sent is obeyed by a terminal."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from landrace.safe_text import shown, shown_line
from landrace.server.logs.options import LogFormat
from landrace.server.logs.running_call import current_request_id

FIELDS = "fields"
"""The attribute of a record that holds further fields, by name."""
_INDENT = "    "
_BARE = re.compile(r"[^\s\"=]+")


@contextmanager
def logging_to_stderr(form: LogFormat) -> Iterator[None]:
    """What this process logs is written so as long as it lasts."""
    root = logging.getLogger()
    handler = start_logging(form)
    try:
        yield
    finally:
        root.removeHandler(handler)
        logging.captureWarnings(False)


def start_logging(form: LogFormat) -> logging.Handler:
    """What this process logs is written so from now on, the warnings of libraries included."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.getLogger().addHandler(handler)
    logging.captureWarnings(True)
    return handler


class TextLines(logging.Formatter):
    """`TIME LEVEL MESSAGE name=value ...`. A traceback follows, each of its lines indented."""

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record)
        message = shown_line(record.getMessage().strip())
        pairs = [f"{name}={_value(value)}" for name, value in fields.items()]
        line = " ".join([_time(record), record.levelname, message, *pairs])
        return "\n".join([line, *(_INDENT + one for one in shown(_trace(self, record)).splitlines())])


class JsonLines(logging.Formatter):
    """A JSON object a line, in ASCII: everything else is escaped."""

    def format(self, record: logging.LogRecord) -> str:
        told = {"time": _time(record), "level": record.levelname.lower(), "message": record.getMessage().strip()}
        trace = _trace(self, record)
        more = {"logger": record.name, **({"traceback": trace} if trace else {})}
        return json.dumps({**told, **_fields(record), **more}, default=str)


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    """Those of the record; of one without any, the id of the call that it was logged in."""
    given = getattr(record, FIELDS, None)
    if given is not None:
        return dict(given)
    request = current_request_id()
    return {} if request is None else {"request_id": request}


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    # The text that other handlers may have left is not used: it is theirs.
    return formatter.formatException(record.exc_info) if record.exc_info and record.exc_info[0] else ""


def _value(value: Any) -> str:
    """A text with spaces, or such as could be taken for another pair, stands in quotes, as JSON has it."""
    if isinstance(value, str):
        safe = shown_line(value)
        return safe if _BARE.fullmatch(safe) else json.dumps(safe, ensure_ascii=False)
    return json.dumps(value, default=str)
