"""Connections that cost a load next to nothing, and say when an answer is whole."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Protocol, TypeVar, cast

from httptools import HttpParserError, HttpResponseParser

from gateway.errors import StartError
from gateway.pool import SendError
from gateway.upstream.target import Target

LOST = 0
"""In place of a status: the connection broke before the answer was whole, or what came was no HTTP."""

_Connection = TypeVar("_Connection", bound="Connection")

Answered = Callable[["Connection", int], None]


class Connection(asyncio.Protocol):
    """One request after the other. `answered` gets itself and the status of each, or LOST, exactly once."""

    transport: asyncio.Transport

    def __init__(self, answered: Answered) -> None:
        self.is_usable = True
        """Whether another request can follow the last answer."""
        self._answered = answered
        self._waits = False
        self._status = 0
        self._parser = HttpResponseParser(self)

    def send(self, request: bytes) -> None:
        self._waits = True
        if self.is_usable:
            self.transport.write(request)
        else:
            asyncio.get_running_loop().call_soon(self._end, LOST)

    def close(self) -> None:
        """What is under way ends as LOST."""
        self.transport.abort()

    def _end(self, status: int) -> None:
        if self._waits:
            self._waits = False
            self._answered(self, status)

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except HttpParserError:
            self.is_usable = False
            self.transport.abort()
            return
        if status := self._status:
            self._status = 0
            if not self.is_usable:
                self.transport.close()
            self._end(status)

    def connection_lost(self, _error: Exception | None) -> None:
        self.is_usable = False
        self._end(LOST)

    # What the parser calls. A callback that is not there costs nothing, so bodies are not even collected.

    def on_message_complete(self) -> None:
        self._status = self._parser.get_status_code()
        self.is_usable = self._parser.should_keep_alive()


class _Reader(Connection):
    """One whose bodies are wanted."""

    def __init__(self, answered: Answered) -> None:
        super().__init__(answered)
        self.body = bytearray()

    def on_body(self, data: bytes) -> None:
        self.body += data


class Destination(Protocol):
    """What a load needs of where it goes to."""

    def request(self, body: bytes) -> bytes:
        """A call as it is sent."""
        ...

    async def connect(self, answered: Answered) -> Connection:
        """Raises OSError."""
        ...


class Route:
    """One URL that is called, with a key or none, which nothing shows.

    Raises StartError for what is no http or https address.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        try:
            target = Target(url, key or None)
        except SendError as error:
            raise StartError(
                f"{str(error).replace('api_base', 'URL').replace('api_key', 'the key')}"
            ) from None
        self.url = target.url
        """Without user and password."""
        self._head = target.head
        self._origin = target.origin
        self._tls = ssl.create_default_context() if target.origin.scheme == "https" else None
        self._address = target.origin.host

    def request(self, body: bytes) -> bytes:
        return b"%b%d\r\n\r\n%b" % (self._head, len(body), body)

    async def connect(self, answered: Answered) -> Connection:
        """The address that took the first connection takes all: each look-up would be a load of its own."""
        made = await self._connected(Connection(answered))
        self._address = made.transport.get_extra_info("peername")[0]
        return made

    async def ask(self, body: bytes | None, timeout_s: float) -> tuple[int, bytes]:
        """Status and body of one call, a GET when there is no body to send. Raises OSError."""
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def answered(_: Connection, status: int) -> None:
            if not ended.done():
                ended.set_result(status)

        async with asyncio.timeout(timeout_s):
            reader = await self._connected(_Reader(answered))
            try:
                request = self.request(body or b"")
                reader.send(request if body is not None else request.replace(b"POST", b"GET", 1))
                if (status := await ended) == LOST:
                    raise ConnectionError("the connection broke before an answer")
                return status, bytes(reader.body)
            finally:
                reader.close()

    async def _connected(self, connection: _Connection) -> _Connection:
        await asyncio.get_running_loop().create_connection(
            lambda: connection,
            self._address,
            self._origin.port,
            ssl=self._tls,
            server_hostname=self._origin.host if self._tls else None,
        )
        return connection
