"""Is the gateway faster than its servers called directly?

Fair: real Infinity servers, the same texts, base64 for both, interleaved runs in one process of load. The
servers run on one core, the load and the gateway share the other. Unfair to direct: it calls one server,
the gateway two on the same core, so both have the same computing power behind them.

    python -m benchmarks.upstream_bound [--seconds 5] [--connections 1,8,64,256] [--texts short|mixed]
        [--in-flight-max 8]
"""

import argparse
import asyncio
import os
import statistics
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson

from benchmarks.load import Result, closed_loop
from benchmarks.texts import mixed_lengths, short_questions
from gateway.core.settings import BatchingSettings
from tests.gateway_process import GatewayProcess, mean
from tests.real_infinity import RealInfinity, ServedModel, model_dir

_TEXTS = {"short": short_questions, "mixed": mixed_lengths}
_ROUNDS = 3
_ROW = "{:>11} {:>8} {:>8} {:>8} {:>8} {:>6} {:>6}"


def _pin(pid: int, core: int) -> None:
    """Keep a process on one core; its threads-to-come follow."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), {core})


async def measure(
    texts: Sequence[str], connections: Sequence[int], seconds: float, in_flight_max: int
) -> None:
    bodies = [orjson.dumps({"model": "bert", "input": text, "encoding_format": "base64"}) for text in texts]
    async with AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(RealInfinity([ServedModel("bert", model_dir("bert"))]))
            for _ in range(2)
        ]
        for server in servers:
            _pin(server.pid, 0)
        config = Path(stack.enter_context(TemporaryDirectory())) / "gateway.yaml"
        config.write_text(f"gateway: {{batching: {{in_flight_max: {in_flight_max}}}}}\n")
        bases = ",".join(server.url for server in servers)
        gateway = await stack.enter_async_context(
            GatewayProcess(config=config, environ={"INFINITY_API_BASE": bases})
        )
        cores = os.cpu_count() or 1
        _pin(gateway.pid, 1 % cores)
        os.sched_setaffinity(0, {1 % cores})
        await gateway.wait_ready(deployments=2)
        targets = {"direct": f"{servers[0].url}/embeddings", "gateway": f"{gateway.url}/embeddings"}
        print(_ROW.format("connections", "target", "texts/s", "p50 ms", "p99 ms", "errors", "ratio"))
        for count in connections:
            rounds: dict[str, list[Result]] = {name: [] for name in targets}
            for _ in range(_ROUNDS):
                for name, url in targets.items():
                    rounds[name].append(await closed_loop(url, bodies, count, seconds))
            direct = statistics.median(result.rate for result in rounds["direct"])
            for name, results in rounds.items():
                rate = statistics.median(result.rate for result in results)
                p50 = statistics.median(result.percentile_ms(50) for result in results)
                p99 = statistics.median(result.percentile_ms(99) for result in results)
                errors = sum(result.errors for result in results)
                row = (count, name, f"{rate:.0f}", f"{p50:.1f}", f"{p99:.1f}", errors, f"{rate / direct:.2f}")
                print(_ROW.format(*row))
        samples = await gateway.metrics()
        print(f"mean items in a batch: {mean(samples, 'infinity_gateway_batch_items'):.1f}")
        for name, value in samples.items():
            if name.startswith("infinity_gateway_upstream_requests_total"):
                print(f"{name} {value:.0f}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--connections", default="1,8,64,256")
    parser.add_argument("--in-flight-max", type=int, default=BatchingSettings().in_flight_max)
    parser.add_argument("--texts", choices=_TEXTS, default="short")
    options = parser.parse_args()
    connections = [int(count) for count in options.connections.split(",")]
    texts = _TEXTS[options.texts](20_000)
    asyncio.run(measure(texts, connections, options.seconds, options.in_flight_max))
    return 0


if __name__ == "__main__":
    sys.exit(main())
