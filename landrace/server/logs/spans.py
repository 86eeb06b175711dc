"""OpenTelemetry spans of calls, where the environment asks for them and the extra `telemetry` is installed.

Names of attributes: OpenTelemetry's semantic conventions of HTTP servers, and those of generative AI.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from landrace import __version__
from landrace.server.logs.ended_call import EndedCall

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.util.types import AttributeValue

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_SPOKEN = "http/protobuf"
_OPERATIONS = {"completion": "text_completion", "embedding": "embeddings", "rerank": "rerank", "score": "score"}
"""Of a call's kind; all others are chats. The conventions have no word for the last two."""
_NANO = 1_000_000_000
_log = logging.getLogger(__name__)


def spans_wanted() -> bool:
    """Whether the environment names where spans go."""
    switched_off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    unwanted = os.environ.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp"
    return any(os.environ.get(name) for name in _ENDPOINTS) and not (switched_off or unwanted)


def open_spans(*, addresses: bool) -> CallSpans | None:
    """What sends spans to where the environment says, as `CallSpans` has it. None, and a line in the log, where that
    cannot be."""
    protocol = next((os.environ[name] for name in _PROTOCOLS if os.environ.get(name)), _SPOKEN)
    if protocol != _SPOKEN:
        _log.warning("No spans are sent: OpenTelemetry's protocol is to be %s, and this speaks %s.", protocol, _SPOKEN)
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        _log.warning("No spans are sent, though the environment asks for them: install landrace[telemetry].")
        return None
    return CallSpans(BatchSpanProcessor(OTLPSpanExporter()), addresses=addresses)


class CallSpans:
    """Makes a span of each call that ended, with those of waiting, prompt and generation in it."""

    def __init__(self, processor: SpanProcessor, *, addresses: bool = False) -> None:
        """`processor`: what takes the spans. `addresses`: with the client's."""
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        resource = Resource.create({"service.version": __version__})
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):  # the environment gives no name
            resource = resource.merge(Resource({SERVICE_NAME: "landrace"}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("landrace.server", __version__)
        self._read_trace = TraceContextTextMapPropagator().extract
        self._addresses = addresses

    def tell(self, call: EndedCall) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        span = self._tracer.start_span(
            f"{call.method} {call.route}" if call.route else call.method,
            self._read_trace(call.trace),
            SpanKind.SERVER,
            _attributes(call, addresses=self._addresses),
            start_time=_nano(call.arrived),
        )
        if call.status >= 500 or (call.error is not None and call.status < 400):
            span.set_status(Status(StatusCode.ERROR))
        inside = set_span_in_context(span)
        for name, (start, end) in _parts(call).items():
            part = self._tracer.start_span(name, inside, start_time=_nano(call.arrived + start))
            part.end(_nano(call.arrived + end))
        span.end(_nano(call.ended))

    def close(self) -> None:
        self._provider.shutdown()


def _attributes(call: EndedCall, *, addresses: bool) -> Mapping[str, AttributeValue]:
    tally, counts = call.tally, call.tally.counts
    told: dict[str, AttributeValue | None] = {
        "http.request.method": call.method,
        "http.route": call.route,
        "url.path": call.path,
        "http.response.status_code": call.status,
        "http.response.header.x-request-id": None if call.request_id is None else [call.request_id],
        "client.address": call.address if addresses else None,
        "error.type": call.error,
        "gen_ai.request.model": tally.model,
    }
    if tally.kind is not None:
        told |= {
            "gen_ai.provider.name": "landrace",
            "gen_ai.operation.name": _OPERATIONS.get(tally.kind, "chat"),
            "gen_ai.response.id": tally.answer_id,
            "gen_ai.response.finish_reasons": [choice.finish_reason or "none" for choice in tally.choices],
            "gen_ai.usage.input_tokens": counts.prompt_tokens,
            "gen_ai.usage.cache_read.input_tokens": counts.cached_tokens,
            "gen_ai.usage.output_tokens": counts.completion_tokens,
        }
    return {name: value for name, value in told.items() if value is not None}


def _parts(call: EndedCall) -> Mapping[str, tuple[float, float]]:
    """Start and end of each, in seconds from the call's arrival: of all choices together."""
    choices = call.tally.choices
    firsts = [choice.first_token_seconds for choice in choices if choice.first_token_seconds is not None]
    if not firsts:
        return {}
    begun = call.answering_after
    queued = min(choice.queue_seconds for choice in choices)
    first, last = min(firsts), max(choice.seconds for choice in choices)
    times = {"queue": (0.0, queued), "prompt": (queued, first), "generation": (first, last)}
    return {name: (begun + start, begun + max(start, end)) for name, (start, end) in times.items()}


def _nano(seconds: float) -> int:
    return int(seconds * _NANO)
