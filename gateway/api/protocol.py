"""HTTP/1.1 as uvicorn speaks it, with what it lacks: a direct way for calls, limits, and deafness to offers.

A call is a plain POST to the path of one of our endpoints. It goes from the parser to the endpoint without
what ASGI makes for each request: a scope, a cycle, middleware, a message for the head and one for the body.
Whatever is unusual goes uvicorn's own way, to the same endpoint: requests behind one that is not answered
yet, HTTP/1.0, `Expect: 100-continue`, callers who send without reading.
"""

import asyncio
from collections.abc import Collection, Mapping, Sized
from typing import Any, ClassVar, cast

from httptools import HttpParserError, HttpParserUpgrade
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from gateway.api.auth import stranger_in
from gateway.api.drain import Drain
from gateway.api.endpoint import CLOSE, Answer, CallEndpoint, Serving
from gateway.api.errors import error_body
from gateway.api.middleware import request_id_of
from gateway.api.patience import Patience, Watched
from gateway.core.events import CallRejected, Observer
from gateway.core.settings import LimitsSettings

_LINGER_S, _LINGER_S_MAX, _LINGER_BYTES = 2.0, 30.0, 64 * 1024 * 1024
"""For so long, or longer while more comes, and so many bytes beyond what a request may have, what a caller
goes on sending after a refusal is read: closed at once, the connection would be reset, and the refusal lost
on its way."""

_IDLE, _HEAD, _BODY, _ANSWER, _OVER = range(5)
"""What a connection waits for: nothing, the rest of a head or a body, our answer, its own end."""


class Protocol(HttpToolsProtocol):
    """One connection. `calls` are the endpoints by their paths. `neighbours_only`: no key is asked for, since
    only this machine can connect, so that pages of other sites in a browser here are kept out.
    """

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
        limits: LimitsSettings,
        patience: Patience,
        observe: Observer,
        neighbours_only: bool = False,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.become(limits, neighbours_only=neighbours_only)
        self.drain = drain
        self.deaf = False
        """It has been refused, and what still comes is not read."""
        self._calls = calls
        self._patience = patience
        self._observe = observe
        self._stage = _HEAD
        self._messages = 0
        """Requests that have begun."""
        self._received = 0
        """Bytes of the latest, without what came together with its beginning."""
        self._read = 0
        """Bytes that came last."""
        # What was found when it was looked at:
        self._seen = (_HEAD, -1)
        self._seen_at = 0.0
        self._seen_received = 0
        self._unread = 0
        self._unread_at: float | None = None
        self._call: _Call | None = None
        """The latest on the direct way. `cycle` may be a later request's, also while this has no answer."""
        self._whole: _Call | None = None
        """To be served once the parser has come through what follows it, which may turn out to be no HTTP."""
        self._without_offer = b""
        """The head of a request that the parser has just given up, as it is to be read again."""
        self._given: list[tuple[bytes, bytes]] = []
        self._given_lines = b""

    def become(self, limits: LimitsSettings, *, neighbours_only: bool) -> None:
        """By these limits from now on."""
        self._limits = limits
        self._neighbours_only = neighbours_only
        self._received_max = limits.header_bytes_max + 2 * limits.body_bytes_max
        """A body itself is counted elsewhere; what is said around its chunks, and behind them, is not."""
        keep_alive_s: Any = limits.keep_alive_s  # an int for uvicorn, but never read as one
        self.timeout_keep_alive = keep_alive_s

    def data_received(self, data: bytes) -> None:
        self._read = len(data)
        self._received += self._read
        if self.deaf:
            if self._received > self._received_max + _LINGER_BYTES:
                self.transport.abort()
            return
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            self._read_again(data, upgrade)
        except HttpParserError:
            self._refuse()
        call, self._whole = self._whole, None
        if call:
            call.serve()
        if self._received > self._limits.header_bytes_max:
            self._check_size()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        self._patience.watch(cast("Collection[Watched]", self.connections), self.loop)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._call:
            self._call.leave()

    def _refuse(self) -> None:
        self._end_with(400, "not_http", "this is no valid HTTP request")

    def _end_with(self, status: int, reason: str, message: str) -> None:
        """Answer what cannot be a request, and end the connection with it and whatever is under way on it."""
        if self.deaf or self.transport.is_closing():
            return
        self._observe(CallRejected(reason))
        body = error_body(message, "invalid_request_error", None, reason)
        self.transport.write(
            b"%b%bcontent-type: application/json\r\ncontent-length: %d\r\nx-request-id: %b\r\n%b\r\n%b"
            % (STATUS_LINE[status], self.given_fields(), len(body), request_id_of({}), CLOSE, body)
        )
        self.linger()
        if self._call:
            self._call.leave()
        if self._is_unanswered():  # by uvicorn's cycle, which waits for the rest
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _is_unanswered(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def close_behind(self) -> None:
        """End the connection behind an answer of uvicorn's."""
        if self._stage == _BODY:
            self.linger()
        else:
            self.transport.close()

    def linger(self) -> None:
        """End the connection behind what was written last. What still comes is thrown away."""
        self.deaf = True
        if self.pipeline:
            self.transport.close()  # uvicorn's cycle before these would still write
        else:
            self.flow.resume_reading()
            self.transport.write_eof()

    # Limits

    def _check_size(self) -> None:
        """The request under way may be larger than any can be."""
        limits = self._limits
        if self._stage == _HEAD:
            self._end_with(431, "large_head", f"the head has more than {limits.header_bytes_max} bytes")
        elif self._received > self._received_max:
            self._end_with(413, "large_framing", "there is more around the body than in it")

    def look(self, now: float) -> None:
        """Whoever takes too long is told so, or dropped when it is the answer that is not taken."""
        transport, limits = self.transport, self._limits
        over = self.deaf or transport.is_closing()
        seen = (_OVER if over else self._stage, self._messages)
        is_our_turn = self.flow.read_paused or (self._stage == _HEAD and self._is_unanswered())
        if seen != self._seen or (is_our_turn and not over):
            self._seen, self._seen_at, self._seen_received = seen, now, self._received
        lasted_s = now - self._seen_at
        if self._is_unread(now):
            self._observe(CallRejected("unread"))
            transport.abort()
        elif over:
            before, self._seen_received = self._seen_received, self._received
            sends = self._received > before
            if lasted_s >= (_LINGER_S_MAX if sends else _LINGER_S) and not self._unread:
                transport.abort()
        elif self._stage == _IDLE:
            if lasted_s >= limits.keep_alive_s:
                transport.close()
        elif self._stage == _HEAD and lasted_s >= limits.head_s_max:
            if self._messages == 0:
                transport.close()
            else:
                self._end_with(408, "slow_head", f"the head did not come within {limits.head_s_max:g} s")
        elif self._stage == _BODY and lasted_s >= limits.body_grace_s:
            if self._received - self._seen_received >= limits.bytes_per_s_min * lasted_s:
                self._seen_at, self._seen_received = now, self._received
            elif not self._is_unanswered():
                transport.close()
            else:
                message = f"the body came with less than {limits.bytes_per_s_min} bytes a second"
                self._end_with(408, "slow_body", message)

    def _is_unread(self, now: float) -> bool:
        """Whether the caller takes too little of what was written."""
        before, self._unread = self._unread, self.transport.get_write_buffer_size()
        if not self._unread:
            self._unread_at = None
        elif self._unread_at is None:
            self._unread_at = now
        elif now - self._unread_at < self._limits.unread_s_max:
            self._unread = before
        elif before - self._unread < self._limits.bytes_per_s_min * (now - self._unread_at):
            return True
        else:
            self._unread_at = now
        return False

    # What the parser finds

    def on_message_begin(self) -> None:
        self._stage = _HEAD
        self._messages += 1
        self._received = 0
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._stage == _HEAD:  # else it stands behind a body, where there may be many that nobody reads
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self.deaf or self.transport.is_closing():
            return  # It follows an answer that ends the connection.
        self._stage = _BODY
        limits = self._limits
        if self._received + self._read > limits.header_bytes_max or len(self.headers) > limits.headers_max:
            self._check_head()
            if self.deaf:
                return
        parser = self.parser
        method = parser.get_method()
        if parser.should_upgrade() and method != b"CONNECT":
            self._without_offer = self._head_without_offer()
            return
        endpoint = self._calls.get(self.url)
        headers = dict(self.headers)
        if self._neighbours_only and (stranger := stranger_in(headers)):
            self._end_with(*stranger)
            return
        keep_alive = parser.should_keep_alive()
        # Only HTTP/1.1 keeps a connection without a word. To ask for the version itself takes a microsecond.
        is_1_1 = (keep_alive and b"connection" not in headers) or parser.get_http_version() == "1.1"
        expected = headers.get(b"expect")
        self.expect_100_continue = expected is not None and expected.lower() == b"100-continue"
        if (
            endpoint is None
            or method != b"POST"
            or not (self.cycle is None or self.cycle.response_complete)
            or self.expect_100_continue
            or self.flow.write_paused
            or not is_1_1
        ):
            self._go_ordinary_way()
            return
        call = self._call = self.cycle = _Call(self, endpoint, headers, keep_alive)
        if refusal := endpoint.refusal(call):
            call.end(refusal)

    def _go_ordinary_way(self) -> None:
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)  # the scope holds this list
        super().on_headers_complete()
        self.cycle.transport = _Lingering(self)

    def _check_head(self) -> None:
        limits, count = self._limits, len(self.headers)
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > limits.header_bytes_max:
            self._end_with(431, "large_head", f"the head has more than {limits.header_bytes_max} bytes")
        elif count > limits.headers_max:
            message = f"there are {count} header fields; at most {limits.headers_max} are taken"
            self._end_with(431, "many_headers", message)

    def on_body(self, body: bytes) -> None:
        if self.deaf:
            return
        call = self._call
        if call is not None and call is self.cycle:
            call.on_body(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._without_offer or self.deaf:
            return
        call = self._call
        if call is not None and call is self.cycle:
            self._stage = _IDLE if call.ended else _ANSWER
            self._whole = call
        else:
            self._stage = _ANSWER if self._is_unanswered() else _IDLE
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

    def on_response_complete(self) -> None:
        if self.deaf:
            return
        if self.pipeline:
            super().on_response_complete()  # starts the next
            return
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self._stage == _ANSWER:
            self._stage = _IDLE
            self._received = 0


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


class _Lingering:
    """The transport, as uvicorn's cycle uses it: to close it while a body still comes is to linger, and what
    is written to a connection that was cut is nobody's. (uvicorn hears of that a turn later.)
    """

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol
        self.is_closing = protocol.transport.is_closing

    def write(self, data: bytes) -> None:
        if not self.is_closing():
            self._protocol.transport.write(data)

    def close(self) -> None:
        self._protocol.close_behind()


class _Call(Serving):
    """A call on the direct way. It is what uvicorn's protocol finds where it keeps the cycle of a request
    and what its server finds among the tasks, so it has what those two touch.
    """

    __slots__ = ("_body", "_protocol", "_started", "disconnected", "keep_alive")

    message_event: ClassVar = asyncio.Event()  # uvicorn sets it, and nobody waits for it

    def __init__(
        self, protocol: Protocol, endpoint: CallEndpoint, headers: Mapping[bytes, bytes], keep_alive: bool
    ) -> None:
        super().__init__(endpoint, headers, request_id_of(headers))
        self._protocol = protocol
        self._body: bytes | bytearray = b""
        self._started = protocol.loop.time()
        self.disconnected = False
        self.keep_alive = keep_alive
        protocol.tasks.add(self)  # type: ignore[arg-type]

    @property
    def response_complete(self) -> bool:
        return self.ended

    def on_body(self, chunk: bytes) -> None:
        if self.ended:
            return
        if refusal := self.count(len(chunk)):
            self.end(refusal)
        elif not self._body:
            self._body = chunk
        elif type(self._body) is bytearray:
            self._body += chunk
        else:
            self._body = bytearray(self._body) + chunk

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
        if not (protocol.deaf or transport.is_closing()):
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
            if answer.closes:
                protocol.linger()
            elif closes:
                transport.close()
        self.endpoint.report(self, answer, protocol.loop.time() - self._started)
        protocol.on_response_complete()
