"""What the dashboard's queries say of a real run: `python -m tests.docs.dashboard [--seconds 60]`.

Three real Infinity servers with a tiny model, a gateway in front of them under load, and a Prometheus that
scrapes it. One server is killed after a quarter of the time and started again later. The answers to
the queries of deploy/monitoring/dashboard.json go into docs/images/dashboard.json; tools/draw.py draws them.
"""

import argparse
import asyncio
import json
import math
import random
import re
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from operator import itemgetter
from pathlib import Path
from typing import Any

from benchmarks.texts import mixed_lengths
from gateway.bootstrap import EventLoop
from tests.api.caller import Caller
from tests.api.waiting import until
from tests.gateway_process import ROOT, GatewayProcess
from tests.monitoring.processes import MONITORING, Prometheus
from tests.real_infinity import RealInfinity, ServedModel, model_dir

FILE = ROOT / "docs" / "images" / "dashboard.json"
PANELS = ("Calls", "Latency of calls", "Items a second", "Items in a batch", "Busy", "State")
UNITS = {
    "reqps": "a second",
    "cps": "a second",
    "s": "seconds",
    "percentunit": "share",
    "short": "",
}
VARIABLES = {"$__rate_interval": "4s", "$model": ".*", "$deployment": ".*"}
STEP_S = 0.5
_CALLERS = 16
_WARM_S = 5.0
"""Rates need some time to be rates."""
_KILLED, _STARTED = 0.25, 0.4
"""Shares of the time."""


async def call(caller: Caller, numbers: "count[int]", rng: random.Random, texts: list[str]) -> None:
    while True:
        items = 1 if rng.random() < 0.9 else rng.randint(2, 12)
        reply = await caller.embed([f"{rng.choice(texts)} {next(numbers)}" for _ in range(items)])
        assert reply.status == 200, reply.raw
        await asyncio.sleep(rng.expovariate(5))


@asynccontextmanager
async def load(caller: Caller) -> AsyncIterator[None]:
    """Callers until the block ends, none of whom may see an error."""
    numbers, rng, texts = count(), random.Random(1), mixed_lengths(1024)
    tasks = [asyncio.create_task(call(caller, numbers, rng, texts)) for _ in range(_CALLERS)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(each, asyncio.CancelledError) for each in ended), ended


async def range_of(prometheus: Prometheus, expr: str, start: float, end: float) -> list[dict[str, Any]]:
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    data = {"query": expr, "start": str(start), "end": str(end), "step": str(STEP_S)}
    async with prometheus.session.post("/api/v1/query_range", data=data) as reply:
        answer = await reply.json()
    assert answer["status"] == "success", (expr, answer)
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


def named(legend: str, labels: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), legend)


def plain(values: list[tuple[float, str]], start: float) -> list[tuple[float, float | None]]:
    """Seconds from the start, and numbers; None where there is none."""
    numbers = ((at - start, float(value)) for at, value in values)
    return [(round(at, 2), float(f"{n:.4g}") if math.isfinite(n) else None) for at, n in numbers]


async def panels(
    prometheus: Prometheus, start: float, end: float, names: dict[str, str]
) -> list[dict[str, Any]]:
    """`names`: a deployment → what it is called in the picture."""
    known = {
        panel["title"]: panel for panel in json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    }
    made = []
    for title in PANELS:
        panel, series = known[title], list[dict[str, Any]]()
        for target in panel["targets"]:
            for found in await range_of(prometheus, target["expr"], start, end):
                name = named(target["legendFormat"], found["metric"])
                for deployment, server in names.items():
                    name = name.replace(deployment, server)
                series.append({"name": name, "values": plain(found["values"], start)})
        assert series, title
        series.sort(key=itemgetter("name"))
        unit = UNITS[panel["fieldConfig"]["defaults"]["unit"]]
        made.append({"title": title, "type": panel["type"], "unit": unit, "series": series})
    return made


async def _scrapes(prometheus: Prometheus) -> bool:
    return bool(await prometheus.query("up == 1"))


async def seen(seconds: float, folder: Path) -> dict[str, Any]:
    model = ServedModel("bert", model_dir("bert"))
    one, two, three = servers = [RealInfinity([model]) for _ in range(3)]
    try:
        await asyncio.gather(*(asyncio.to_thread(server.start) for server in servers))
        environ = {"INFINITY_API_BASE": ",".join(server.url for server in servers)}
        async with GatewayProcess(environ=environ) as gateway, Caller(gateway.url) as caller:
            await gateway.wait_ready(3)
            address = gateway.url.removeprefix("http://")
            async with Prometheus(folder, {"gateway": address}) as prometheus, load(caller):
                await until(lambda: _scrapes(prometheus), within_s=30)
                await asyncio.sleep(_WARM_S)
                [now] = await prometheus.query("vector(time())")
                start = float(now["value"][1])
                await asyncio.sleep(_KILLED * seconds)
                three.kill()
                await asyncio.sleep((_STARTED - _KILLED) * seconds)
                starting = asyncio.create_task(asyncio.to_thread(three.start))
                await asyncio.sleep((1 - _STARTED) * seconds)
                await starting
                names = {
                    server.url.removeprefix("http://"): f"server {at}" for at, server in enumerate(servers)
                }
                return {
                    "seconds": seconds,
                    "step_s": STEP_S,
                    "events": [[_KILLED * seconds, "killed"], [_STARTED * seconds, "started again"]],
                    "servers": list(names.values()),
                    "panels": await panels(prometheus, start, start + seconds, names),
                }
    finally:
        for server in (one, two, three):
            server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=EventLoop) as runner:
        FILE.write_text(json.dumps(runner.run(seen(seconds, Path(folder)))) + "\n")


if __name__ == "__main__":
    main()
