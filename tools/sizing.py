"""How many gateways and servers a rate of queries needs: the README's table, or with one's own figures.

    python tools/sizing.py                                    # into the README, from benchmarks/runs
    python tools/sizing.py --queries 3000 --texts-s 1200      # from what one of your servers carries

The table stands between `<!-- sizing -->` and `<!-- /sizing -->`.
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
RUNS = ROOT / "benchmarks" / "runs"

QUERIES = (1_000, 5_000, 20_000)
UTILISATION = 0.65
SERVERS = {
    "tiny, short": "upstream_short",
    "tiny, long-tailed": "upstream_mixed",
    "MiniLM, long-tailed": "upstream_minilm",
}
_MARKED = re.compile(r"(?<=<!-- sizing -->\n).*?(?=<!-- /sizing -->)", re.DOTALL)


class Gateway(NamedTuple):
    """What one costs, at its most expensive."""

    cpu_us: float
    """For each call of one text."""
    resident_mb: float
    calls_s: float
    """What one process carries, at its least."""


class Need(NamedTuple):
    pods: int
    cores: float
    """That the gateways use; each pod has one."""
    memory_mb: float
    """That the gateways hold, before anything waits."""
    servers: int


def read(name: str) -> list[dict[str, Any]]:
    """The rows of a run."""
    rows: list[dict[str, Any]] = json.loads((RUNS / f"{name}.json").read_text())["rows"]
    return rows


def gateway(rows: Sequence[dict[str, Any]]) -> Gateway:
    """Of `gateway_bound`: the worst of base64 and floats, of 64 and 1,000 connections."""
    own = [row for row in rows if row["target"] == "gateway" and row["connections"] >= 64]
    return Gateway(
        max(row["cpu_us"] for row in own),
        max(row["resident_mb"] for row in own),
        min(row["rate"] for row in own),
    )


def server(rows: Sequence[dict[str, Any]]) -> float:
    """Of an `upstream_bound`: the texts a second of one server behind the gateway when batches are full."""
    own = [row for row in rows if row["target"] == "gateway"]
    return float(max(own, key=lambda row: int(row["connections"]))["rate"])


def shared(rows: Sequence[dict[str, Any]], pods: int) -> float:
    """Of `gateways`: the part of what one gateway gets out of its servers that so many get out of them.

    Where so many were not measured, that of the next more; past the most that were, that of those.
    """
    measured = sorted((int(row["gateways"]), float(row["ratio"])) for row in rows)
    found = next((ratio for count, ratio in measured if count >= pods), measured[-1][1])
    return min(1.0, found)


def need(queries_s: float, each: Gateway, texts_s: float, gateways: Sequence[dict[str, Any]]) -> Need:
    """For queries of one text, with one pod and one server to lose."""
    cores = queries_s * each.cpu_us / 1e6
    # By the clock as well: a process may carry less than its processor time says.
    busy = max(cores, queries_s / each.calls_s)
    pods = math.ceil(busy / UTILISATION) + 1
    servers = math.ceil(queries_s / (texts_s * shared(gateways, pods) * UTILISATION)) + 1
    return Need(pods, cores, pods * each.resident_mb, servers)


def table() -> str:
    """Of the committed runs."""
    each, gateways = gateway(read("gateway_bound")), read("gateways")
    texts_s = {name: server(read(run)) for name, run in SERVERS.items()}
    head = ["queries/s", "gateway pods", "cores they use", "memory they hold"]
    head += [f"servers: {name} ({number(rate)}/s each)" for name, rate in texts_s.items()]
    lines = [head, ["---:"] * len(head)]
    for queries in QUERIES:
        needs = [need(queries, each, rate, gateways) for rate in texts_s.values()]
        first = needs[0]
        lines.append([
            f"{queries:,}", str(first.pods), f"{first.cores:.1f}", f"{first.memory_mb / 1e3:.1f} GB",
            *(f"{one.servers:,}" for one in needs),
        ])  # fmt: skip
    rows = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return (
        f"{rows}\n\nOf `gateway_bound`, at its worst: c = {number(each.cpu_us)} µs, "
        f"g = {number(each.calls_s)} calls/s, {number(each.resident_mb)} MB a pod. Of `gateways`: e = "
        + ", ".join(f"{shared(gateways, int(row['gateways'])):.2f} for {row['gateways']}" for row in gateways)
        + f" gateways; more were not measured. Target {UTILISATION:.0%}. No GPU was measured.\n"
    )


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def fill(text: str, made: str) -> str:
    """`text` with the table between its markers. Raises ValueError when there are none."""
    filled, places = _MARKED.subn(lambda _: made, text)
    if places != 1:
        raise ValueError(f"{places} places for the table of sizes; there must be one")
    return filled


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--queries", type=float, help="queries a second")
    parser.add_argument("--texts-s", type=float, help="texts a second that one of your servers carries")
    options = parser.parse_args()
    if (options.queries is None) != (options.texts_s is None):
        parser.error("--queries and --texts-s go together")
    if options.queries is None:
        README.write_text(fill(README.read_text(), table()))
        return 0
    if min(options.queries, options.texts_s) <= 0:
        parser.error("expected numbers above 0")
    found = need(options.queries, gateway(read("gateway_bound")), options.texts_s, read("gateways"))
    print(f"{found.pods} gateway pods, which use {found.cores:.1f} cores; {found.servers} servers")
    return 0


if __name__ == "__main__":
    sys.exit(main())
