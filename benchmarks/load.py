"""A closed-loop HTTP load that costs little itself: a connection sends its next call when it has an answer.

Latencies are therefore those of so many callers who wait; they say nothing about what an open stream of
calls would meet past the saturation point.
"""

import asyncio
import itertools
import math
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
    ended: int = 0
    """Calls that ended, those before and after the measured time too."""

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
        self._waiting = False
        self._cold = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

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
        self._warm()
        self.send()

    def connection_lost(self, _error: Exception | None) -> None:
        self._warm()
        self._run.lost(in_mid_call=self._waiting)

    def _warm(self) -> None:
        if self._cold:
            self._cold = False
            self._run.warmed()

    def send(self) -> None:
        request = self._run.next_request()
        self._waiting = request is not None
        if request is None:
            self._transport.close()
            return
        self._sent_at = time.perf_counter()
        self._transport.write(request)


class _Run:
    """Measures for `seconds`, once each connection has had an answer. A call that began before counts too
    when it ends: else slow answers would be missing from rate and latencies."""

    def __init__(self, requests: Iterator[bytes], connections: int, seconds: float, warm_up_s: float) -> None:
        self.loop = asyncio.get_running_loop()
        self.done = self.loop.create_future()
        self.latencies_s: list[float] = []
        self.calls = self.errors = self.ended_calls = 0
        self._requests = requests
        self._open = self._cold = connections
        self._seconds = seconds
        self._warm_up_s = warm_up_s
        self.started = 0.0
        self._from = self._until = float("inf")

    def next_request(self) -> bytes | None:
        return next(self._requests) if time.perf_counter() < self._until else None

    def ended(self, sent_at: float, good: bool) -> None:
        now = time.perf_counter()
        self.ended_calls += 1
        if self._from <= now <= self._until:
            self.latencies_s.append(now - sent_at)
            self.calls += good
            self.errors += not good

    def warmed(self) -> None:
        """A connection has had its first answer. After the last one measuring begins at the end of a whole
        number of warm-ups, not with that answer: servers answer in bursts, and rates would show it."""
        self._cold -= 1
        if not self._cold:
            taken_s = time.perf_counter() - self.started
            self._from = self.started + math.ceil(taken_s / self._warm_up_s) * self._warm_up_s
            self._until = self._from + self._seconds

    def lost(self, in_mid_call: bool) -> None:
        self.errors += in_mid_call
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
    run = _Run(itertools.cycle(requests), connections, seconds, warm_up_s)
    # All before the first call: a server on uvloop accepts one a turn, so later ones would wait behind calls.
    opened = [
        (await run.loop.create_connection(lambda: _Connection(run), host, port))[1]
        for _ in range(connections)
    ]
    run.started = time.perf_counter()
    for connection in opened:
        connection.send()
    await run.done
    return Result(connections, seconds, run.calls, run.errors, sorted(run.latencies_s), run.ended_calls)
