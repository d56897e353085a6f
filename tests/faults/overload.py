"""Three times as many calls as two servers can answer, for as long as wanted, against a real gateway.

    python -m tests.faults.overload --seconds 180 --output docs/overload.txt

The servers sleep for as long as a batch takes, so that what they can do does not depend on the machine. It is
measured first, by callers who go to them directly and keep them busy.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.api.caller import Caller
from tests.end_to_end.configs import entry, written
from tests.fakes.infinity import FakeInfinity, FakeModel, ServiceTime, vector_of
from tests.faults.soak import resident_mib
from tests.gateway_process import GatewayProcess

SERVERS, BATCH, TIMES = 2, 4, 3.0
SERVICE = ServiceTime(o=0.06, a=0.01)
WITHIN_S = 2.0
_DIRECT_S = 2.0
_GOODPUT_MIN = 0.9
_LATE_MAX = 0.01
"""Of those that were not refused."""
_SOON_S = 0.25
_FLAT_SHARE, _FLAT_MIB = 1.1, 5.0


@dataclass
class Report:
    """What came of it. Times are in seconds, the servers' capacity and the rates in texts a second."""

    seconds: float
    capacity: float
    rate: float
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: int = 0
    """Answers with the vector of another text, and refusals that do not say when to come again."""
    lasted_s: float = 0.0
    """To the last answer."""
    answered_s: list[float] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)
    memory_mib: list[float] = field(default_factory=list)

    @property
    def goodput(self) -> float:
        """Of what the servers could do, the share that somebody got in time."""
        return self.statuses[200] / self.lasted_s / self.capacity

    @property
    def late(self) -> float:
        """Of the calls that were taken, the share that was not answered in time."""
        return 1 - self.statuses[200] / (self.statuses.total() - self.statuses[429])

    @property
    def memory(self) -> tuple[float, float]:
        """MiB in the second quarter and in the last."""
        quarter = max(1, len(self.memory_mib) // 4)
        parts = (self.memory_mib[quarter : 2 * quarter], self.memory_mib[-quarter:])
        before, after = (statistics.median(part) for part in parts)
        return before, after

    @property
    def problems(self) -> list[str]:
        before, after = self.memory
        wrong = {
            "not all that could be done was done for somebody": self.goodput < _GOODPUT_MIN,
            "calls were taken that came too late": self.late > _LATE_MAX,
            "refusals took long": _quantile(self.refused_s, 0.95) > _SOON_S,
            "memory rose": after > _FLAT_SHARE * before + _FLAT_MIB,
            "answers were wrong": bool(self.wrong),
        }
        return [what for what, is_so in wrong.items() if is_so]

    def __str__(self) -> str:
        before, after = self.memory
        share = self.rate / self.capacity
        lines = [
            f"{self.rate:.0f} calls of one text a second for {self.seconds:g} s, each with {WITHIN_S:g} s",
            f"{SERVERS} stand-ins behind a gateway, which do {self.capacity:.1f} texts a second without it",
            f"{os.cpu_count()} cores, Python {sys.version.split()[0]}",
            "",
            f"{'asked for':<44}{share:>9.2f} of what they can do",
            f"{'answered in time':<44}{self.goodput:>9.3f} of what they can do",
            f"{'taken, and not answered in time':<44}{self.late:>9.3f} of those taken",
            *(f"{status:<44}{count:>9,} calls" for status, count in sorted(self.statuses.items())),
            *(
                f"{f'{what}: {name}':<44}{_quantile(times, q):>9.3f} s"
                for what, times in (("answers", self.answered_s), ("refusals", self.refused_s))
                for name, q in (("median", 0.5), ("99 of 100 within", 0.99), ("longest", 1.0))
            ),
            f"{'memory of the gateway, second quarter':<44}{before:>9.1f} MiB",
            f"{'memory of the gateway, last quarter':<44}{after:>9.1f} MiB",
            "",
            *(f"wrong: {problem}" for problem in self.problems or ["nothing"]),
        ]
        return "\n".join(lines) + "\n"


def _quantile(times: Sequence[float], q: float) -> float:
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else 0.0


async def overload(seconds: float, directory: Path) -> Report:
    """Run for so long. `directory` takes the gateway's configuration."""
    async with AsyncExitStack() as running:
        servers = [
            await running.enter_async_context(
                FakeInfinity([FakeModel("bert", batch_size=BATCH)], service=SERVICE)
            )
            for _ in range(SERVERS)
        ]
        capacity = sum(await asyncio.gather(*map(_capacity, servers)))
        file = written(
            directory / "gateway.yaml", {"model_list": [entry("bert", [each.url for each in servers])]}
        )
        gateway = await running.enter_async_context(GatewayProcess(config=file))
        await gateway.wait_ready(SERVERS)
        caller = await running.enter_async_context(Caller(gateway.url, x_request_timeout=str(WITHIN_S)))
        for size in (
            *range(1, BATCH + 1),
            *range(BATCH, 0, -1),
        ) * 3:  # so that it is known how long they take
            assert (await caller.embed([f"{size} {i}" for i in range(size)])).status == 200
        report = Report(seconds, capacity, TIMES * capacity)
        watch = asyncio.create_task(_watch(report, gateway.pid))
        await _call(report, caller)
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch
    return report


async def _capacity(server: FakeInfinity) -> float:
    """Texts a second that it does while two callers have always something for it."""
    loop, done = asyncio.get_running_loop(), 0
    began = loop.time()

    async def go_on(caller: Caller) -> None:
        nonlocal done
        while loop.time() < began + _DIRECT_S:
            reply = await caller.post("/embeddings", {"model": "bert", "input": ["direct"] * BATCH})
            assert reply.status == 200
            done += BATCH

    async with Caller(server.url) as caller:
        await asyncio.gather(*(go_on(caller) for _ in range(2)))
    return done / (loop.time() - began)


async def _watch(report: Report, pid: int) -> None:
    while True:
        await asyncio.sleep(min(1.0, report.seconds / 20))
        report.memory_mib.append(resident_mib(pid))


async def _call(report: Report, caller: Caller) -> None:
    """As many as come in that time, whatever becomes of those before."""
    loop = asyncio.get_running_loop()
    began, count = loop.time(), int(report.rate * report.seconds)

    async def one(number: int) -> None:
        sent = loop.time()
        reply = await caller.embed(f"text {number}")
        took_s = loop.time() - sent
        report.statuses[reply.status] += 1
        if reply.status == 200:
            report.lasted_s = loop.time() - began
            report.answered_s.append(took_s)
            report.wrong += reply.vectors != [vector_of(f"text {number}").tolist()]
        elif reply.status == 429:
            report.refused_s.append(took_s)
            report.wrong += int(reply.headers.get("Retry-After", 0)) < 1

    async with asyncio.TaskGroup() as calls:
        for number in range(count):
            await asyncio.sleep(began + number / report.rate - loop.time())
            calls.create_task(one(number))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--output", type=Path, help="write the report there as well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        report = asyncio.run(overload(options.seconds, Path(directory)))
    print(report, end="")
    if options.output:
        options.output.write_text(str(report))
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
