"""What is told of single calls: lines of the access log, and spans. Without both nobody asks here."""

import logging
import random
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from gateway.errors import StartError
from gateway.messages import Call
from gateway.observability.lines import Line, Lines

if TYPE_CHECKING:
    from gateway.observability.tracing import CallSpan, Tracing

_ERRORS_PER_S_MAX = 100
"""Lines for errors that the share of calls would leave out: an outage must not fill a disk."""


class Ended(NamedTuple):
    """How a call ended, beside what had been `Seen` of it."""

    request_id: str
    status: int
    model: str
    key: str
    """The name of its caller's key, if that has one."""
    items: int
    duration_s: float
    queue_s: float
    upstream_s: float
    bytes_in: int
    bytes_out: int


class Seen:
    """What is noted of one call on its way."""

    __slots__ = ("_calls", "_is_told", "route", "span", "tokens")

    def __init__(self, calls: "Calls", route: str, headers: Mapping[bytes, bytes]) -> None:
        self._calls = calls
        self._is_told = False
        self.route = route
        self.tokens = 0
        tracing = calls.tracing
        self.span: CallSpan | None = tracing.begin(route, headers) if tracing else None

    def read(self, call: Call) -> None:
        """Its body has been read as `call`."""
        if self.span:
            self.span.read(call)
            call.trace = self.span

    def wants(self, status: int) -> bool:
        """Whether anybody wants to know how it ended, which was with `status`."""
        self._is_told = self._calls.draw(status)
        return self._is_told or self.span is not None

    def end(self, ended: Ended) -> None:
        if self.span:
            self.span.end(self, ended)
        if self._is_told:
            self._calls.tell(self, ended)


class Calls:
    """Makes a `Seen` for each call, and writes the access log: a line for a share of the calls, and for those
    that end with 5xx.
    """

    def __init__(
        self, lines: Lines | None, share: float, tracing: "Tracing | None", rng: random.Random | None = None
    ) -> None:
        self.tracing = tracing
        self._lines = lines
        self._share = share
        self._random = (rng or random.Random()).random
        self._second = 0
        self._errors = 0

    def begin(self, route: str, headers: Mapping[bytes, bytes]) -> Seen:
        return Seen(self, route, headers)

    def draw(self, status: int) -> bool:
        """Whether a call that ended with `status` gets a line."""
        share = self._share
        return share > 0 and (self._random() < share or (status >= 500 and self._takes_error()))

    def _takes_error(self) -> bool:
        second = int(time.time())  # noqa: TID251 - any clock would do
        if second != self._second:
            self._second, self._errors = second, 0
        self._errors += 1
        return self._errors <= _ERRORS_PER_S_MAX

    def tell(self, seen: Seen, ended: Ended) -> None:
        fields = {
            "method": "POST",
            "route": seen.route,
            "status": ended.status,
            "request_id": ended.request_id,
            "model": ended.model,
            "key": ended.key,
            "items": ended.items,
            "tokens": seen.tokens,
            "duration_ms": round(1e3 * ended.duration_s, 3),
            "queue_ms": round(1e3 * ended.queue_s, 3),
            "upstream_ms": round(1e3 * ended.upstream_s, 3),
            "bytes_in": ended.bytes_in,
            "bytes_out": ended.bytes_out,
        }
        if seen.span:
            fields["trace_id"] = seen.span.trace_id
        if self._lines:
            self._lines.put(Line(time.time(), "INFO", "call", "", fields))  # noqa: TID251 - a date for people


def start_tracing(wanted: bool | None, version: str, environ: Mapping[str, str]) -> "Tracing | None":
    """Tracing where it is wanted or, if that is None, where OpenTelemetry's variables in the environment name
    a receiver. Raises StartError when it is wanted and cannot be; an environment may be meant for others.
    """
    if wanted is None and not _is_named(environ):
        return None
    if wanted is False:
        return None
    try:
        return _tracing(version, environ)
    except StartError as error:
        if wanted:
            raise
        logging.getLogger("gateway").warning("no traces are exported: %s", error)
        return None


def _is_named(environ: Mapping[str, str]) -> bool:
    is_off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or "none" in (
        environ.get("OTEL_TRACES_EXPORTER", "").split(",")
    )
    names = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    return not is_off and any(environ.get(name) for name in names)


def _tracing(version: str, environ: Mapping[str, str]) -> "Tracing":
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if protocol := environ.get(name):
            if protocol != "http/protobuf":
                raise StartError(f"{name} is {protocol}; traces are exported as http/protobuf only")
            break
    try:
        from gateway.observability.tracing import Tracing
    except ImportError as error:
        raise StartError(
            "OpenTelemetry is not installed; pip install 'infinity-gateway[otel]', or set gateway.telemetry: "
            f"false ({error})"
        ) from error
    return Tracing(version)
