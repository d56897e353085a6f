"""What does the gateway itself cost? Calls a second on one core, and the latency that it adds.

A stand-in that answers at once shares a core with the load; the gateway has the other to itself, with a key,
metrics and deduplication on. LiteLLM in the same place beside it.

    python -m benchmarks.gateway_bound [--targets direct,gateway,litellm] [--connections 1,64,1000]
        [--seconds 4] [--rounds 3] [--json FILE]
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

from benchmarks import peers
from benchmarks.load import Result, closed_loop
from benchmarks.stage import cpu_s, pin
from benchmarks.stand_in import MODEL
from benchmarks.texts import short_questions
from tests.gateway_process import GatewayProcess

_LOAD_CORE, _GATEWAY_CORE = 0, 1
_KEY = "sk-benchmark"
_HEAD = ("format", "conns", "target", "calls/s", "p50 ms", "p99 ms", "errors", "cpu µs", "RSS MB")
_ROW = "{:>7} {:>6} {:<8} {:>8} {:>8} {:>8} {:>6} {:>7} {:>7}"


@asynccontextmanager
async def stand_in(*arguments: str) -> AsyncIterator[tuple[str, int]]:
    """A stand-in as a process: its address and process id."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.stand_in", *arguments), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout
    try:
        port = int(await process.stdout.readline())
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        await process.wait()


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
            pin(pid, _GATEWAY_CORE % (os.cpu_count() or 1))
        print(_ROW.format(*_HEAD), flush=True)
        for encoding in ("base64", "float"):
            texts = short_questions(20_000)
            bodies = [
                orjson.dumps({"model": MODEL, "input": text, "encoding_format": encoding}) for text in texts
            ]
            for count in map(int, options.connections.split(",")):
                rounds: dict[str, list[Result]] = {target: [] for target in urls}
                used = dict.fromkeys(urls, 0.0)
                for _ in range(options.rounds):
                    for target, url in urls.items():
                        before = cpu_s(pids[target]) if target in pids else 0.0
                        result = await closed_loop(
                            f"{url}/embeddings", bodies, count, options.seconds, key=_KEY
                        )
                        after = cpu_s(pids[target]) if target in pids else 0.0
                        used[target] += (after - before) / max(1, result.calls * (1 + 1 / options.seconds))
                        rounds[target].append(result)
                for target, results in rounds.items():
                    row = {
                        "encoding": encoding,
                        "connections": count,
                        "target": target,
                        "rate": statistics.median(result.rate for result in results),
                        "p50_ms": statistics.median(result.percentile_ms(50) for result in results),
                        "p99_ms": statistics.median(result.percentile_ms(99) for result in results),
                        "errors": sum(result.errors for result in results),
                        "cpu_us": 1e6 * used[target] / options.rounds,
                        "resident_mb": resident_mb(pids[target]) if target in pids else 0.0,
                    }
                    rows.append(row)
                    print(
                        _ROW.format(
                            encoding, count, target, f"{row['rate']:.0f}", f"{row['p50_ms']:.2f}",
                            f"{row['p99_ms']:.2f}", row["errors"], f"{row['cpu_us']:.0f}",
                            f"{row['resident_mb']:.0f}",
                        ),
                        flush=True,
                    )  # fmt: skip
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--targets", default="direct,gateway,litellm")
    parser.add_argument("--connections", default="1,64,1000")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = asyncio.run(measure(options))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
