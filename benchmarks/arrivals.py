"""What do callers meet who do not wait for each other? Latency at a constant rate of calls: an open load.

k6 sends single texts at shares of what one server, called directly by 64 who wait, carries. Its `dropped`
calls are those that it could not send since all its callers were waiting. k6 shares a core with what is
measured and costs far more than the load of the other benchmarks: `k6 core` is the share of that core which
it used, its start included, and where little of the core is left the figures are those of k6.

    python -m benchmarks.arrivals [--model tiny|minilm] [--texts short|mixed]
        [--targets direct,haproxy,gateway] [--shares 30,60,90,120] [--seconds 8] [--rounds 3] [--json FILE]
"""

import argparse
import asyncio
import os
import resource
import statistics
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

from benchmarks import record
from benchmarks.load import closed_loop
from benchmarks.peers import PEERS
from benchmarks.stage import TEXTS, Stage

_CONNECTIONS = 64
_WARM_UP_S = 2
_CALLERS = 400
_SCRIPT = Path(__file__).with_suffix(".js")
_HEAD = (
    "share",
    "calls/s",
    "target",
    "answered",
    "p50 ms",
    "p95 ms",
    "p99 ms",
    "dropped",
    "errors",
    "k6 core",
)
_ROW = "{:>5} {:>8} {:<10} {:>8} {:>8} {:>8} {:>8} {:>7} {:>6} {:>7}"


async def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    targets = options.targets.split(",")
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory() as directory:
        async with Stage(options.model, 1, targets) as stage:
            bodies = stage.bodies(TEXTS[options.texts](8_000))
            sent = Path(directory) / "bodies.json"
            sent.write_bytes(orjson.dumps([body.decode() for body in bodies]))
            url = f"{stage.servers[0].url}/embeddings"
            capacity = (await closed_loop(url, bodies, _CONNECTIONS, options.seconds)).rate
            print(f"one server, called directly over {_CONNECTIONS} connections: {capacity:.0f} texts/s")
            print(_ROW.format(*_HEAD), flush=True)
            for share in map(float, options.shares.split(",")):
                rate = capacity * share / 100
                rounds: dict[str, list[dict[str, float]]] = {target: [] for target in targets}
                for _ in range(options.rounds):
                    for target in targets:
                        found = await _k6(f"{stage.urls[target]}/embeddings", sent, rate, options.seconds)
                        rounds[target].append(found)
                for target, each in rounds.items():
                    medians = {key: statistics.median(found[key] for found in each) for key in each[0]}
                    rows.append({"share": share, "rate": rate, "target": target, **medians})
                    _print(rows[-1])
    return rows


async def _k6(url: str, bodies: Path, rate: float, seconds: float) -> dict[str, float]:
    """One run: latencies, what was not sent or not answered, and the share of a core that k6 took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    environ = {"URL": url, "BODIES": bodies, "RATE": rate, "SECONDS": seconds}
    environ |= {"WARM_UP": _WARM_UP_S, "CALLERS": _CALLERS}
    process = await asyncio.create_subprocess_exec(
        *(PEERS / "bin" / "k6", "run", "--quiet", "--no-usage-report", "--address", "", _SCRIPT),
        env={**os.environ, **{key: str(value) for key, value in environ.items()}},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, said = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"k6 ended with {process.returncode}:\n{said.decode()[-2000:]}")
    metrics = {name: metric["values"] for name, metric in orjson.loads(output).items()}
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    latency = metrics["iteration_duration{scenario:measured}"]
    return {
        "answered": latency["count"] / seconds,
        **{f"p{part}_ms": latency[f"p({part})"] for part in (50, 95, 99)},
        "dropped": metrics["dropped_iterations{scenario:measured}"]["count"],
        "errors": metrics["http_req_failed{scenario:measured}"]["passes"],
        "k6_core": (after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime) / (seconds + _WARM_UP_S),
    }


def _print(row: dict[str, Any]) -> None:
    print(
        _ROW.format(
            f"{row['share']:.0f}%", f"{row['rate']:.0f}", row["target"], f"{row['answered']:.0f}",
            f"{row['p50_ms']:.1f}", f"{row['p95_ms']:.1f}", f"{row['p99_ms']:.1f}", f"{row['dropped']:.0f}",
            f"{row['errors']:.0f}", f"{row['k6_core']:.2f}",
        ),
        flush=True,
    )  # fmt: skip


def main() -> int:
    parser = record.parser(__doc__)
    parser.add_argument("--model", choices=("tiny", "minilm"), default="tiny")
    parser.add_argument("--texts", choices=TEXTS, default="short")
    parser.add_argument("--targets", default="direct,haproxy,gateway")
    parser.add_argument("--shares", default="30,60,90,120")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    return record.run(parser, measure)


if __name__ == "__main__":
    sys.exit(main())
