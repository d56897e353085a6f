"""How soon does the gateway know that a server has become slow, and what does it do about it meanwhile?

Two stand-ins; in mid-run one of them takes `--factor` times as long for all that it does, and later as long
as before. Items a second in each half second, of the gateway with its defaults and with fixed numbers of
batches under way; then, for each phase, the mean from `--settle` seconds after its beginning, against the
best of the fixed ones.

    python -m benchmarks.change [--service l,o,a,b] [--factor 3] [--fixed 1,2,4,8] [--texts short|mixed]
        [--connections 128] [--phase 6] [--settle 2] [--json FILE]
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence

from benchmarks import record
from benchmarks.load import closed_loop
from benchmarks.scripted import Rows, Server, calls, gateway, parser, stand_ins
from benchmarks.stage import TEXTS

_STEP_S = 0.5
_PHASES = ("before", "slow", "after")


async def benchmark(options: argparse.Namespace) -> Rows:
    rows = Rows()
    settings: list[tuple[str, dict[str, int]]] = [("auto", {})]
    settings += [(number, {"in_flight_max": int(number)}) for number in options.fixed.split(",") if number]
    bodies = calls(TEXTS[options.texts](20_000))
    found: dict[tuple[str, str], list[float]] = {}
    for name, batching in settings:
        async with stand_ins([options.service] * 2) as servers, gateway(servers, batching) as process:
            load = asyncio.create_task(
                closed_loop(f"{process.url}/embeddings", bodies, options.connections, 3 * options.phase, 1.0)
            )
            await asyncio.sleep(1.0)
            for phase in _PHASES:
                factor = options.factor if phase == "slow" else 1
                await servers[1].change(options.service.slower(factor))
                rates = found[name, phase] = await _rates(servers, options.phase)
                # (Text, because a row is flat.)
                rows.add(in_flight=name, phase=phase, items_s=" ".join(f"{rate:.0f}" for rate in rates))
            await load
    settled = int(options.settle / _STEP_S)
    means = {key: sum(rates[settled:]) / len(rates[settled:]) for key, rates in found.items()}
    for phase in _PHASES:
        fixed = {name: means[name, phase] for name, batching in settings if batching} or {"none": 0.0}
        best = max(fixed, key=lambda name: fixed[name])
        rows.add(
            phase=phase, auto_s=means["auto", phase], best=best, best_s=fixed[best],
            ratio=means["auto", phase] / fixed[best] if fixed[best] else float("nan"),
        )  # fmt: skip
    return rows


async def _rates(servers: Sequence[Server], seconds: float) -> list[float]:
    """Items a second that `servers` are given, in each half second."""
    loop = asyncio.get_running_loop()
    rates: list[float] = []
    last, at = sum([(await server.work()).items for server in servers]), loop.time()
    until = at + seconds
    while at < until - _STEP_S / 2:
        await asyncio.sleep(min(_STEP_S, until - loop.time()))
        items, now = sum([(await server.work()).items for server in servers]), loop.time()
        rates.append((items - last) / (now - at))
        last, at = items, now
    return rates


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--factor", type=float, default=3)
    options.add_argument("--fixed", default="1,2,4,8", help="numbers of batches under way")
    options.add_argument("--texts", choices=TEXTS, default="short")
    options.add_argument("--connections", type=int, default=128)
    options.add_argument("--phase", type=float, default=6, help="seconds of each phase")
    options.add_argument("--settle", type=float, default=2, help="seconds after which a phase counts")
    return record.run(options, benchmark)


if __name__ == "__main__":
    sys.exit(main())
