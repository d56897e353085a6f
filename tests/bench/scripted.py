"""A server in fake time: no sockets, answers after as long as it is told."""

import asyncio
import itertools
from collections.abc import Callable, Iterator
from typing import cast

from gateway.bench.wire import Answered, Connection

Script = Callable[[int], tuple[float, int]]
"""The number of a call, from 0 → the seconds that it takes, and the status that it ends with."""


def bodies() -> Iterator[bytes]:
    return (b"%d" % number for number in itertools.count())


class _Scripted(Connection):
    def __init__(self, server: "Scripted", answered: Answered) -> None:
        super().__init__(answered)
        self._server = server
        self.transport = cast("asyncio.Transport", self)

    def write(self, request: bytes) -> None:
        loop = asyncio.get_running_loop()
        seconds, status = self._server.script(len(self._server.sent_at))
        self._server.sent_at.append(loop.time())
        self._server.sent.append(request)
        if self._server.in_turn:
            seconds += max(0.0, self._server.busy_until - loop.time())
            self._server.busy_until = loop.time() + seconds
        loop.call_later(seconds, self._answer, status)

    def _answer(self, status: int) -> None:
        if not status:
            self.connection_lost(None)
        elif self.is_usable:
            self._end(status)

    def abort(self) -> None:
        if self.is_usable:
            asyncio.get_running_loop().call_soon(self.connection_lost, None)


class Scripted:
    """A destination. `in_turn`: one call after the other, as a server with one worker does them."""

    def __init__(self, script: Script, *, in_turn: bool = False, refuses: bool = False) -> None:
        self.script = script
        self.in_turn = in_turn
        self.refuses = refuses
        self.busy_until = 0.0
        self.sent_at: list[float] = []
        self.sent: list[bytes] = []
        self.connected = 0

    def request(self, body: bytes) -> bytes:
        return body

    async def connect(self, answered: Answered) -> Connection:
        if self.refuses:
            raise ConnectionRefusedError
        self.connected += 1
        return _Scripted(self, answered)

    async def ask(self, _body: bytes | None, _timeout_s: float) -> tuple[int, bytes]:
        seconds, status = self.script(len(self.sent_at))
        await asyncio.sleep(seconds + max(0.0, self.busy_until - asyncio.get_running_loop().time()))
        return status, b""
