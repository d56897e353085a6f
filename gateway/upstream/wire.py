"""A small HTTP/1.1 client: POST, kept connections, whole answers. What is in a body it does not know."""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Callable
from typing import Any, TypeVar, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from gateway.core.retry import Failure
from gateway.deadlines import Deadlines
from gateway.pool import SendError
from gateway.upstream.resolver import Address, Addresses, Endpoint, Resolver
from gateway.upstream.target import Origin, Target
from gateway.upstream.tls import Tls

_Answer = TypeVar("_Answer")

CONNECT_S = 5.0
# The servers' uvicorn closes a connection after 5 s without a request, and one that is used just then breaks.
_KEEP_ALIVE_S = 4.0
_NEXT_ADDRESS_S = 0.5
_HEAD_BYTES_MAX = 64 * 1024
_JOINED_BYTES_MAX = 64 * 1024


class Client:
    """Connections to any number of servers, kept for a while after each answer. For one event loop."""

    def __init__(self, tls: Tls) -> None:
        self._loop = asyncio.get_running_loop()
        self._tls = tls
        self.resolver = Resolver(self._leads_to, self._on_move)
        self._open: set[_Connection] = set()
        self._idle: dict[Origin, dict[_Connection, None]] = {}
        """Per origin, the one that has been idle longest first."""
        self._sweeper: asyncio.TimerHandle | None = None
        self._connecting: set[_Exchange] = set()
        self._closed = False
        self.deadlines = Deadlines(self._loop, _Connection.expire)

    def post(
        self,
        target: Target,
        body: bytes,
        timeout_s: float,
        answer_bytes_max: int,
        read: Callable[[int, bytes], _Answer],
        head: bytes = b"",
        *,
        fresh: bool = False,
    ) -> asyncio.Future[_Answer]:
        """What `read` makes of the answer's status and body; connecting is part of `timeout_s`. `head` has
        lines for the request's, beside those of its target. `fresh`: over a new connection, and never twice.

        Ends with whatever SendError `read` raises, or one of REFUSED, TIMEOUT, DISCONNECTED, and BAD_ANSWER
        with reason "http" or "size".
        """
        now = self._loop.time()
        deadline = now + timeout_s
        exchange = _Exchange(self._loop, target, head, body, timeout_s, deadline, answer_bytes_max, read)
        kept = None if fresh else self._take(target.origin, now)
        if kept is not None:
            kept.begin(exchange)
        else:
            self._connect(exchange)
        return exchange

    async def close(self) -> None:
        """End every connection; requests under way fail as DISCONNECTED."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in list(self._open):
            connection.fail(_closing())
        self.deadlines.clear()
        self.resolver.close()
        for exchange in self._connecting:
            exchange.fail(_closing())
            exchange.stop_connecting()
        await asyncio.sleep(0)  # for the transports to close their sockets

    # For connections

    def on_open(self, connection: "_Connection") -> None:
        self._open.add(connection)
        if self._closed:
            connection.transport.abort()

    def on_idle(self, connection: "_Connection") -> None:
        if connection.is_of_the_past:
            connection.transport.abort()
            return
        connection.idle_until = self._loop.time() + _KEEP_ALIVE_S
        self._idle.setdefault(connection.origin, {})[connection] = None
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(_KEEP_ALIVE_S, self._sweep)

    def on_unanswered(self, exchange: "_Exchange", error: Exception | None) -> None:
        """A connection broke before the first byte of an answer. A server may close a kept one just when it
        is used, and only a new one can tell how the server is; one is enough, since it may be this very
        request that breaks them.
        """
        if exchange.connecting is None and not self._closed:
            self._connect(exchange)
        else:
            exchange.fail(SendError(Failure.DISCONNECTED, f"connection lost: {_loss(error)}"))

    def on_lost(self, connection: "_Connection") -> None:
        self._open.discard(connection)
        self._idle.get(connection.origin, {}).pop(connection, None)

    def _leads_to(self, place: Endpoint) -> bool:
        return any(connection.origin.endpoint == place for connection in self._open)

    def _on_move(self, place: Endpoint, addresses: Addresses) -> None:
        """Leave the addresses that a host has no more: what is under way there ends first."""
        hosts = {address.host for address in addresses}
        for connection in self._open:
            if connection.origin.endpoint == place and connection.host not in hosts:
                self._let_go(connection)

    def leave(self, origin: Origin) -> None:
        """Nothing is asked there any more: connections end as soon as they owe no answer."""
        for connection in self._open:
            if connection.origin == origin:
                self._let_go(connection)

    def _let_go(self, connection: "_Connection") -> None:
        connection.is_of_the_past = True
        if self._idle.get(connection.origin, {}).pop(connection, self) is None:
            connection.transport.abort()

    def _take(self, origin: Origin, now: float) -> "_Connection | None":
        """The connection that became idle last, ready for a request."""
        idle = self._idle.get(origin)
        while idle:
            connection, _ = idle.popitem()
            if connection.idle_until > now and not connection.transport.is_closing():
                return connection
            connection.transport.abort()
        return None

    def _sweep(self) -> None:
        """Close what has been idle for long. One timer for all, and none while nothing is idle."""
        now = self._loop.time()
        self._sweeper = None
        self._idle = {origin: idle for origin, idle in self._idle.items() if idle}
        for idle in self._idle.values():
            for connection in [each for each in idle if each.idle_until <= now]:
                del idle[connection]
                connection.transport.abort()
        if left := [next(iter(idle)).idle_until for idle in self._idle.values() if idle]:
            self._sweeper = self._loop.call_later(min(left) - now, self._sweep)

    def _connect(self, exchange: "_Exchange") -> None:
        """Have `exchange` over a connection of its own."""
        self._connecting.add(exchange)
        exchange.connecting = self._loop.create_task(self._connect_for(exchange))
        exchange.connecting.add_done_callback(lambda _: self._connecting.discard(exchange))

    async def _connect_for(self, exchange: "_Exchange") -> None:
        try:
            connection = await self._connection(exchange.target.origin, exchange.deadline)
        except TimeoutError:
            exchange.fail(exchange.too_late())
        except SendError as error:
            if exchange.was_sent:  # Who has had it and is gone since may be gone because of it.
                gone = error.failure is Failure.REFUSED
                error = SendError(Failure.DISCONNECTED, str(error), is_gone=gone)
            exchange.fail(error)
        except Exception as error:
            exchange.fail(error)
        else:
            if exchange.done():
                connection.transport.abort()
            else:
                connection.begin(exchange)

    async def _connection(self, origin: Origin, deadline: float) -> "_Connection":
        """A connection to the first address that takes one; only the last is waited for at length."""
        limit, place = self._loop.time() + CONNECT_S, Endpoint(*origin.endpoint)
        try:
            async with asyncio.timeout_at(min(limit, deadline)):
                *others, last = await self.resolver.addresses(place)
                for address in others:
                    with contextlib.suppress(OSError):
                        async with asyncio.timeout(_NEXT_ADDRESS_S):
                            return await self._connect_to(origin, address)
                return await self._connect_to(origin, last)
        except (OSError, UnicodeError) as error:  # UnicodeError: a name that DNS cannot have
            self.resolver.doubt(place)
            if not isinstance(error, TimeoutError) or error.errno:  # else it is of the timeouts here
                raise SendError(Failure.REFUSED, f"no connection: {words(error)}") from error
            if deadline <= limit:
                raise
            raise SendError(Failure.REFUSED, f"no connection within {CONNECT_S:g} s") from None

    async def _connect_to(self, origin: Origin, address: Address) -> "_Connection":
        connection = _Connection(self, self._loop, origin, address.host)
        secure = origin.scheme == "https"
        try:
            await self._loop.create_connection(
                lambda: connection,
                address.numeric,
                address.port,
                ssl=self._tls.context() if secure else None,
                server_hostname=origin.host if secure else None,
            )
        except BaseException:
            self.on_lost(connection)  # Of one that was just made, uvloop never says that it is lost.
            raise
        return connection


class _Exchange(asyncio.Future[Any]):
    """A request, and what becomes of it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        target: Target,
        head: bytes,
        body: bytes,
        timeout_s: float,
        deadline: float,
        answer_bytes_max: int,
        read: Callable[[int, bytes], Any],
    ) -> None:
        super().__init__(loop=loop)
        self.target = target
        self.head = head
        self.body = body
        self.deadline = deadline
        self.answer_bytes_max = answer_bytes_max
        self.connecting: asyncio.Task[None] | None = None
        """Set for good once it has got a new connection."""
        self.connection: _Connection | None = None
        self.was_sent = False
        self._timeout_s = timeout_s
        self._read = read

    def cancel(self, msg: Any | None = None) -> bool:
        """Nobody wants the answer: the connection is of no use any more."""
        if not super().cancel(msg):
            return False
        if self.connection:
            self.connection.transport.abort()
        else:
            self.stop_connecting()
        return True

    def stop_connecting(self) -> None:
        if self.connecting:
            self.connecting.cancel()

    def answer(self, status: int, body: bytes) -> None:
        if not self.done():
            try:
                self.set_result(self._read(status, body))
            except Exception as error:
                self.set_exception(error)

    def fail(self, error: Exception) -> None:
        if not self.done():
            self.set_exception(error)

    def too_late(self) -> SendError:
        return SendError(Failure.TIMEOUT, f"no answer within {self._timeout_s:.3g} s")


class _Connection(asyncio.Protocol):
    """One request and its answer after the other. Idle means that there is no exchange."""

    transport: asyncio.Transport

    def __init__(self, client: Client, loop: asyncio.AbstractEventLoop, origin: Origin, host: str) -> None:
        self.origin = origin
        self.host = host
        """The address of its origin that it leads to."""
        self.is_of_the_past = False
        self.idle_until = 0.0
        self._client = client
        self._loop = loop
        self._parser = HttpResponseParser(self)
        self._exchange: _Exchange | None = None
        self._due = 0.0
        self._lost = False

    def begin(self, exchange: _Exchange) -> None:
        """Send the request, and take what comes from now on for its answer."""
        self._exchange = exchange
        exchange.connection = self
        self._received = 0
        self._status = 0  # until the head is whole
        self._has_end = False  # by a length or by chunks; else it ends with the connection
        self._declared = 0
        self._body: list[bytes] = []
        self._complete = False
        self._reusable = False
        self._due = self._client.deadlines.add(self, exchange.deadline, self._loop.time())
        head, more, body = exchange.target.head, exchange.head, exchange.body
        if self._lost:
            self._give_up(None)
            return
        if self.transport.is_closing():
            return  # It will be lost.
        exchange.was_sent = True
        if len(body) <= _JOINED_BYTES_MAX:
            self.transport.write(b"%b%d\r\n%b\r\n%b" % (head, len(body), more, body))
        else:
            self.transport.write(b"%b%d\r\n%b\r\n" % (head, len(body), more))
            self.transport.write(body)

    def fail(self, error: SendError) -> None:
        """End the connection, and the exchange with `error`."""
        if exchange := self._end():
            exchange.fail(error)
        self.transport.abort()

    def expire(self) -> None:
        """The time for the exchange is over."""
        if self._exchange:
            self.fail(self._exchange.too_late())

    def _end(self) -> _Exchange | None:
        """The exchange is over, if there is one."""
        exchange, self._exchange = self._exchange, None
        if exchange:
            exchange.connection = None
            self._client.deadlines.discard(self, self._due)
        return exchange

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        self._client.on_open(self)

    def data_received(self, data: bytes) -> None:
        if self._exchange is None:
            self.transport.abort()  # Nothing was asked, so nothing that follows could be trusted.
            return
        most = self._exchange.answer_bytes_max
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
        if max(self._declared, self._received) > most:
            self.fail(SendError(Failure.BAD_ANSWER, f"more than {most} bytes", reason="size"))
        elif self._complete:
            exchange, body = self._end(), b"".join(self._body)
            self._body.clear()
            # An answer may come before the request has gone out.
            if self._reusable and not self.transport.get_write_buffer_size():
                self._client.on_idle(self)
            else:
                self.transport.abort()
            if exchange:
                exchange.answer(self._status, body)

    def eof_received(self) -> None:
        self.transport.abort()  # To close would mean to send the rest of the request first.

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._client.on_lost(self)
        del self._parser  # which holds this object
        if self._exchange:
            self._give_up(exc)

    def _give_up(self, error: Exception | None) -> None:
        """The connection was lost before the end of an answer, unless just that is its end."""
        exchange = self._end()
        if exchange is None or exchange.done():
            return
        if error is None and self._status and not self._has_end:
            exchange.answer(self._status, b"".join(self._body))
        elif self._received:
            loss = f"connection lost within the answer: {_loss(error)}"
            exchange.fail(SendError(Failure.DISCONNECTED, loss))
        else:
            self._client.on_unanswered(exchange, error)

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
