"""HTTP/1.1 as uvicorn speaks it, with what it lacks: a direct way for calls, and deafness to offers.

A call is a plain POST to the path of one of our endpoints. It goes from the parser to the endpoint without
what ASGI makes for each request: a scope, a cycle, middleware, a message for the head and one for the body.
Whatever is unusual goes uvicorn's own way, to the same endpoint: requests behind one that is not answered
yet, HTTP/1.0, `Expect: 100-continue`, callers who send without reading.
"""

import asyncio
from collections.abc import Mapping, Sized
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from gateway.api.drain import Drain
from gateway.api.endpoint import CLOSE, Answer, CallEndpoint, Serving
from gateway.api.middleware import request_id_of


class Protocol(HttpToolsProtocol):
    """One connection. `calls` are the endpoints by their paths."""

    cycle: Any
    """The latest request, as uvicorn has it or on the direct way; None before the first."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        calls: Mapping[bytes, CallEndpoint],
        drain: Drain,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.drain = drain
        self._calls = calls
        self._call: _Call | None = None
        """The latest on the direct way. `cycle` may be a later request's, also while this has no answer."""
        self._whole: _Call | None = None
        """To be served once the parser has come through what follows it, which may turn out to be no HTTP."""
        self._idle_since: float | None = None
        self._without_offer = b""
        """The head of a request that the parser has just given up, as it is to be read again."""
        self._given: list[tuple[bytes, bytes]] = []
        self._given_lines = b""

    def data_received(self, data: bytes) -> None:
        self._idle_since = None
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            self._read_again(data, upgrade)
        except HttpParserError:
            self._refuse()
        call, self._whole = self._whole, None
        if call:
            call.serve()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.timeout_keep_alive_task:
            self.timeout_keep_alive_task.cancel()
        if self._call:
            self._call.leave()

    def _refuse(self) -> None:
        message = "Invalid HTTP request received."
        self.logger.warning(message)
        self.send_400_response(message)

    # What the parser finds

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self.transport.is_closing():
            return  # It follows an answer that ends the connection.
        parser = self.parser
        method = parser.get_method()
        if parser.should_upgrade() and method != b"CONNECT":
            self._without_offer = self._head_without_offer()
            return
        endpoint = self._calls.get(self.url)
        headers = dict(self.headers)
        expected = headers.get(b"expect")
        self.expect_100_continue = expected is not None and expected.lower() == b"100-continue"
        if (
            endpoint is None
            or method != b"POST"
            or not (self.cycle is None or self.cycle.response_complete)
            or self.expect_100_continue
            or self.flow.write_paused
            or parser.get_http_version() != "1.1"
        ):
            self._go_ordinary_way()
            return
        call = self._call = self.cycle = _Call(self, endpoint, headers)
        if refusal := endpoint.refusal(call):
            call.end(refusal)

    def _go_ordinary_way(self) -> None:
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers  # the scope holds this list
        super().on_headers_complete()
        self.headers = []  # for trailers, which are no headers

    def on_body(self, body: bytes) -> None:
        call = self._call
        if call is not None and call is self.cycle:
            call.on_body(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._without_offer:
            return
        call = self._call
        if call is not None and call is self.cycle:
            self._whole = call
        else:
            super().on_message_complete()

    def given_fields(self) -> bytes:
        """The lines of what uvicorn wants in every answer: a list that it makes anew once a second."""
        given = self.server_state.default_headers
        if given is not self._given:
            self._given = given
            self._given_lines = b"".join([b"%b: %b\r\n" % field for field in given])
        return self._given_lines

    # Offers of another protocol. Java's HttpClient offers HTTP/2 with its first call to a plain address
    # (`Upgrade: h2c`). The offer may be ignored, but httptools takes what follows the head for the other
    # protocol, and the call would never end.

    def _head_without_offer(self) -> bytes:
        line = b"%b %b HTTP/%b" % (
            self.parser.get_method(),
            self.url,
            self.parser.get_http_version().encode(),
        )
        fields = (b"%b: %b" % (name, value) for name, value in self.headers if name != b"upgrade")
        return b"\r\n".join((line, *fields, b"", b""))

    def _read_again(self, data: bytes, upgrade: HttpParserUpgrade) -> None:
        """Have requests that came with an offer read again without it, and then what follows them."""
        rest = memoryview(data)
        try:
            while self._without_offer:
                head, self._without_offer = self._without_offer, b""
                rest = rest[upgrade.args[0] :]
                self.parser.feed_data(head)
                try:
                    self.parser.feed_data(rest)
                except HttpParserUpgrade as another:
                    upgrade = another
        except HttpParserError:
            self._refuse()

    # The end of idle connections. uvicorn makes and cancels a timer for every request.

    def on_response_complete(self) -> None:
        if self.pipeline:
            super().on_response_complete()  # starts the next
            return
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._close_after(self.timeout_keep_alive)

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        if self._idle_since is not None:
            left_s = self._idle_since + self.timeout_keep_alive - self.loop.time()
            if left_s > 0:
                self._close_after(left_s)
            else:
                super().timeout_keep_alive_handler()

    def _close_after(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)


class _Flow(FlowControl):
    """Reads no further while requests wait behind another. uvicorn reads on with each of its answers, so that
    ever more of them wait when a caller sends without reading.
    """

    def __init__(self, transport: asyncio.Transport, waiting: Sized) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        if not self._waiting:
            super().resume_reading()


class _Call(Serving):
    """A call on the direct way. It is what uvicorn's protocol finds where it keeps the cycle of a request
    and what its server finds among the tasks, so it has what those two touch.
    """

    __slots__ = ("_body", "_protocol", "_started", "disconnected", "keep_alive")

    message_event = asyncio.Event()  # uvicorn sets it, and nobody waits for it

    def __init__(self, protocol: Protocol, endpoint: CallEndpoint, headers: Mapping[bytes, bytes]) -> None:
        super().__init__(endpoint, headers, request_id_of(headers))
        self._protocol = protocol
        self._body: bytes | bytearray = b""
        self._started = protocol.loop.time()
        self.disconnected = False
        self.keep_alive = protocol.parser.should_keep_alive()
        protocol.tasks.add(self)  # type: ignore[arg-type]

    @property
    def response_complete(self) -> bool:
        return self.ended

    def on_body(self, chunk: bytes) -> None:
        if self.ended:
            return
        if not self._body:
            self._body = chunk
        elif type(self._body) is bytearray:
            self._body += chunk
        else:
            self._body = bytearray(self._body) + chunk
        if len(self._body) > self.endpoint.body_bytes_max:
            self.end(self.endpoint.too_large())

    def serve(self) -> None:
        """The body is whole."""
        if not self.ended and not self._protocol.transport.is_closing():
            body, self._body = self._body, b""
            self.begin(body)

    def leave(self) -> None:
        """The caller has hung up."""
        if not self.ended:
            self.end(self.gone())

    def cancel(self, msg: object = None) -> None:  # noqa: ARG002 - as a task has it
        """By uvicorn's server, whose time to end is over. Not at once: it is just going through the set of
        those under way."""
        self._protocol.loop.call_soon(self._stop)

    def _stop(self) -> None:
        if not self.ended:
            self.end(self.stopped())

    def send(self, answer: Answer) -> None:
        protocol, transport = self._protocol, self._protocol.transport
        self._body = b""
        protocol.tasks.discard(self)
        if not transport.is_closing():
            closes = answer.closes or protocol.drain.draining or not self.keep_alive
            transport.write(
                b"%b%b%bx-request-id: %b\r\n%b\r\n%b"
                % (
                    STATUS_LINE[answer.status],
                    protocol.given_fields(),
                    answer.head(),
                    self.request_id,
                    CLOSE if closes and not answer.closes else b"",
                    answer.reply.body,
                )
            )
            if answer.reply.more:
                transport.writelines(answer.reply.more)
            if closes:
                transport.close()
        self.endpoint.report(answer, protocol.loop.time() - self._started)
        protocol.on_response_complete()
