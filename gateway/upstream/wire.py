"""A small HTTP/1.1 client: POST, kept connections, whole answers. What is in a body it does not know."""

import asyncio
import contextlib
import functools
import os
import socket
import ssl
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from gateway.core.retry import Failure
from gateway.pool import SendError
from gateway.upstream.target import Origin, Target

CONNECT_S = 5.0
# The servers' uvicorn closes a connection after 5 s without a request, and one that is used just then breaks.
_KEEP_ALIVE_S = 4.0
_NEXT_ADDRESS_S = 0.5
_HEAD_BYTES_MAX = 64 * 1024
_ANSWER_BYTES_MAX = 256 * 1024 * 1024
_JOINED_BYTES_MAX = 64 * 1024


class Client:
    """Connections to any number of servers, kept for a while after each answer. For one event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._open: set[_Connection] = set()
        self._idle: dict[Origin, dict[_Connection, None]] = {}
        """Per origin, the one that has been idle longest first."""
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    async def post(self, target: Target, body: bytes, timeout_s: float) -> tuple[int, bytes]:
        """Status and body of the answer, whatever the status; connecting is part of `timeout_s`.

        Raises SendError: REFUSED, TIMEOUT, DISCONNECTED, or BAD_ANSWER with reason "http" or "size".
        """
        now = self._loop.time()
        kept = self._take(target.origin, now)
        try:
            if kept is not None:
                try:
                    return await kept.exchange(target.head, body, timeout_s)
                except _Unanswered:
                    # A server may close a kept connection just when it is used. Only a new one can tell how
                    # the server is; one is enough, since it may be this very request that breaks them.
                    pass
            connection = await self._connect(target.origin, now + timeout_s)
            return await connection.exchange(target.head, body, now + timeout_s - self._loop.time())
        except TimeoutError:
            raise SendError(Failure.TIMEOUT, f"no answer within {timeout_s:.3g} s") from None

    async def close(self) -> None:
        """End every connection; requests under way fail as DISCONNECTED."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in list(self._open):
            connection.fail(_closing())
        await asyncio.sleep(0)  # for the transports to close their sockets

    # For connections

    def on_open(self, connection: "_Connection") -> None:
        self._open.add(connection)
        if self._closed:
            connection.fail(_closing())

    def on_idle(self, connection: "_Connection") -> None:
        connection.idle_until = self._loop.time() + _KEEP_ALIVE_S
        self._idle.setdefault(connection.origin, {})[connection] = None
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(_KEEP_ALIVE_S, self._sweep)

    def on_lost(self, connection: "_Connection") -> None:
        self._open.discard(connection)
        self._idle.get(connection.origin, {}).pop(connection, None)

    def _take(self, origin: Origin, now: float) -> "_Connection | None":
        """The connection that became idle last, ready for a request."""
        idle = self._idle.get(origin)
        while idle:
            connection, _ = idle.popitem()
            if connection.idle_until > now and not connection.transport.is_closing():
                connection.expect()
                return connection
            connection.transport.abort()
        return None

    def _sweep(self) -> None:
        """Close what has been idle for long. One timer for all, and none while nothing is idle."""
        now = self._loop.time()
        self._sweeper = None
        for idle in self._idle.values():
            for connection in [each for each in idle if each.idle_until <= now]:
                del idle[connection]
                connection.transport.abort()
        if left := [next(iter(idle)).idle_until for idle in self._idle.values() if idle]:
            self._sweeper = self._loop.call_later(min(left) - now, self._sweep)

    async def _connect(self, origin: Origin, deadline: float) -> "_Connection":
        """A connection to the first address that takes one; only the last is waited for at length."""
        limit = self._loop.time() + CONNECT_S
        try:
            async with asyncio.timeout_at(min(limit, deadline)):
                *others, last = await self._loop.getaddrinfo(
                    origin.host, origin.port, type=socket.SOCK_STREAM
                )
                for address in others:
                    with contextlib.suppress(OSError):
                        async with asyncio.timeout(_NEXT_ADDRESS_S):
                            return await self._connect_to(origin, *address[4])
                return await self._connect_to(origin, *last[4])
        except (OSError, UnicodeError) as error:  # UnicodeError: a name that DNS cannot have
            if not isinstance(error, TimeoutError) or error.errno:  # else it is of the timeouts here
                raise SendError(Failure.REFUSED, f"no connection: {words(error)}") from error
            if deadline <= limit:
                raise
            raise SendError(Failure.REFUSED, f"no connection within {CONNECT_S:g} s") from None

    async def _connect_to(
        self, origin: Origin, host: str, port: int, _flow: int = 0, scope: int = 0
    ) -> "_Connection":
        connection = _Connection(self, self._loop, origin)
        secure = origin.scheme == "https"
        try:
            await self._loop.create_connection(
                lambda: connection,
                f"{host}%{scope}" if scope else host,
                port,
                ssl=self._tls if secure else None,
                server_hostname=origin.host if secure else None,
            )
        except BaseException:
            connection.abandon()
            raise
        return connection

    @functools.cached_property
    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        context.set_alpn_protocols(["http/1.1"])
        return context


class _Unanswered(SendError):
    """The connection broke before the first byte of an answer."""

    def __init__(self, error: BaseException | None) -> None:
        super().__init__(Failure.DISCONNECTED, f"connection lost: {_loss(error)}")


class _Connection(asyncio.Protocol):
    """One request and its answer after the other. Idle means that nobody waits: `_answer` is done."""

    transport: asyncio.Transport

    def __init__(self, client: Client, loop: asyncio.AbstractEventLoop, origin: Origin) -> None:
        self.origin = origin
        self.idle_until = 0.0
        self._client = client
        self._loop = loop
        self._parser = HttpResponseParser(self)
        self.expect()

    def expect(self) -> None:
        """Take what comes from now on for an answer."""
        self._answer: asyncio.Future[tuple[int, bytes]] = self._loop.create_future()
        self._received = 0
        self._status = 0  # until the head is whole
        self._has_end = False  # by a length or by chunks; else it ends with the connection
        self._declared = 0
        self._body: list[bytes] = []
        self._complete = False
        self._reusable = False

    async def exchange(self, head: bytes, body: bytes, timeout_s: float) -> tuple[int, bytes]:
        """Send a request and wait for its answer, after `expect`. Raises SendError, or TimeoutError."""
        answer = self._answer
        timer = self._loop.call_later(timeout_s, self._expire, answer)
        if self.transport.is_closing():
            pass  # Then the answer is or will be an error.
        elif len(body) <= _JOINED_BYTES_MAX:
            self.transport.write(b"%b%d\r\n\r\n%b" % (head, len(body), body))
        else:
            self.transport.write(b"%b%d\r\n\r\n" % (head, len(body)))
            self.transport.write(body)
        try:
            return await answer
        except asyncio.CancelledError:
            if self._answer is answer:  # else it has come, and the connection is another's already
                self.transport.abort()
            raise
        finally:
            timer.cancel()

    def fail(self, error: Exception) -> None:
        """End the connection, and the request under way with `error`."""
        if not self._answer.done():
            self._answer.set_exception(error)
        self.transport.abort()

    def abandon(self) -> None:
        """Leave a connection that is being made: nobody will ask for an answer, not even for its error."""
        if not self._answer.cancel():
            self._answer.exception()
        self._client.on_lost(self)  # Of one that was just made, uvloop never says that it is lost.

    def _expire(self, answer: asyncio.Future[tuple[int, bytes]]) -> None:
        if not answer.done():
            self.fail(TimeoutError())

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        self._client.on_open(self)

    def data_received(self, data: bytes) -> None:
        if self._answer.done():
            self.transport.abort()  # Nothing was asked, so nothing that follows could be trusted.
            return
        room = _HEAD_BYTES_MAX - self._received
        self._received += len(data)
        try:
            if self._status == 0 and len(data) > room:
                self._parser.feed_data(data[:room])
                if self._status == 0:
                    raise HttpParserError
                data = data[room:]
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            if not self._complete:
                words = f"not HTTP: {type(error).__name__}"
                self.fail(SendError(Failure.BAD_ANSWER, words, reason="http"))
                return
            self._reusable = False  # More came than was asked for.
        if max(self._declared, self._received) > _ANSWER_BYTES_MAX:
            self.fail(SendError(Failure.BAD_ANSWER, f"more than {_ANSWER_BYTES_MAX} bytes", reason="size"))
        elif self._complete:
            self._answer.set_result((self._status, b"".join(self._body)))
            # An answer may come before the request has gone out.
            if self._reusable and not self.transport.get_write_buffer_size():
                self._client.on_idle(self)
            else:
                self.transport.abort()

    def eof_received(self) -> None:
        self.transport.abort()  # To close would mean to send the rest of the request first.

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.on_lost(self)
        del self._parser  # which holds this object
        if self._answer.done():
            return
        if exc is None and self._status and not self._has_end:
            self._answer.set_result((self._status, b"".join(self._body)))
        elif self._received:
            self._answer.set_exception(
                SendError(Failure.DISCONNECTED, f"connection lost within the answer: {_loss(exc)}")
            )
        else:
            self._answer.set_exception(_Unanswered(exc))

    # What the parser calls; an exception makes feed_data fail

    def on_message_begin(self) -> None:
        if self._complete:
            raise HttpParserError

    def on_header(self, name: bytes, value: bytes) -> None:
        match name.lower():
            case b"content-length":
                self._has_end = True
                self._declared = int(value)
            case b"transfer-encoding":
                self._has_end = True

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 100:
            raise HttpParserError
        if status >= 200:  # else informational: the answer is still to come
            self._status = status

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self._status:
            self._complete = True
            self._reusable = self._parser.should_keep_alive()
        else:
            self._has_end = False
            self._declared = 0


def words(error: BaseException) -> str:
    """What went wrong on the way to a server, for an operator; without addresses."""
    if isinstance(error, ssl.SSLError | ssl.CertificateError):
        return "TLS failed; does the server speak https, and is its certificate trusted?"
    if isinstance(error, socket.gaierror | UnicodeError):
        return "the host name does not resolve"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return type(error).__name__


def _closing() -> SendError:
    return SendError(Failure.DISCONNECTED, "connection lost: the gateway is closing")


def _loss(error: BaseException | None) -> str:
    return words(error) if error else "closed by the server"
