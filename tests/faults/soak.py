"""Random faults from a seed, under callers of every kind: each accepted call gets its own vectors, once.

    python -m tests.faults.soak --seconds 600 --seed 1 --output docs/soak.txt

Four stand-ins in processes of their own and two real Infinity servers are killed, frozen and made to answer
wrongly, one at a time in each pool; some inputs are refused, some kill their server, some callers leave. In
the end nothing may be left in the gateway, and its memory is flat. Exit code 1 when something was wrong.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import signal
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from tests.api.caller import Caller, numbers
from tests.api.waiting import until
from tests.end_to_end.configs import entry, written
from tests.fakes.infinity import vector_of
from tests.fakes.process import KILLER, MODEL, POISON, FakeProcess
from tests.faults.conftest import name_of
from tests.gateway_process import GatewayProcess
from tests.real_infinity import RealInfinity, ServedModel

STAND_INS = 4
REAL = 2
REAL_MODEL = "debug"
_CALLERS = {"one text": 20, "bulk": 3, "in a hurry": 4, "hangs up": 3, "poisonous": 2, "real": 6}
_FAULTS: dict[str, dict[str, Any]] = {
    "500": {"status": 500},
    "429": {"status": 429},
    "reset in mid-answer": {"drop": "middle", "reset": True},
    "closed without answer": {"drop": "before"},
    "too few vectors": {"edit": "fewer"},
    "an index twice": {"edit": "duplicate_index"},
    "a short vector": {"edit": "shorter_vector"},
    "slow": {"delay": 0.3},
    "hang": {"hang": True},
    "worker dead": {"kills_worker": True},
}
_PROBE_S = 2.0
"""Shorter than usual, so that servers that hang are soon back and more can go wrong."""
_BACK_S_MAX = 30.0
_LEFT_S_MAX = 10.0
_UNANSWERED_S_MAX = 35.0
"""What a server has swallowed is waited for as long as any call, though another has answered it: until then
nobody knows that it will never be answered, and the server may be at work on it."""
_PROBLEMS_MAX = 20
_MIB = 1024 * 1024
_FLAT_SHARE, _FLAT_MIB = 1.1, 8.0
"""The memory of the last quarter is at most that of the second one times this, and so much more."""
_DESCRIPTORS_MORE = 2
"""Our own connections, by which we look."""


@dataclass
class Report:
    seed: int
    seconds: float
    faults: Counter[str] = field(default_factory=Counter)
    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Kind of caller and what came of the call → how many."""
    texts: int = 0
    """Vectors that were compared with what their text must give."""
    longest_s: float = 0.0
    gateway: dict[str, float] = field(default_factory=dict)
    memory_mib: list[float] = field(default_factory=list)
    """The gateway's resident memory, each second."""
    problems: list[str] = field(default_factory=list)

    def wrong(self, what: str) -> None:
        if len(self.problems) < _PROBLEMS_MAX:
            self.problems.append(what)

    def __str__(self) -> str:
        memory = self.memory_mib[:: max(1, len(self.memory_mib) // 30)]
        lines = [
            f"A soak of {self.seconds:g} s with seed {self.seed}",
            f"{STAND_INS} stand-ins and {REAL} real Infinity servers behind one gateway",
            f"{os.cpu_count()} cores, Python {platform.python_version()}",
            *_block("faults", self.faults),
            *_block("calls", {f"{kind}: {came}": count for (kind, came), count in self.calls.items()}),
            *_block(
                "altogether",
                {
                    "calls": self.calls.total(),
                    "vectors compared with their text's": self.texts,
                    "longest call that was answered with vectors, s": round(self.longest_s, 2),
                    **self.gateway,
                },
            ),
            "",
            "resident memory of the gateway over the time, MiB",
            "  " + " ".join(f"{mib:.0f}" for mib in memory),
            "",
            "wrong: " + ("nothing" if not self.problems else ""),
            *(f"  {problem}" for problem in self.problems),
        ]
        return "\n".join(lines) + "\n"


def _block(title: str, counts: "dict[str, Any] | Counter[str]") -> list[str]:
    width = max(map(len, counts), default=0)
    return ["", title, *(f"  {name:<{width}}  {count:>9,}" for name, count in sorted(counts.items()))]


@dataclass
class _Run:
    report: Report
    gateway: GatewayProcess
    caller: Caller
    stand_ins: Sequence[FakeProcess]
    real: Sequence[RealInfinity]
    over: asyncio.Event = field(default_factory=asyncio.Event)
    issued: int = 0
    swallowed: set[str] = field(default_factory=set)
    """Stand-ins that took requests which they will never answer, and have not ended since."""

    async def wait(self, seconds: float) -> bool:
        """So long, or until it is over; whether it is."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.over.wait()
        return self.over.is_set()

    # Faults

    async def break_stand_ins(self, rng: random.Random) -> None:
        """One thing at a time, and the next one when all are back."""
        while not await self.wait(rng.uniform(0.2, 0.8)):
            fake = rng.choice(self.stand_ins)
            kind = rng.choice([*_FAULTS, "killed", "frozen", "an input that kills"])
            self.report.faults[kind] += 1
            for_s = rng.uniform(0.3, 4.0)
            if kind == "killed":
                await fake.stop()  # It is dead a while after the signal only.
                await self.wait(for_s)
            elif kind == "frozen":
                fake.signal(signal.SIGSTOP)
                await self.wait(for_s)
                fake.signal(signal.SIGCONT)
            elif kind == "an input that kills":
                await self._send_killer(rng)
            else:
                fake.tell(**_FAULTS[kind])
                if kind == "hang":
                    self.swallowed.add(name_of(fake.url))
                await self.wait(for_s)
                fake.tell()
            if kind == "worker dead":
                await fake.stop()  # Nothing else brings it back.
            for each in self.stand_ins:
                if not each.runs:
                    await each.start()
                    self.swallowed.discard(name_of(each.url))
            await self._all_back(MODEL, STAND_INS, kind)

    async def _send_killer(self, rng: random.Random) -> None:
        """At most two servers die of it."""
        running = sum(fake.runs for fake in self.stand_ins)
        self.issued += 1
        reply = await self.caller.embed(f"{rng.random()} {KILLER}", MODEL)
        died = running - sum(fake.runs for fake in self.stand_ins)
        self.report.calls["kills", str(reply.status)] += 1
        if reply.status not in (400, 502) or died > 2:
            self.report.wrong(f"an input that kills: {reply.status}, and {died} servers died")

    async def break_real(self, rng: random.Random) -> None:
        while not await self.wait(rng.uniform(1.0, 3.0)):
            server, for_s = rng.choice(self.real), rng.uniform(0.5, 5.0)
            kind = rng.choice(["killed", "frozen"])
            self.report.faults[f"real: {kind}"] += 1
            if kind == "killed":
                await asyncio.to_thread(server.kill)
                await self.wait(for_s)
                await asyncio.to_thread(server.start)
            else:
                server.pause()
                await self.wait(for_s)
                server.resume()
            await self._all_back(REAL_MODEL, REAL, f"real: {kind}")

    async def _all_back(self, model: str, count: int, after: str) -> None:
        async def are_back() -> bool:
            return (await self.caller.samples()).total("deployment_up", model=model) == count

        try:
            await until(are_back, within_s=_BACK_S_MAX)
        except TimeoutError:
            told = "".join(f"\n    {line}" for line in self.gateway.output[-12:])
            self.report.wrong(f"not all of {model} were back {_BACK_S_MAX:g} s after: {after}{told}")

    # Callers

    async def one_text(self, who: str, rng: random.Random) -> None:
        await self._ask("one text", MODEL, f"{who} {rng.randint(0, 9) * 'word '}", {"200"})

    async def bulk(self, who: str, rng: random.Random) -> None:
        texts = [f"{who} {i} {rng.randint(0, 40) * 'w '}" for i in range(rng.randint(2, 120))]
        await self._ask("bulk", MODEL, texts, {"200"}, x_priority="bulk")

    async def in_a_hurry(self, who: str, rng: random.Random) -> None:
        limit_s = f"{rng.uniform(0.01, 0.5):.3f}"
        await self._ask("in a hurry", MODEL, who, {"200", "429", "504"}, x_request_timeout=limit_s)

    async def hangs_up(self, who: str, rng: random.Random) -> None:
        try:
            async with asyncio.timeout(rng.uniform(0.001, 0.1)):
                await self._ask("hangs up", MODEL, [f"{who} {i}" for i in range(20)], {"200"})
        except TimeoutError:
            self.report.calls["hangs up", "has left"] += 1

    async def poisonous(self, who: str, rng: random.Random) -> None:
        texts = [f"{who} {i}" for i in range(rng.randint(0, 5))]
        await self._ask("poisonous", MODEL, [*texts, f"{who} {POISON}"], {"400"})
        await self.wait(0.05)

    async def of_real(self, who: str, rng: random.Random) -> None:
        await self._ask("real", REAL_MODEL, "x" * rng.randint(1, 4000), {"200"})

    async def _ask(
        self, kind: str, model: str, given: str | list[str], expected: set[str], **headers: str
    ) -> None:
        self.issued += 1
        body = {"model": model, "input": given, "encoding_format": "base64"}
        loop = asyncio.get_running_loop()
        asked = loop.time()
        try:
            reply = await self.caller.post("/v1/embeddings", body, **headers)
        except (aiohttp.ClientError, TimeoutError) as error:
            self.report.calls[kind, "no answer"] += 1
            self.report.wrong(f"{kind}: {error!r}")
            return
        status = str(reply.status)
        self.report.calls[kind, status] += 1
        if status not in expected:
            self.report.wrong(f"{kind}: {status} {reply.raw[:200]!r}")
        if status != "200":
            return
        self.report.longest_s = max(self.report.longest_s, loop.time() - asked)
        texts = [given] if isinstance(given, str) else given
        rows = json.loads(reply.raw)["data"]
        wanted = [vector_of(text) if model == MODEL else np.full(13, len(text)) for text in texts]
        self.report.texts += len(texts)
        found = [numbers(row["embedding"]) for row in rows]
        if [row["index"] for row in rows] != list(range(len(texts))) or not all(
            np.array_equal(one, other) for one, other in zip(found, wanted, strict=True)
        ):
            self.report.wrong(f"{kind}: other vectors for {len(texts)} texts from {texts[0][:40]!r} on")

    async def call_on(
        self, call: Callable[[str, random.Random], Awaitable[None]], number: int, rng: random.Random
    ) -> None:
        count = 0
        while not self.over.is_set():
            await call(f"{call.__name__} {number} {count}", rng)
            count += 1

    # Watching

    async def watch_memory(self) -> None:
        while not self.over.is_set():
            self.report.memory_mib.append(resident_mib(self.gateway.pid))
            await self.wait(1.0)

    async def _ends(self, gauge: str, within_s: float, most: float = 0, **labels: str) -> None:
        """It comes down to that in time, or something was left."""

        async def has_ended() -> bool:
            return (await self.caller.samples()).total(gauge, **labels) <= most

        try:
            await until(has_ended, within_s)
        except TimeoutError:
            left = (await self.caller.samples()).total(gauge, **labels)
            self.report.wrong(f"{left:g} of {gauge} {labels or ''} after {within_s:g} s, not {most:g}")

    async def look_at_the_end(self, descriptors: int, tasks: float) -> None:
        """What is left, once the callers have gone and all servers are as they should be: entries in queues,
        permits, tasks, connections."""
        report = self.report
        for gauge in ("in_flight_requests", "queued_items"):
            await self._ends(gauge, _LEFT_S_MAX)
        for name in map(name_of, [*(fake.url for fake in self.stand_ins), *(each.url for each in self.real)]):
            within_s = _UNANSWERED_S_MAX if name in self.swallowed else _LEFT_S_MAX
            await self._ends("deployment_in_flight_items", within_s, deployment=name)
        await self._ends("event_loop_tasks", _LEFT_S_MAX, tasks)
        samples = await self.caller.samples()
        ended = samples.total("requests_total", route="/v1/embeddings")
        left_early = report.calls["hangs up", "has left"]
        # Who leaves before a request is out is never seen.
        if not self.issued - left_early <= ended <= self.issued:
            report.wrong(f"{self.issued} calls were made, {left_early} of them left, and {ended:g} ended")
        for name in ("retries_total", "hedges_total", "upstream_requests_total"):
            report.gateway[name] = int(samples.total(name))
        limit = descriptors + _DESCRIPTORS_MORE
        try:
            await until(lambda: open_descriptors(self.gateway.pid) <= limit, within_s=_LEFT_S_MAX)
        except TimeoutError:
            report.wrong(f"{open_descriptors(self.gateway.pid)} descriptors open, {descriptors} at the start")
        quarter = max(1, len(report.memory_mib) // 4)
        before = statistics.median(report.memory_mib[quarter : 2 * quarter] or report.memory_mib)
        after = statistics.median(report.memory_mib[-quarter:])
        if after > _FLAT_SHARE * before + _FLAT_MIB:
            report.wrong(f"memory rose from {before:.0f} to {after:.0f} MiB")
        for line in self.gateway.output:
            if "Traceback" in line or '"ERROR"' in line or " ERROR " in line:
                report.wrong(f"the gateway's log: {line[:200]}")


def resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / _MIB


def open_descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


async def soak(seconds: float, seed: int, directory: Path) -> Report:
    """Run for so long. `directory` takes the gateway's configuration."""
    report, rng = Report(seed, seconds), random.Random(seed)
    async with AsyncExitStack() as running:
        stand_ins = [FakeProcess() for _ in range(STAND_INS)]
        real = [RealInfinity([ServedModel(REAL_MODEL)], engine="debugengine") for _ in range(REAL)]
        await asyncio.gather(
            *(running.enter_async_context(fake) for fake in stand_ins),
            *(running.enter_async_context(server) for server in real),
        )
        entries = [
            entry(MODEL, [fake.url for fake in stand_ins]),
            entry(REAL_MODEL, [server.url for server in real]),
        ]
        file = written(
            directory / "gateway.yaml",
            {"model_list": entries, "gateway": {"health": {"probe_timeout_s": _PROBE_S}}},
        )
        gateway = await running.enter_async_context(GatewayProcess(config=file))
        await gateway.wait_ready(STAND_INS + REAL)
        descriptors = open_descriptors(gateway.pid)
        async with Caller(gateway.url) as caller:
            at_rest = (await caller.samples()).total("event_loop_tasks")
            run = _Run(report, gateway, caller, stand_ins, real)
            kinds = dict(
                zip(
                    _CALLERS,
                    (run.one_text, run.bulk, run.in_a_hurry, run.hangs_up, run.poisonous, run.of_real),
                    strict=True,
                )
            )
            async with asyncio.TaskGroup() as tasks:
                for kind, count in _CALLERS.items():
                    for number in range(count):
                        tasks.create_task(run.call_on(kinds[kind], number, random.Random(rng.random())))
                tasks.create_task(run.break_stand_ins(random.Random(rng.random())))
                tasks.create_task(run.break_real(random.Random(rng.random())))
                tasks.create_task(run.watch_memory())
                await asyncio.sleep(seconds)
                run.over.set()
        async with Caller(gateway.url) as run.caller:
            await run.look_at_the_end(descriptors, at_rest)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, help="write the report there as well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        report = asyncio.run(soak(options.seconds, options.seed, Path(directory)))
    print(report, end="")
    if options.output:
        options.output.write_text(str(report))
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
