"""What does the gateway itself cost? Calls a second on one core, and the latency that it adds.

A stand-in that answers at once shares a core with the load; the gateway has the other to itself, with a key,
metrics and deduplication on. LiteLLM in the same place beside it.

    python -m benchmarks.gateway_bound [--targets direct,gateway,litellm] [--connections 1,64,1000]
        [--seconds 4] [--rounds 3] [--json FILE]
"""

import argparse
import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

from benchmarks import peers, record
from benchmarks.stage import Calls, compare, pin, stand_in
from benchmarks.stand_in import MODEL
from benchmarks.texts import short_questions
from tests.gateway_process import GatewayProcess

_LOAD_CORE, _GATEWAY_CORE = 0, 1
_KEY = "sk-benchmark"
_HEAD = ("format", "conns", "target", "calls/s", "p50 ms", "p99 ms", "errors", "cpu µs", "RSS MB")
_ROW = "{:>7} {:>6} {:<8} {:>8} {:>8} {:>8} {:>6} {:>7} {:>7}"


def resident_mb(pid: int) -> float:
    """The memory that a process holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


async def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    os.sched_setaffinity(0, {_LOAD_CORE})
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory()))
        base, _ = await stack.enter_async_context(stand_in())
        urls, pids = {"direct": base}, {}
        if "gateway" in options.targets:
            gateway = await stack.enter_async_context(
                GatewayProcess(environ={"INFINITY_API_BASE": base, "GATEWAY_MASTER_KEY": _KEY})
            )
            await gateway.wait_ready()
            urls["gateway"], pids["gateway"] = gateway.url, gateway.pid
        if "litellm" in options.targets:
            urls["litellm"], pids["litellm"] = await stack.enter_async_context(
                peers.litellm([base], MODEL, directory)
            )
        for pid in pids.values():
            pin(pid, _GATEWAY_CORE)
        texts = short_questions(20_000)
        print(_ROW.format(*_HEAD), flush=True)
        for encoding in ("base64", "float"):
            bodies = [
                orjson.dumps({"model": MODEL, "input": text, "encoding_format": encoding}) for text in texts
            ]
            for count in map(int, options.connections.split(",")):
                calls = {
                    target: Calls(f"{url}/embeddings", bodies, count, pids.get(target), _KEY)
                    for target, url in urls.items()
                }
                for row in await compare(calls, options.rounds, options.seconds):
                    target = row["target"]
                    resident = resident_mb(pids[target]) if target in pids else 0.0
                    rows.append({"encoding": encoding, **row, "resident_mb": resident})
                    _print(rows[-1])
    return rows


def _print(row: dict[str, Any]) -> None:
    print(
        _ROW.format(
            row["encoding"], row["connections"], row["target"], f"{row['rate']:.0f}", f"{row['p50_ms']:.2f}",
            f"{row['p99_ms']:.2f}", row["errors"], f"{row['cpu_us']:.0f}", f"{row['resident_mb']:.0f}",
        ),
        flush=True,
    )  # fmt: skip


def main() -> int:
    parser = record.parser(__doc__)
    parser.add_argument("--targets", default="direct,gateway,litellm")
    parser.add_argument("--connections", default="1,64,1000")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    return record.run(parser, measure)


if __name__ == "__main__":
    sys.exit(main())
