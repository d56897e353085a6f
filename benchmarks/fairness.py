"""Does a flood of bulk calls stand in the way of those who wait for an answer?

One stand-in with a service time. Interactive calls of a single text come at random times, alone, and beside
connections that send calls of 2,048 texts without end, with another API key than theirs and with the same.
`bound` is two full batches, of which one may be under way and one on its way there, and the idle latency,
each as measured; `bulk` is the flood's throughput beside that of the flood alone.

    python -m benchmarks.fairness [--service l,o,a,b] [--rate 20] [--flood 6] [--seconds 15] [--json FILE]
"""

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from benchmarks import record
from benchmarks.load import open_loop
from benchmarks.scripted import ITEMS_MAX, Rows, calls, gateway, measure, over, parser, stand_ins
from benchmarks.texts import short_questions

_BULK_ITEMS = 2048
_KEY, _OTHER_KEY = "sk-interactive", "sk-bulk"


@asynccontextmanager
async def _flood(url: str, connections: int, key: str) -> AsyncIterator[None]:
    """Each connection sends its next call when it has its answer, and hangs up when the block ends."""
    bodies = calls(short_questions(_BULK_ITEMS * connections, seed=3), [_BULK_ITEMS])
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    async def send(session: aiohttp.ClientSession, body: bytes) -> None:
        while True:
            async with session.post(url, data=body, headers=headers) as response:
                response.raise_for_status()
                await response.read()

    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        tasks = [group.create_task(send(session, body)) for body in bodies]
        yield
        for task in tasks:
            task.cancel()


async def benchmark(options: argparse.Namespace) -> Rows:
    rows = Rows()
    texts = short_questions(20_000)
    async with stand_ins([options.service]) as servers, gateway(servers) as process:
        (server,) = servers
        url = f"{process.url}/embeddings"
        full = calls(texts, [ITEMS_MAX])
        work = (await measure([f"{server.url}/embeddings"], full, 1, 2, servers, warm_up_s=0.2)).work[0]
        full_batch_s = ITEMS_MAX * work.busy_s / work.items

        async with _flood(url, options.flood, _OTHER_KEY):
            (work,), core = await over(2, options.seconds / 2, servers, [process])
        bulk_alone_s = 2 * work.items / options.seconds
        rows.add(flood="alone", full_batch_ms=1e3 * full_batch_s, bulk_items_s=bulk_alone_s, core=core)

        async def interactive(flood: str) -> float:
            """The latency at the median, in milliseconds."""
            load = asyncio.create_task(
                open_loop(url, calls(texts), options.rate, options.seconds, 2, key=_KEY)
            )
            (work,), core = await over(2, options.seconds, servers, [process])
            result = await load
            p50_ms, p99_ms = result.percentile_ms(50), result.percentile_ms(99)
            bulk_s = max(0.0, work.items / options.seconds - result.rate)
            bound_ms = 2e3 * full_batch_s + (idle_ms or p50_ms)
            rows.add(
                flood=flood, calls=result.calls, errors=result.errors, p50_ms=p50_ms, p99_ms=p99_ms,
                bound_ms=bound_ms, p99_of_bound=p99_ms / bound_ms, bulk_items_s=bulk_s,
                bulk=bulk_s / bulk_alone_s, core=core,
            )  # fmt: skip
            return p50_ms

        idle_ms = 0.0
        idle_ms = await interactive("none")
        for flood, key in (("other key", _OTHER_KEY), ("same key", _KEY)):
            async with _flood(url, options.flood, key):
                await interactive(flood)
    return rows


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--rate", type=float, default=20, help="interactive calls a second")
    options.add_argument("--flood", type=int, default=6, help="connections with calls of 2,048 texts")
    options.add_argument("--seconds", type=float, default=15)
    return record.run(options, benchmark)


if __name__ == "__main__":
    sys.exit(main())
