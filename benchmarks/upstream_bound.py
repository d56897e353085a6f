"""Is the gateway faster than its servers called directly, and than other balancers?

Fair: real Infinity servers, the same texts, base64 for all, interleaved runs in one process of load. The
servers run on one core, the load and what is measured share the other. With several servers `direct` calls
one: all of them share a core, so it has the same computing power behind it.

`--hand` adds, beside the most connections, a caller who sends full batches of 32 texts, of like length where
lengths differ, out of 20,000; a gateway sees only those that are waiting. That is nearly a ceiling: smaller
batches of the longest texts may suit a CPU better.

    python -m benchmarks.upstream_bound [--model tiny|minilm] [--servers 1] [--texts short|mixed]
        [--connections 1,4,8,16,32,64,256] [--targets direct,nginx,haproxy,litellm,gateway] [--hand]
        [--seconds 4] [--warm-up 1] [--rounds 3] [--json FILE]
"""

import argparse
import math
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks import record
from benchmarks.stage import TEXTS, Calls, Stage, compare

HAND = "hand"
_BATCH = 32
_HAND_CONNECTIONS = 4  # Enough that a batch always waits at the server.
_HEAD = (
    *("conns", "target", "texts/s", "p50 ms", "p95 ms", "p99 ms", "errors", "cpu µs", "ratio", "p99 x"),
    *("of hand", "batch", "busiest"),
)
_ROW = "{:>5} {:<28} {:>8} {:>8} {:>8} {:>8} {:>6} {:>6} {:>6} {:>6} {:>7} {:>6} {:>7}"


@dataclass(frozen=True, slots=True)
class Sent:
    """What a gateway has sent so far."""

    items: Counter[str] = field(default_factory=Counter)
    """By deployment."""
    batches: float = 0.0

    def since(self, before: "Sent") -> dict[str, float]:
        items = self.items - before.items
        total, batches = items.total(), self.batches - before.batches
        return {
            "batch": total / max(1.0, batches),
            "busiest": max(items.values(), default=0.0) * len(self.items) / max(1.0, total),
        }


async def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    targets = options.targets.split(";" if ";" in options.targets else ",")
    counts = [int(count) for count in options.connections.split(",")]
    rows: list[dict[str, Any]] = []
    async with Stage(options.model, options.servers, targets) as stage:
        texts = TEXTS[options.texts](20_000)
        bodies = stage.bodies(texts)
        by_hand = stage.bodies(full_batches(texts, by_length=options.texts != "short"))
        print(_ROW.format(*_HEAD), flush=True)
        for count in counts:
            calls = {
                target: Calls(f"{stage.urls[target]}/embeddings", bodies, count, stage.pids.get(target))
                for target in targets
            }
            if options.hand and count == max(counts):
                url = f"{stage.servers[0].url}/embeddings"
                calls[HAND] = Calls(url, by_hand, _HAND_CONNECTIONS, items=_BATCH)
            before = {target: await _sent(stage, target) for target in stage.gateways}
            part = await compare(calls, options.rounds, options.seconds, options.warm_up)
            for row in part:
                target = row["target"]
                now = await _sent(stage, target) if target in before else Sent()
                row |= now.since(before.get(target, Sent()))
            _against_others(part)
            rows += part
    return rows


def full_batches(texts: Sequence[str], by_length: bool) -> list[Sequence[str]]:
    """Batches as who has all texts at once cuts them, in an order where any second has all lengths."""
    ordered = sorted(texts, key=len) if by_length else texts
    batches = [ordered[at : at + _BATCH] for at in range(0, len(ordered), _BATCH)]
    step = round(len(batches) * 0.618)
    while math.gcd(step, len(batches)) > 1:
        step += 1
    return [batches[turn * step % len(batches)] for turn in range(len(batches))]


def _against_others(rows: Sequence[dict[str, Any]]) -> None:
    """Each target against the best that is not the gateway, and against batches cut by hand."""
    by_hand = next((row["rate"] for row in rows if row["target"] == HAND), float("nan"))
    others = [row for row in rows if not row["target"].startswith(("gateway", HAND))] or rows
    best = max(row["rate"] for row in others)
    least = min(row["p99_ms"] for row in others)
    for row in rows:
        row |= {
            "ratio": row["rate"] / best,
            "p99_ratio": row["p99_ms"] / least,
            "of_hand": row["rate"] / by_hand,
        }
        print(
            _ROW.format(
                row["connections"], row["target"][-28:], f"{row['rate']:.0f}", f"{row['p50_ms']:.1f}",
                f"{row['p95_ms']:.1f}", f"{row['p99_ms']:.1f}", row["errors"], f"{row['cpu_us']:.0f}",
                f"{row['ratio']:.2f}", f"{row['p99_ratio']:.2f}", f"{row['of_hand']:.2f}",
                f"{row['batch']:.1f}", f"{row['busiest']:.2f}",
            ),
            flush=True,
        )  # fmt: skip


async def _sent(stage: Stage, target: str) -> Sent:
    items: Counter[str] = Counter()
    batches = 0.0
    for sample, value in (await stage.gateways[target].metrics()).items():
        if found := re.match(r'infinity_gateway_batch_items_sum\{.*deployment="([^"]*)"', sample):
            items[found[1]] += int(value)
        elif sample.startswith("infinity_gateway_batch_items_count"):
            batches += value
    return Sent(items, batches)


def main() -> int:
    parser = record.parser(__doc__)
    parser.add_argument("--model", choices=("tiny", "minilm"), default="tiny")
    parser.add_argument("--servers", type=int, default=1)
    parser.add_argument("--texts", choices=TEXTS, default="short")
    parser.add_argument("--connections", default="1,4,8,16,32,64,256")
    parser.add_argument("--targets", default="direct,nginx,haproxy,litellm,gateway")
    parser.add_argument("--hand", action="store_true")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--warm-up", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    return record.run(parser, measure)


if __name__ == "__main__":
    sys.exit(main())
