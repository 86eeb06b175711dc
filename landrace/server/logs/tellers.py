"""What is told of calls, by the operator's options and the environment."""

from __future__ import annotations

from landrace.server.logs.call_lines import CallLines
from landrace.server.logs.options import LogOptions
from landrace.server.logs.redaction import Redactor
from landrace.server.logs.spans import open_spans, spans_wanted
from landrace.server.logs.watch import CallWatch, Teller


def call_watch(options: LogOptions, listens_on: str, redact: Redactor | None) -> CallWatch | None:
    """None where nothing is to be told. `listens_on`: the server's address, in digits."""
    tellers: list[Teller] = []
    # Spans first: texts may take their time in the operator's function.
    if spans_wanted() and (spans := open_spans(addresses=options.addresses)) is not None:
        tellers.append(spans)
    if options.logs_calls(listens_on):
        tellers.append(CallLines(addresses=options.addresses, prompts=options.prompts, redact=redact))
    return CallWatch(tellers) if tellers else None
