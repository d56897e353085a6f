"""Does a slow server among fast ones, or a big call among small ones, make a hot spot?

Four stand-ins, one of them three times slower, and calls of which nine in ten are small and one is ten times
as big; a closed loop that saturates. `of sum` compares with what the four do when each is fed by hand: full
batches, sorted within as many texts as the load has outstanding, always one waiting. `of_ideal` compares the
share of the items that a server had with the share that it has of that sum.

    python -m benchmarks.hotspot [--service l,o,a,b] [--slower 3] [--texts short|mixed] [--small 3]
        [--connections 128] [--seconds 5] [--rounds 3] [--json FILE]
"""

import argparse
import asyncio
import statistics
import sys

from benchmarks import record
from benchmarks.scripted import Rows, by_hand, calls, gateway, measure, parser, stand_ins
from benchmarks.stage import TEXTS

_SERVERS = 4
_BIG = 10
_BIG_EVERY = 10


async def benchmark(options: argparse.Namespace) -> Rows:
    rows = Rows()
    fast = options.service
    services = [fast] * (_SERVERS - 1) + [fast.slower(options.slower)]
    texts = TEXTS[options.texts](20_000)
    sizes = [options.small] * (_BIG_EVERY - 1) + [_BIG * options.small]
    async with stand_ins(services) as servers, gateway(servers) as process:
        window = options.connections * sum(sizes) // len(sizes)
        full = [body for batch in by_hand(texts, window) for body in calls(batch, [len(batch)])]
        alone = await asyncio.gather(
            *(measure([f"{server.url}/embeddings"], full, 3, options.seconds, [server]) for server in servers)
        )
        rates = [each.items_s for each in alone]
        for number in range(options.rounds):
            measured = await measure(
                [f"{process.url}/embeddings"], calls(texts, sizes, seed=number), options.connections,
                options.seconds, servers, [process],
            )  # fmt: skip
            items = sum(work.items for work in measured.work)
            for index, (service, rate, work) in enumerate(zip(services, rates, measured.work, strict=True)):
                rows.add(
                    round=number, server=index, service=str(service), by_hand_s=rate,
                    items_s=work.items / options.seconds, share=work.items / items,
                    ideal=rate / sum(rates), of_ideal=work.items / items * sum(rates) / rate,
                    busy=work.busy_s / options.seconds,
                )  # fmt: skip
            rows.add(
                round=number, connections=options.connections, by_hand_s=sum(rates),
                items_s=measured.items_s, of_sum=measured.items_s / sum(rates),
                busiest_of_ideal=max(row["of_ideal"] for row in rows[-_SERVERS:]),
                calls_s=measured.result.rate, p50_ms=measured.result.percentile_ms(50),
                p99_ms=measured.result.percentile_ms(99), errors=measured.result.errors, core=measured.core,
            )  # fmt: skip
    rounds = [row for row in rows if "of_sum" in row]
    rows.add(
        rounds=len(rounds),
        **{
            name: statistics.median(row[name] for row in rounds)
            for name in ("by_hand_s", "items_s", "of_sum", "busiest_of_ideal", "p99_ms")
        },
    )
    return rows


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--slower", type=float, default=3, help="how many times slower the fourth is")
    options.add_argument("--texts", choices=TEXTS, default="short")
    options.add_argument("--small", type=int, default=3, help="texts in a small call")
    options.add_argument("--connections", type=int, default=128)
    options.add_argument("--seconds", type=float, default=5)
    options.add_argument("--rounds", type=int, default=3)
    return record.run(options, benchmark)


if __name__ == "__main__":
    sys.exit(main())
