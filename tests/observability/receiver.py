"""A receiver of OTLP over HTTP, as a collector has it."""

import asyncio
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


class Exported(NamedTuple):
    """A span as it came. Ids are hexadecimal."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    trace_state: str
    links: frozenset[str]
    """The ids of the spans."""
    attributes: Mapping[str, Any]
    is_error: bool
    message: str
    events: int
    service: str
    lasted_ns: int


class Receiver:
    """An async context manager. `raw` has the bodies that came."""

    def __init__(self) -> None:
        self.spans: list[Exported] = []
        self.raw: list[bytes] = []
        self.holds: asyncio.Event | None = None
        """While it is not set, exports are not answered."""
        self._came = asyncio.Event()
        self._runner: web.AppRunner

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.router.add_post("/v1/traces", self._take)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def wait(self, is_enough: Callable[[list[Exported]], bool]) -> list[Exported]:
        """The spans, as soon as they are enough."""
        async with asyncio.timeout(10):
            while not is_enough(self.spans):
                self._came.clear()
                await self._came.wait()
        return self.spans

    async def _take(self, request: web.Request) -> web.Response:
        assert request.content_type == "application/x-protobuf"
        raw = await request.read()
        if self.holds:
            await self.holds.wait()
        self.raw.append(raw)
        for resource in ExportTraceServiceRequest.FromString(raw).resource_spans:
            service = values(resource.resource.attributes)["service.name"]
            for scope in resource.scope_spans:
                self.spans += (exported(span, service) for span in scope.spans)
        self._came.set()
        return web.Response(
            body=ExportTraceServiceResponse().SerializeToString(), content_type="application/x-protobuf"
        )


def exported(span: Any, service: str) -> Exported:
    return Exported(
        span.name,
        {2: "server", 3: "client"}[span.kind],
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.trace_state,
        frozenset(link.span_id.hex() for link in span.links),
        values(span.attributes),
        span.status.code == 2,
        span.status.message,
        len(span.events),
        service,
        span.end_time_unix_nano - span.start_time_unix_nano,
    )


def values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
