"""Do several gateways that do not know of each other get in each other's way?

One, two and four gateway processes on the same two servers, with the same number of connections in all, in
turn; they share a core, as one alone has it. Texts of mixed lengths, a call each. With `--model` the servers
are real ones, else stand-ins.

    python -m benchmarks.gateways [--service l,o,a,b] [--model tiny|minilm] [--connections 128] [--seconds 5]
        [--rounds 3] [--json FILE]
"""

import argparse
import statistics
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from benchmarks import record
from benchmarks.scripted import (
    GATEWAY_CORE,
    Measured,
    Rows,
    Server,
    calls,
    gateway,
    measure,
    parser,
    stand_ins,
)
from benchmarks.stage import TEXTS, Stage, pin
from tests.gateway_process import GatewayProcess

_SERVERS = 2
_COUNTS = (1, 2, 4)
_WARM_UP_S = 8.0
"""In so much time each has seen that the servers are not its own, or are again."""


@asynccontextmanager
async def _on_stand_ins(
    options: argparse.Namespace,
) -> AsyncIterator[tuple[Sequence[Server], list[GatewayProcess]]]:
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(stand_ins([options.service] * _SERVERS))
        yield servers, [await stack.enter_async_context(gateway(servers)) for _ in range(_COUNTS[-1])]


async def benchmark(options: argparse.Namespace) -> Rows:
    rows = Rows()
    texts = TEXTS[options.texts](20_000)
    async with AsyncExitStack() as stack:
        servers: Sequence[Server] = ()
        if options.model:
            # Targets differ by their names; the variable means nothing to a gateway.
            names = [f"gateway@NUMBER={number}" for number in range(_COUNTS[-1])]
            stage = await stack.enter_async_context(Stage(options.model, _SERVERS, names))
            processes, bodies = [stage.gateways[name] for name in names], stage.bodies(texts)
        else:
            servers, processes = await stack.enter_async_context(_on_stand_ins(options))
            bodies = calls(texts)
        for process in processes:
            pin(process.pid, GATEWAY_CORE)
        rounds: dict[int, list[Measured]] = {count: [] for count in _COUNTS}
        for _ in range(options.rounds):
            for count, measured in rounds.items():
                urls = [f"{process.url}/embeddings" for process in processes[:count]]
                measured.append(
                    await measure(
                        *(urls, bodies, options.connections, options.seconds, servers, processes[:count]),
                        _WARM_UP_S,
                    )
                )
        first: dict[str, float] = {}
        for count, found in rounds.items():
            results = [each.result for each in found]
            row = {
                "texts_s": statistics.median(result.rate for result in results),
                "p50_ms": statistics.median(result.percentile_ms(50) for result in results),
                "p99_ms": statistics.median(result.percentile_ms(99) for result in results),
            }
            first = first or row
            rows.add(
                gateways=count, connections=options.connections, **row,
                ratio=row["texts_s"] / first["texts_s"], p99_ratio=row["p99_ms"] / first["p99_ms"],
                errors=sum(result.errors for result in results),
                core=statistics.median(each.core for each in found),
            )  # fmt: skip
    return rows


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--model", choices=("tiny", "minilm"))
    options.add_argument("--texts", choices=TEXTS, default="mixed")
    options.add_argument("--connections", type=int, default=128)
    options.add_argument("--seconds", type=float, default=5)
    options.add_argument("--rounds", type=int, default=3)
    options.set_defaults(servers=_SERVERS)
    return record.run(options, benchmark)


if __name__ == "__main__":
    sys.exit(main())
