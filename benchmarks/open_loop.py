"""An open-loop HTTP load: calls come when they come, whether or not those before them have been answered."""

import asyncio
import itertools
import random
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from benchmarks.load import Result

_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def open_loop(
    url: str,
    bodies: Sequence[bytes],
    rate: float,
    seconds: float,
    warm_up_s: float = 1.0,
    key: str = "",
    seed: int = 1,
) -> Result:
    """POST `bodies` in turn to `url`, `rate` a second at random times, for `seconds` after a warm-up.

    A latency counts from the moment at which the call was due.
    """
    rng, turns = random.Random(seed), itertools.cycle(bodies)
    client = _Client(url, key)
    started = time.perf_counter()
    due = started
    tasks: list[asyncio.Task[tuple[float, bool]]] = []
    while (due := due + rng.expovariate(rate)) < started + warm_up_s + seconds:
        await asyncio.sleep(due - time.perf_counter())
        call = asyncio.create_task(client.call(next(turns), due))
        if due >= started + warm_up_s:
            tasks.append(call)
    answers = await asyncio.gather(*tasks)
    client.close()
    good = [latency_s for latency_s, ok in answers if ok]
    return Result(client.opened, seconds, len(good), len(answers) - len(good), sorted(good))


class _Client:
    """Keeps its connections, and opens one more whenever all are taken."""

    def __init__(self, url: str, key: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        self._head += "Content-Type: application/json\r\n"
        if key:
            self._head += f"Authorization: Bearer {key}\r\n"
        self._idle: list[_Connection] = []
        self.opened = 0

    async def call(self, body: bytes, due: float) -> tuple[float, bool]:
        """How long after `due` the answer came, and whether it was a good one."""
        if self._idle:
            reader, writer = self._idle.pop()
        else:
            self.opened += 1
            reader, writer = await asyncio.open_connection(self._host, self._port)
        writer.write(b"%bContent-Length: %d\r\n\r\n%b" % (self._head.encode(), len(body), body))
        head = await reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0]
        await reader.readexactly(int(length))
        self._idle.append((reader, writer))
        return time.perf_counter() - due, head[9:12] == b"200"

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()
