"""A real gateway process on a free loopback port, as a user would start it."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

ROOT = Path(__file__).parents[1]
_START_S_MAX = 60.0
_STOP_S_MAX = 30.0


class GatewayProcess:
    """`python -m gateway serve --port 0 …`. An async context manager; `output` holds all that it wrote."""

    def __init__(
        self,
        *arguments: str,
        environ: Mapping[str, str] | None = None,
        config: Path | None = None,
        directory: Path | None = None,
        python: str | Path = sys.executable,
    ) -> None:
        self._python = python
        self._arguments: Sequence[str] = (*(["--config", str(config)] if config else ()), *arguments)
        ours = ("INFINITY_", "GATEWAY_", "LITELLM_")
        self._environ = {k: v for k, v in os.environ.items() if not k.startswith(ours)} | dict(environ or {})
        self._directory = directory or ROOT
        self._reader: asyncio.Task[None] | None = None
        self._listening: asyncio.Future[str] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self.output: list[str] = []

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    @property
    def url(self) -> str:
        assert self._listening
        return self._listening.result()

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *(self._python, "-P", "-m", "gateway", "serve", "--port", "0", *self._arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **self._environ},
            cwd=self._directory,
        )
        self._listening = asyncio.get_running_loop().create_future()
        self._reader = asyncio.create_task(self._read())
        async with asyncio.timeout(_START_S_MAX):
            await self._listening
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process
        assert self._reader
        if self._process.returncode is None:
            self.signal(signal.SIGINT)
            try:
                async with asyncio.timeout(_STOP_S_MAX):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
        await self.wait()

    async def wait(self) -> int:
        """Wait for its end; the exit code."""
        assert self._process
        assert self._reader
        code = await self._process.wait()
        await self._reader
        return code

    def signal(self, number: int) -> None:
        assert self._process
        self._process.send_signal(number)

    async def wait_ready(self, deployments: int = 1) -> None:
        """Until so many deployments are up."""
        async with asyncio.timeout(_START_S_MAX):
            while True:
                samples = await self.metrics()
                up = (value for name, value in samples.items() if "deployment_up{" in name)
                if sum(up) >= deployments:
                    return
                await asyncio.sleep(0.05)

    async def metrics(self) -> dict[str, float]:
        """Every sample of /metrics by its name with labels, as it is written there."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}/metrics") as response:
            lines = (await response.text()).splitlines()
        samples = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in samples}

    async def _read(self) -> None:
        assert self._process
        assert self._listening
        assert self._process.stdout
        async for raw in self._process.stdout:
            line = raw.decode(errors="replace").rstrip("\n")
            self.output.append(line)
            if (found := re.search(r'listening on (http://[^\s"]+)', line)) and not self._listening.done():
                self._listening.set_result(found[1])
        if not self._listening.done():
            self._listening.set_exception(
                RuntimeError("the gateway did not start:\n" + "\n".join(self.output))
            )


def mean(samples: Mapping[str, float], histogram: str, **labels: Any) -> float:
    """The mean of a histogram over all its series that have these labels."""
    total = count = 0.0
    for name, value in samples.items():
        if all(f'{label}="{wanted}"' in name for label, wanted in labels.items()):
            total += value if name.startswith(f"{histogram}_sum") else 0.0
            count += value if name.startswith(f"{histogram}_count") else 0.0
    return total / count if count else float("nan")
