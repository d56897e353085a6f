"""Do the defaults fit every server? Nothing is set: how many batches are under way, and of what, is learned.

Service times drawn from a seed, log-uniform over a tenfold range of each l, o, a and b (over fortyfold of b):
2 to 20 ms, 1 to 10 ms, 0.1 to 1 ms, and 1 to 40 µs a token, of which a stand-in sees four characters. For
each, single texts of mixed lengths at several numbers of connections, through the gateway with its defaults
and through one with each fixed setting. Where `core` comes near 1 the gateway is what limits, and the setting
hardly matters.

    python -m benchmarks.profiles [--seed 1] [--profiles 6] [--first 0] [--connections 8,64,256]
        [--in-flight 1,2,4,8,16] [--items 32,16,8] [--seconds 2] [--json FILE]
"""

import argparse
import math
import random
import sys
from collections.abc import Sequence

from benchmarks import record
from benchmarks.scripted import Rows, Service, calls, gateway, measure, parser, stand_ins
from benchmarks.texts import mixed_lengths

_RANGES = ((2e-3, 20e-3), (1e-3, 10e-3), (0.1e-3, 1e-3), (1e-6, 40e-6))
_CHARS_A_TOKEN = 4


def profiles(seed: int, count: int) -> list[Service]:
    """Service times, the same first ones for each count."""
    rng = random.Random(seed)
    drawn = [
        [math.exp(rng.uniform(math.log(least), math.log(most))) for least, most in _RANGES]
        for _ in range(count)
    ]
    return [Service(l_s, o_s, a_s, b_s / _CHARS_A_TOKEN) for l_s, o_s, a_s, b_s in drawn]


async def benchmark(options: argparse.Namespace) -> Rows:
    rows = Rows()
    bodies = calls(mixed_lengths(20_000))
    counts = _numbers(options.connections)
    settings = [
        {"in_flight_max": f, "items_max": i}
        for i in _numbers(options.items)
        for f in _numbers(options.in_flight)
    ]
    ratios: list[float] = []
    for number, service in enumerate(profiles(options.seed, options.first + options.profiles)):
        if number < options.first:
            continue
        rates: dict[int, list[float]] = {count: [] for count in counts}
        for setting in ({}, *settings):
            async with stand_ins([service]) as servers, gateway(servers, setting) as process:
                for count in counts:
                    measured = await measure(
                        [f"{process.url}/embeddings"], bodies, count, options.seconds, servers, [process]
                    )
                    result = measured.result
                    rates[count].append(result.rate)
                    rows.add(
                        profile=number, service=str(service), connections=count,
                        in_flight=setting.get("in_flight_max", "auto"),
                        items=setting.get("items_max", "auto"), texts_s=result.rate,
                        p50_ms=result.percentile_ms(50), p99_ms=result.percentile_ms(99),
                        busy=measured.work[0].busy_s / options.seconds, core=measured.core,
                        errors=result.errors,
                    )  # fmt: skip
        for count in counts:
            auto, *fixed = rates[count]
            best = max(range(len(fixed)), key=fixed.__getitem__)
            ratios.append(auto / fixed[best])
            rows.add(
                profile=number, service=str(service), connections=count, auto_s=auto, best_s=fixed[best],
                best_in_flight=settings[best]["in_flight_max"], best_items=settings[best]["items_max"],
                worst_s=min(fixed), ratio=ratios[-1],
            )  # fmt: skip
    rows.add(profiles=options.profiles, least_ratio=min(ratios), mean_ratio=sum(ratios) / len(ratios))
    return rows


def _numbers(text: str) -> Sequence[int]:
    return [int(part) for part in text.split(",")]


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--profiles", type=int, default=6)
    options.add_argument("--first", type=int, default=0, help="the number of the first profile")
    options.add_argument("--connections", default="8,64,256")
    options.add_argument("--in-flight", default="1,2,4,8,16")
    options.add_argument("--items", default="32,16,8")
    options.add_argument("--seconds", type=float, default=2)
    return record.run(options, benchmark)


if __name__ == "__main__":
    sys.exit(main())
