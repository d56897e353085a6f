"""Servers that answer with given bytes, to the real client, over connections that are none."""

import asyncio
import atexit
from collections.abc import Awaitable, Callable
from typing import Any, cast

from fuzz.in_memory import Servers
from gateway.core.settings import DeploymentSettings
from gateway.pool import Answer, Request
from gateway.upstream.infinity import InfinityUpstream
from tests.fakes.time import FakeTimeLoop


class Link(asyncio.Transport):
    """One end of a connection: `sent` gets what is written, and the other end is not there."""

    def __init__(self, sent: Callable[[bytes], object], closed: Callable[[], object]) -> None:
        super().__init__()
        self._sent = sent
        self._closed = closed
        self._is_closing = False

    def write(self, data: Any) -> None:
        if not self._is_closing:
            self._sent(bytes(data))

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._closed()

    abort = close

    def write_eof(self) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading

    def get_write_buffer_size(self) -> int:
        return 0

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        pass


class Wires(FakeTimeLoop):
    """Every connection leads to a server that answers each request with `answer`."""

    def __init__(self) -> None:
        super().__init__()
        atexit.register(self.close)
        self.answer = b""
        self.piece = 0
        """Bytes that come at once; 0: all."""
        self.hangs_up: int = False
        """Behind its answer."""

    async def create_connection(self, protocol_factory: Any, *_: Any, **__: Any) -> Any:
        protocol = cast("asyncio.Protocol", protocol_factory())
        link = Link(
            lambda _: self.call_soon(self._serve, link, protocol),
            lambda: self.call_soon(protocol.connection_lost, None),
        )
        protocol.connection_made(link)
        return link, protocol

    def _serve(self, link: Link, protocol: asyncio.Protocol) -> None:
        answer, piece = self.answer, self.piece or len(self.answer) or 1
        for at in range(0, len(answer), piece):
            if not link.is_closing():
                protocol.data_received(answer[at : at + piece])
        if self.hangs_up and not link.is_closing():
            protocol.eof_received()
            link.close()


class Answering(Servers):
    """Tells of its models as it should, and answers batches over `Wires`."""

    def __init__(self, loop: Wires) -> None:
        self._upstream = InfinityUpstream()
        loop.run_until_complete(self._upstream.__aenter__())
        atexit.register(lambda: loop.run_until_complete(self._upstream.__aexit__(None, None, None)))

    def send(self, deployment: DeploymentSettings, request: Request, timeout_s: float) -> Awaitable[Answer]:
        return self._upstream.send(deployment, request, timeout_s)
