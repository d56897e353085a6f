"""What the benchmarks with scripted servers share: stand-ins with a service time, gateways, and rows.

Stand-ins and load share one core, gateways have the other. Service times are of a scale at which neither core
is what limits; `core` in the tables says how busy the gateway's was.
"""

import argparse
import asyncio
import itertools
import json
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import aiohttp
import orjson

from benchmarks import record
from benchmarks.load import Result, closed_loop
from benchmarks.stage import cpu_s, pin, stand_in
from benchmarks.stand_in import MODEL
from tests.gateway_process import GatewayProcess

LOAD_CORE, GATEWAY_CORE = 0, 1
ITEMS_MAX = 32
"""The batch size that stand-ins report."""

SERVICE = "0.005,0.004,0.0005,0.000005"
"""l, o, a and b for a character, in seconds: a full batch of short questions takes about 30 ms."""


class Service(NamedTuple):
    """A batch of n texts occupies its server for o + a·n + b·n·longest seconds, and is answered l later."""

    latency_s: float
    once_s: float
    each_s: float
    padded_s: float
    """For each character."""

    @classmethod
    def of(cls, text: str) -> "Service":
        return cls(*map(float, text.split(",")))

    def slower(self, factor: float) -> "Service":
        """The same way to it, and so many times the work."""
        return Service(self.latency_s, *(factor * part for part in self[1:]))

    def __str__(self) -> str:
        return ",".join(f"{part:.3g}" for part in self)


class Work(NamedTuple):
    """What a server was given to do."""

    busy_s: float
    items: int


class Server:
    """A stand-in that runs."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self._session = session

    async def work(self) -> Work:
        """Since it started."""
        async with self._session.post(f"{self.url}/busy") as response:
            return Work(**orjson.loads(await response.read()))

    async def change(self, service: Service) -> None:
        async with self._session.post(f"{self.url}/service", data=orjson.dumps(list(service))) as response:
            await response.read()


@asynccontextmanager
async def stand_ins(services: Sequence[Service]) -> AsyncIterator[list[Server]]:
    """A stand-in for each of `services`, on the load's core."""
    os.sched_setaffinity(0, {LOAD_CORE})
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        started = [await stack.enter_async_context(stand_in("--service", str(each))) for each in services]
        yield [Server(url, session) for url, _ in started]


@asynccontextmanager
async def gateway(
    servers: Sequence[Server], batching: dict[str, int] | None = None
) -> AsyncIterator[GatewayProcess]:
    """A gateway on a core of its own, with the defaults but for `batching`."""
    environ = {"INFINITY_API_BASE": ",".join(server.url for server in servers)}
    with TemporaryDirectory() as directory:
        config = Path(directory) / "gateway.yaml"
        config.write_text(json.dumps({"gateway": {"batching": batching or {}}}))
        async with GatewayProcess(environ=environ, config=config) as process:
            await process.wait_ready(deployments=len(servers))
            pin(process.pid, GATEWAY_CORE)
            yield process


class Measured(NamedTuple):
    result: Result
    work: list[Work]
    """Of each server, over the measured time."""
    core: float
    """The share of a core that all gateways had."""

    @property
    def items_s(self) -> float:
        """Items that all servers were given a second."""
        return sum(work.items for work in self.work) / self.result.seconds


async def measure(
    urls: Sequence[str],
    bodies: Sequence[bytes],
    connections: int,
    seconds: float,
    servers: Sequence[Server],
    gateways: Sequence[GatewayProcess] = (),
    warm_up_s: float = 1.0,
) -> Measured:
    """A closed loop on each of `urls` with an equal part of the connections, as one load."""
    loops = [
        asyncio.create_task(
            closed_loop(
                url, bodies[number :: len(urls)], max(1, connections // len(urls)), seconds, warm_up_s
            )
        )
        for number, url in enumerate(urls)
    ]
    work, core = await over(warm_up_s, seconds, servers, gateways)
    results = [await loop for loop in loops]
    merged = Result(
        connections,
        seconds,
        sum(result.calls for result in results),
        sorted(itertools.chain.from_iterable(result.latencies_s for result in results)),
        sum((result.statuses for result in results), Counter()),
    )
    return Measured(merged, work, core)


async def over(
    warm_up_s: float, seconds: float, servers: Sequence[Server], gateways: Sequence[GatewayProcess] = ()
) -> tuple[list[Work], float]:
    """What `servers` are given in `seconds` after a warm-up, and the share of a core that `gateways` use."""
    await asyncio.sleep(warm_up_s)
    before, used_s = [await server.work() for server in servers], sum(cpu_s(each.pid) for each in gateways)
    await asyncio.sleep(seconds)
    after = [await server.work() for server in servers]
    used_s = sum(cpu_s(each.pid) for each in gateways) - used_s
    work = [Work(b.busy_s - a.busy_s, b.items - a.items) for a, b in zip(before, after, strict=True)]
    return work, used_s / seconds


def calls(texts: Sequence[str], sizes: Sequence[int] = (1,), seed: int = 1) -> list[bytes]:
    """Calls for vectors of all `texts`, each of one of `sizes` at random."""
    rng, rest = random.Random(seed), iter(texts)
    bodies = []
    while part := list(itertools.islice(rest, rng.choice(sizes))):
        bodies.append(orjson.dumps({"model": MODEL, "input": part, "encoding_format": "base64"}))
    return bodies


def by_hand(texts: Sequence[str], window: int) -> Iterator[list[str]]:
    """Full batches: each window of `texts` is sorted by length and cut."""
    for at in range(0, len(texts) - window + 1, window):
        ordered = sorted(texts[at : at + window], key=len)
        yield from (ordered[i : i + ITEMS_MAX] for i in range(0, window - ITEMS_MAX + 1, ITEMS_MAX))


class Rows(list[dict[str, Any]]):
    """What was measured. A row is printed when it comes, under a head whenever its columns are others."""

    def add(self, **row: Any) -> None:
        if not self or self[-1].keys() != row.keys():
            print("\n" + "  ".join(f"{name:>8}" for name in row))
        self.append(row)
        print("  ".join(f"{_text(value):>{max(8, len(name))}}" for name, value in row.items()), flush=True)


def _text(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def parser(description: str | None) -> argparse.ArgumentParser:
    made = record.parser(description)
    made.add_argument("--service", type=Service.of, default=Service.of(SERVICE), metavar="l,o,a,b")
    return made
