"""A server of bytes that answers each request as it is told, and remembers on which connection it came."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from tests.upstream.listening import listening

BODY = b'{"data":[{"index":0,"embedding":"AAAAAA=="}],"usage":{"total_tokens":1}}'
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


class Peer:
    """Answers the n-th request of all with the n-th of `answers`, and those after the last with the last."""

    def __init__(self, *answers: bytes, pieces_of: int | None = None, hangs_up: bool = False) -> None:
        self.requests: list[bytes] = []
        self.used: list[int] = []
        """For each request, the number of its connection."""
        self.connections = 0
        self.open = 0
        self.url = ""
        self._answers = answers or (GOOD,)
        self._pieces_of = pieces_of
        self._hangs_up = hangs_up

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = self.connections
        self.connections += 1
        self.open += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                self.used.append(number)
                answer = self._answers[min(len(self.requests), len(self._answers)) - 1]
                step = self._pieces_of or len(answer)
                for at in range(0, len(answer), step):
                    writer.write(answer[at : at + step])
                    await writer.drain()
                    await asyncio.sleep(0)
                if self._hangs_up:
                    break
        writer.close()
        self.open -= 1


@asynccontextmanager
async def peer(
    *answers: bytes,
    pieces_of: int | None = None,
    hangs_up: bool = False,
    tls: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
) -> AsyncIterator[Peer]:
    """A `Peer` on a free port."""
    served = Peer(*answers, pieces_of=pieces_of, hangs_up=hangs_up)
    async with listening(served.serve, host, ssl=tls) as url:
        served.url = url.replace("http:", "https:") if tls else url
        yield served


async def until(true: Callable[[], bool]) -> None:
    """Let the event loop turn until something is so."""
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)
