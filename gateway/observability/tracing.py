"""Spans by OpenTelemetry, exported over OTLP/HTTP as its own environment variables (OTEL_*) say.

A call is a span, child of its caller's (`traceparent`). A batch is one too: child of the first call in it, as
a span has one parent, and linked with all. Its context goes to the server with it. A retry is another batch.
"""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Mapping, Sequence
from functools import cache, partial
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway.core.settings import DeploymentSettings
from gateway.messages import Call, ClassifyCall, EmbeddingCall, RerankCall, Task
from gateway.observability.calls import Ended, Seen
from gateway.pool import Answer, Request, SendError
from gateway.service import Directory

_NO_CONTEXT = Context()
_W3C = TraceContextTextMapPropagator()
_HEADERS = ((b"traceparent", "traceparent"), (b"tracestate", "tracestate"))
_OPERATIONS: Mapping[type[Call] | Task, str] = {
    # `embeddings` is a word of the conventions, which have none for the other two.
    EmbeddingCall: "embeddings", Task.EMBED: "embeddings",
    RerankCall: "rerank", Task.RERANK: "rerank",
    ClassifyCall: "classify", Task.CLASSIFY: "classify",
}  # fmt: skip


@cache
def _named(route: str) -> tuple[str, Mapping[str, str]]:
    """A call's span's name, and the attributes by which it may be sampled."""
    return f"POST {route}", {"http.request.method": "POST", "http.route": route}


class CallSpan:
    """That of one call which is sampled."""

    __slots__ = ("_span", "trace_id")

    def __init__(self, span: Span) -> None:
        self._span = span
        self.trace_id = f"{self.context.trace_id:032x}"

    @property
    def context(self) -> SpanContext:
        return self._span.get_span_context()

    def read(self, call: Call) -> None:
        self._span.set_attribute("gen_ai.operation.name", _OPERATIONS[type(call)])

    def on_batch(self, batch: SpanContext) -> None:
        """Some of its items leave in this one."""
        self._span.add_link(batch)

    def end(self, seen: Seen, ended: Ended) -> None:
        span = self._span
        span.set_attributes({
            "http.response.status_code": ended.status,
            "http.request.body.size": ended.bytes_in,
            "http.response.body.size": ended.bytes_out,
            "gen_ai.request.model": ended.model,
            "gen_ai.usage.input_tokens": seen.tokens,
            "infinity_gateway.request_id": ended.request_id,
            "infinity_gateway.key": ended.key,
            "infinity_gateway.items": ended.items,
            "infinity_gateway.queue_seconds": ended.queue_s,
            "infinity_gateway.upstream_seconds": ended.upstream_s,
        })  # fmt: skip
        if ended.status >= 500:
            span.set_attribute("error.type", str(ended.status))
            span.set_status(StatusCode.ERROR)
        span.end()


class _Ids(RandomIdGenerator):
    """A trace that begins here has the id that was drawn last, by which samplers have decided."""

    def __init__(self) -> None:
        self._drawn = 0

    def draw(self) -> int:
        self._drawn = super().generate_trace_id()
        return self._drawn

    def generate_trace_id(self) -> int:
        return self._drawn


class Tracing:
    """Makes spans, and has them exported by a thread. `close` it."""

    def __init__(self, version: str) -> None:
        resource = Resource.create({SERVICE_VERSION: version})
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: "infinity-gateway"}))
        self._ids = _Ids()
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False, id_generator=self._ids)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("infinity-gateway", version)

    def begin(self, route: str, headers: Mapping[bytes, bytes]) -> CallSpan | None:
        """That of a call, if it is sampled; by its caller's choice, where that has made one."""
        context = _NO_CONTEXT
        if b"traceparent" in headers:
            carrier = {name: headers[key].decode("latin-1") for key, name in _HEADERS if key in headers}
            context = _W3C.extract(carrier, context)
        name, attributes = _named(route)
        # A tracer asks as well, but what it does before and after that costs several times as much.
        drawn = self._ids.draw()
        wanted = self._provider.sampler.should_sample(context, drawn, name, SpanKind.SERVER, attributes)
        if wanted.decision is Decision.DROP:
            return None
        return CallSpan(self._tracer.start_span(name, context, SpanKind.SERVER, attributes))

    def begin_batch(
        self, deployment: DeploymentSettings, request: Request, calls: Sequence[CallSpan]
    ) -> Span:
        operation = _OPERATIONS[request.key.task]
        server = urlsplit(deployment.api_base)
        span = self._tracer.start_span(
            operation,
            set_span_in_context(NonRecordingSpan(calls[0].context), _NO_CONTEXT),
            SpanKind.CLIENT,
            {
                "gen_ai.operation.name": operation,
                "gen_ai.request.model": deployment.server_model or "",
                "server.address": server.hostname or "",
                "server.port": server.port or {"https": 443}.get(server.scheme, 80),
                "infinity_gateway.deployment": deployment.name,
                "infinity_gateway.items": len(request.items),
                "infinity_gateway.calls": len(calls),
            },
            [Link(call.context) for call in calls],
        )
        context = span.get_span_context()
        for call in calls:
            call.on_batch(context)
        return span

    def traced(self, upstream: Directory) -> "TracedUpstream":
        return TracedUpstream(upstream, self)

    async def close(self, timeout_s: float) -> None:
        """Export what has not been yet, for so long at most: whoever takes it may hang."""
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def shut_down() -> None:
            self._provider.shutdown()
            with contextlib.suppress(RuntimeError):  # the loop has not waited
                loop.call_soon_threadsafe(done.set)

        threading.Thread(target=shut_down, name="traces", daemon=True).start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await done.wait()


class TracedUpstream:
    """The servers, with a span for each batch that has a call which is sampled."""

    def __init__(self, upstream: Directory, tracing: Tracing) -> None:
        self._upstream = upstream
        self._tracing = tracing
        self.inspect = upstream.inspect
        self.spent_s = upstream.spent_s
        self.models = upstream.models
        self.forget = upstream.forget

    def send(self, deployment: DeploymentSettings, request: Request, timeout_s: float) -> Awaitable[Answer]:
        calls = [call for call in request.traces if isinstance(call, CallSpan)]
        if not calls:
            return self._upstream.send(deployment, request, timeout_s)
        span = self._tracing.begin_batch(deployment, request, calls)
        request = request._replace(head=_head(span.get_span_context()))
        try:
            answer = asyncio.ensure_future(  # noqa: TID251 - whoever has asked owns it
                self._upstream.send(deployment, request, timeout_s)
            )
        except Exception as error:
            _end(span, type(error).__name__)
            raise
        answer.add_done_callback(partial(_on_answer, span))
        return answer


def _on_answer(span: Span, answer: asyncio.Future[Answer]) -> None:
    if answer.cancelled():
        _end(span, "cancelled")
    elif error := answer.exception():
        _end(span, error.failure.value if isinstance(error, SendError) else type(error).__name__)
    else:
        span.set_attribute("gen_ai.usage.input_tokens", answer.result().tokens)
        span.end()


def _end(span: Span, kind: str) -> None:
    """As failed. What the error says stays out: it may quote the input."""
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR)
    span.end()


def _head(context: SpanContext) -> bytes:
    """The header lines with which a server continues the trace."""
    lines = f"traceparent: 00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}\r\n"
    if context.trace_state:
        lines += f"tracestate: {context.trace_state.to_header()}\r\n"
    return lines.encode()
