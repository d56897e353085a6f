"""Is the gateway faster than its servers called directly, and than other balancers?

Fair: real Infinity servers, the same texts, base64 for all, interleaved runs in one process of load. The
servers run on one core, the load and what is measured share the other. With several servers `direct` calls
one: all of them share a core, so it has the same computing power behind it.

    python -m benchmarks.upstream_bound [--model tiny|minilm] [--servers 1] [--texts short|mixed]
        [--connections 1,4,8,16,32,64,256] [--targets direct,nginx,haproxy,litellm,gateway] [--seconds 4]
        [--rounds 3] [--json FILE]
"""

import argparse
import asyncio
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.load import Result, closed_loop
from benchmarks.stage import TEXTS, Stage, cpu_s

_HEAD = (
    *("conns", "target", "texts/s", "p50 ms", "p95 ms", "p99 ms", "errors", "ratio", "p99 x"),
    *("batch", "cpu ms"),
)
_ROW = "{:>5} {:<28} {:>8} {:>8} {:>8} {:>8} {:>6} {:>6} {:>6} {:>7} {:>6}"


async def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    targets = options.targets.split(";" if ";" in options.targets else ",")
    rows: list[dict[str, Any]] = []
    async with Stage(options.model, options.servers, targets) as stage:
        bodies = stage.bodies(TEXTS[options.texts](20_000))
        print(_ROW.format(*_HEAD), flush=True)
        for count in (int(count) for count in options.connections.split(",")):
            rounds: dict[str, list[Result]] = {target: [] for target in targets}
            batches: dict[str, list[float]] = {target: [] for target in targets}
            cpu: dict[str, float] = dict.fromkeys(targets, 0.0)
            for _ in range(options.rounds):
                for target in targets:
                    before = await _batches(stage, target)
                    used = cpu_s(stage.pids[target]) if target in stage.pids else 0.0
                    result = await closed_loop(
                        f"{stage.urls[target]}/embeddings", bodies, count, options.seconds, options.warm_up
                    )
                    if target in stage.pids:
                        cpu[target] += cpu_s(stage.pids[target]) - used
                    rounds[target].append(result)
                    after = await _batches(stage, target)
                    batches[target].append((after[0] - before[0]) / max(1, after[1] - before[1]))
            rows += _report(count, rounds, batches, cpu, options.warm_up)
    return rows


def _report(
    count: int,
    rounds: Mapping[str, Sequence[Result]],
    batches: Mapping[str, Sequence[float]],
    cpu: Mapping[str, float],
    warm_up_s: float,
) -> list[dict[str, Any]]:
    """Medians over the rounds, and each target against the best that is not the gateway."""
    rows: list[dict[str, Any]] = []
    for target, results in rounds.items():
        seconds = sum(result.seconds for result in results)
        calls = sum(result.calls for result in results) * (1 + warm_up_s * len(results) / seconds)
        rows.append({
            "connections": count,
            "target": target,
            "rate": statistics.median(result.rate for result in results),
            "p50_ms": statistics.median(result.percentile_ms(50) for result in results),
            "p95_ms": statistics.median(result.percentile_ms(95) for result in results),
            "p99_ms": statistics.median(result.percentile_ms(99) for result in results),
            "errors": sum(result.errors for result in results),
            "batch": statistics.median(batches[target]),
            "cpu_ms": 1e3 * cpu[target] / max(1, calls),
            "rates": [round(result.rate, 1) for result in results],
        })  # fmt: skip
    others = [row for row in rows if not row["target"].startswith("gateway")] or rows
    best = max(row["rate"] for row in others)
    least = min(row["p99_ms"] for row in others)
    for row in rows:
        row["ratio"], row["p99_ratio"] = row["rate"] / best, row["p99_ms"] / least
        print(
            _ROW.format(
                row["connections"], row["target"][-28:], f"{row['rate']:.0f}", f"{row['p50_ms']:.1f}",
                f"{row['p95_ms']:.1f}", f"{row['p99_ms']:.1f}", row["errors"], f"{row['ratio']:.2f}",
                f"{row['p99_ratio']:.2f}", f"{row['batch']:.1f}", f"{row['cpu_ms']:.2f}",
            ),
            flush=True,
        )  # fmt: skip
    return rows


async def _batches(stage: Stage, target: str) -> tuple[float, float]:
    """Items and batches sent so far."""
    if target not in stage.gateways:
        return 0.0, 0.0
    samples = await stage.gateways[target].metrics()
    name = "infinity_gateway_batch_items"
    return tuple(  # type: ignore[return-value]
        sum(value for sample, value in samples.items() if sample.startswith(f"{name}_{part}"))
        for part in ("sum", "count")
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=("tiny", "minilm"), default="tiny")
    parser.add_argument("--servers", type=int, default=1)
    parser.add_argument("--texts", choices=TEXTS, default="short")
    parser.add_argument("--connections", default="1,4,8,16,32,64,256")
    parser.add_argument("--targets", default="direct,nginx,haproxy,litellm,gateway")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--warm-up", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = asyncio.run(measure(options))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
