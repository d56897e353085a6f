"""A closed-loop HTTP load that costs little itself: a connection sends its next call when it has an answer.

Latencies are therefore those of so many callers who wait; they say nothing about what an open stream of
calls would meet past the saturation point.
"""

import asyncio
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Result:
    connections: int
    seconds: float
    calls: int
    errors: int
    latencies_s: Sequence[float]
    """Sorted."""

    @property
    def rate(self) -> float:
        """Calls answered a second."""
        return self.calls / self.seconds

    def percentile_ms(self, percent: float) -> float:
        ordered = self.latencies_s
        if not ordered:
            return float("nan")
        return 1e3 * ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


class _Connection(asyncio.Protocol):
    """One caller. Knows just enough HTTP: a status line, Content-Length, a body."""

    def __init__(self, run: "_Run") -> None:
        self._run = run
        self._transport: asyncio.Transport
        self._received = bytearray()
        self._expected = -1
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        self._send()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._expected < 0:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._received[:end]).lower()
            at = head.index(b"content-length:") + 15
            self._expected = end + 4 + int(head[at:].split(b"\r\n", 1)[0])
        if len(self._received) < self._expected:
            return
        self._run.ended(self._sent_at, self._received[9:12] == b"200")
        self._received.clear()
        self._expected = -1
        self._send()

    def connection_lost(self, _error: Exception | None) -> None:
        self._run.lost()

    def _send(self) -> None:
        request = self._run.next_request()
        if request is None:
            self._transport.close()
            return
        self._sent_at = time.perf_counter()
        self._transport.write(request)


class _Run:
    def __init__(self, requests: Iterator[bytes], connections: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.done = self.loop.create_future()
        self.latencies_s: list[float] = []
        self.errors = 0
        self.measured_from = float("inf")
        self.until = float("inf")
        self._requests = requests
        self._open = connections

    def next_request(self) -> bytes | None:
        return next(self._requests) if time.perf_counter() < self.until else None

    def ended(self, sent_at: float, good: bool) -> None:
        now = time.perf_counter()
        if self.measured_from <= sent_at and now <= self.until:
            self.latencies_s.append(now - sent_at)
            self.errors += not good

    def lost(self) -> None:
        self._open -= 1
        if not self._open and not self.done.done():
            self.done.set_result(None)


async def closed_loop(
    url: str,
    bodies: Sequence[bytes],
    connections: int,
    seconds: float,
    warm_up_s: float = 1.0,
    key: str = "",
) -> Result:
    """POST `bodies` in turn to `url` over so many connections, for `seconds` after a warm-up."""
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
    if key:
        head += f"Authorization: Bearer {key}\r\n"
    requests = [b"%bContent-Length: %d\r\n\r\n%b" % (head.encode(), len(body), body) for body in bodies]
    run = _Run(itertools.cycle(requests), connections)
    run.measured_from = time.perf_counter() + warm_up_s
    run.until = run.measured_from + seconds
    for _ in range(connections):
        await run.loop.create_connection(lambda: _Connection(run), host, port)
    await run.done
    return Result(
        connections,
        seconds,
        len(run.latencies_s) - run.errors,
        run.errors,
        sorted(run.latencies_s),
    )
