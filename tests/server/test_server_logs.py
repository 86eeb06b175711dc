"""What a server writes on stderr of the calls it answers, and what it sends of them to a collector."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from patience import SECONDS

from landrace.errors import OptionError
from landrace.ledger.conversations import Exchange
from landrace.server.access.caller import ANYONE
from landrace.server.access.tally import Tally
from landrace.server.logs.call_lines import CallLines
from landrace.server.logs.ended_call import EndedCall
from landrace.server.logs.lines import JsonLines, TextLines
from landrace.server.logs.options import LogOptions
from landrace.server.logs.redaction import RedactionError, Redactor

CHAT = "/v1/chat/completions"
REDACTION = """
import re

def numbers(text):
    if "trouble" in text:
        raise ValueError(text)
    return re.sub(r"[0-9]", "#", text)

def nothing(text):
    return None
"""


class Collector:
    """An OTLP endpoint that keeps what it is sent."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        bodies = self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.http = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.http.shutdown()


@pytest.fixture(scope="module")
def redaction(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("redaction") / "hide.py"
    file.write_text(REDACTION)
    return file


@pytest.fixture(scope="module")
def logged(start_server: Any, tiny_model: Path, redaction: Path, collector: Collector) -> Any:
    arguments = ("--log-format", "json", "--log-prompts", "--redact", f"{redaction}:numbers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        return start_server(str(tiny_model), *arguments)


def line_of(server: Any, request_id: str) -> dict[str, Any]:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        for line in list(server.lines):
            told = json.loads(line)
            if told.get("request_id") == request_id and told["logger"] == "landrace.calls":
                return dict(told)
        time.sleep(0.05)
    raise AssertionError(server.log)


def post(server: Any, request_id: str, path: str = CHAT, **body: Any) -> Any:
    headers = {"x-request-id": request_id, "traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}
    return server.http.post(f"{server.url}{path}", json={"max_tokens": 3, "temperature": 0, **body}, headers=headers)


def test_a_call_is_a_line_of_json(logged: Any, tiny_model: Path) -> None:
    messages = [{"role": "user", "content": "Card 1234\n\x1b[31m"}]
    reply = post(logged, "one", model=str(tiny_model), messages=messages).json()
    line = line_of(logged, "one")
    assert line["response_id"] == reply["id"]
    assert (line["method"], line["route"], line["status"], line["model"]) == ("POST", CHAT, 200, str(tiny_model))
    assert (line["prompt_tokens"], line["generated_tokens"]) == (reply["usage"]["prompt_tokens"], 3)
    assert (line["cached_tokens"], line["finish_reason"]) == (0, "length")
    assert 0 < line["first_token_seconds"] <= line["seconds"]
    assert "Card ####\n\x1b[" in line["prompts"][0] and "<|im_start|>user" in line["prompts"][0]
    assert len(line["answers"]) == 1
    assert "1234" not in logged.log and "\x1b" not in logged.log


def test_what_cannot_be_redacted_is_not_logged(logged: Any, tiny_model: Path) -> None:
    messages = [{"role": "user", "content": "trouble with 1234"}]
    assert post(logged, "two", model=str(tiny_model), messages=messages, stream=True).status_code == 200
    line = line_of(logged, "two")
    assert line["texts_left_out"] == "The redaction function raised ValueError."
    assert line["generated_tokens"] == 3 and "prompts" not in line and "trouble" not in logged.log


def test_refusals_have_their_code_and_paths_that_are_none_themselves(logged: Any) -> None:
    post(logged, "three", model="nosuch" * 100, messages=[{"role": "user", "content": "Hi"}])
    assert (line_of(logged, "three")["status"], line_of(logged, "three")["error"]) == (404, "model_not_found")
    assert len(line_of(logged, "three")["model"]) < 300
    post(logged, "four", path="/v1/v1/chat")
    line = line_of(logged, "four")
    assert (line["path"], line["error"], "route" in line) == ("/v1/v1/chat", "unknown_url", False)


def test_probes_that_succeed_are_no_lines(logged: Any) -> None:
    assert logged.get("/health").status_code == 200
    post(logged, "five", path="/nosuch")
    line_of(logged, "five")
    assert "/health" not in logged.log


def test_calls_are_spans(logged: Any, tiny_model: Path, collector: Collector) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra telemetry is not installed")
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    reply = post(logged, "six", model=str(tiny_model), messages=[{"role": "user", "content": "Hi"}]).json()
    end, spans = time.monotonic() + SECONDS, {}
    while "generation" not in spans and time.monotonic() < end:
        time.sleep(0.05)
        sent = [ExportTraceServiceRequest.FromString(body) for body in list(collector.bodies)]
        every = [
            span for one in sent for part in one.resource_spans for scope in part.scope_spans for span in scope.spans
        ]
        own = [span for span in every if any(a.value.string_value == reply["id"] for a in span.attributes)]
        ids = {span.span_id for span in own}
        spans = {span.name: span for span in [*own, *(span for span in every if span.parent_span_id in ids)]}
    whole = spans[f"POST {CHAT}"]
    assert (whole.trace_id, whole.parent_span_id) == (b"\xab" * 16, b"\xcd" * 8)
    told = {one.key: one.value for one in whole.attributes}
    assert told["gen_ai.operation.name"].string_value == "chat"
    assert told["gen_ai.request.model"].string_value == str(tiny_model)
    assert told["gen_ai.usage.output_tokens"].int_value == 3
    assert told["http.response.status_code"].int_value == 200
    times = [spans[name] for name in ("queue", "prompt", "generation")]
    assert all(one.parent_span_id == whole.span_id for one in times)
    assert whole.start_time_unix_nano <= times[0].start_time_unix_nano
    assert [one.end_time_unix_nano for one in times[:2]] == [one.start_time_unix_nano for one in times[1:]]
    names = {
        a.key: a.value.string_value for one in sent for part in one.resource_spans for a in part.resource.attributes
    }
    assert names["service.name"] == "landrace"


def test_lines_of_text_cannot_be_forged() -> None:
    tally = Tally()
    tally.model = 'x\n2026 INFO call status=200 \x1b[2J" key=boss'
    call = EndedCall("POST", "/a b", None, 404, "model_not_found", "r", ANYONE, tally, "10.0.0.1", {}, 1.5, 0.25)
    record = logging.makeLogRecord({"msg": "call", "levelname": "INFO", "created": call.ended})
    record.fields = CallLines().fields(call)
    line = TextLines().format(record)
    assert line.startswith('1970-01-01T00:00:01.750Z INFO call request_id=r method=POST path="/a b" model=')
    assert "\n" not in line and "\x1b" not in line and '\\" key=boss"' in line and "10.0.0.1" not in line
    assert json.loads(JsonLines().format(record))["model"] == tally.model


def test_tracebacks_are_indented_in_text_and_a_field_in_json() -> None:
    try:
        raise ValueError("bad\n2026 INFO call\x1b")
    except ValueError as error:
        record = logging.makeLogRecord({"msg": "Failed.", "exc_info": (type(error), error, error.__traceback__)})
    first, *rest = TextLines().format(record).split("\n")
    assert first.endswith("Failed.") and all(line.startswith("    ") for line in rest) and "\x1b" not in "".join(rest)
    assert json.loads(JsonLines().format(record))["traceback"].endswith("2026 INFO call\x1b")


def test_when_calls_are_lines() -> None:
    assert not LogOptions().logs_calls("127.0.0.1") and LogOptions().logs_calls("0.0.0.0")
    assert LogOptions(prompts=True).logs_calls("::1") and not LogOptions(calls=False).logs_calls("0.0.0.0")
    with pytest.raises(OptionError, match="--no-log-calls"):
        LogOptions(calls=False, prompts=True)
    with pytest.raises(OptionError, match="text or json"):
        LogOptions("xml")  # type: ignore[arg-type]


@pytest.mark.parametrize("place", ["numbers", "{0}:missing", "{0}:nothing", "no_such_module:f", "{0}.py:f"])
def test_a_function_that_is_none_is_told_at_the_start(redaction: Path, place: str) -> None:
    with pytest.raises(OptionError, match="--redact"):
        Redactor.load(place.format(redaction))


def test_conversations_are_redacted_and_keep_their_form(redaction: Path) -> None:
    redact = Redactor.load(f"{redaction}:numbers")
    call = {"id": "call_1", "type": "function", "function": {"name": "f1", "arguments": '{"card": "12"}'}}
    messages = [{"role": "user", "name": "A1", "content": [{"type": "text", "text": "12"}]}, {"tool_calls": [call]}]
    kept = redact.exchange(Exchange("r1", 0, "c1", "m1", messages, {"role": "assistant", "content": "34"}, "stop"))
    assert kept.messages[0] == {"role": "user", "name": "A#", "content": [{"type": "text", "text": "##"}]}
    assert kept.messages[1]["tool_calls"][0] == {**call, "function": {"name": "f1", "arguments": '{"card": "##"}'}}
    assert kept.answer == {"role": "assistant", "content": "##"} and kept.response_id == "r1"
    with pytest.raises(RedactionError) as raised:
        redact("trouble 12")
    assert "12" not in raised.value.message
