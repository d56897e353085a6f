"""Real Prometheus and Alertmanager processes on loopback, which end with whoever started them."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import yaml

from tests.api.waiting import until
from tests.real_infinity import KEEPER

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
_PROMETHEUS = ROOT / ".cache" / "prometheus"
_START_S_MAX = 30.0
_SCRAPE_S = 0.2


def tool(name: str) -> str:
    """The path of promtool, prometheus, alertmanager or amtool. Without it nothing can be said: a failure."""
    found = _PROMETHEUS / "bin" / name
    assert found.exists(), f"there is no {found}; tools/install-prometheus gets it"
    return str(found)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run(tool("promtool"), *arguments)


class _Server:
    """An async context manager: one process that answers `path` with 200 once it is ready."""

    def __init__(self, name: str, directory: Path, arguments: Sequence[str], ready: str) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{found.getsockname()[1]}"
        self.url = f"http://{self.address}"
        self._ready = ready
        self._log = directory / f"{name}.log"
        self._command = [tool(name), *arguments, f"--web.listen-address={self.address}"]
        self._keeper: subprocess.Popen[bytes]
        self.session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        self._start()
        self.session = aiohttp.ClientSession(self.url)
        try:
            await until(self._is_ready, within_s=_START_S_MAX)
        except TimeoutError as error:
            await self._end()
            raise RuntimeError(self._log.read_text()) from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    def _start(self) -> None:
        with self._log.open("w") as log:
            self._keeper = subprocess.Popen(
                [sys.executable, "-c", KEEPER, "5", *self._command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=_PROMETHEUS,  # See tools/install-prometheus.
                start_new_session=True,
            )

    async def _end(self) -> None:
        await self.session.close()
        assert self._keeper.stdin
        self._keeper.stdin.close()
        await asyncio.to_thread(self._keeper.wait)

    async def _is_ready(self) -> bool:
        if self._keeper.poll() is not None:
            raise RuntimeError(self._log.read_text())
        try:
            async with self.session.get(self._ready) as reply:
                return reply.status == 200
        except aiohttp.ClientError:
            return False


class Prometheus(_Server):
    """Scrapes `targets` (label job → address) and evaluates `rules` every 0.2 s."""

    def __init__(
        self,
        directory: Path,
        targets: Mapping[str, str],
        rules: Sequence[Path] = (),
        alertmanager: str = "",
    ) -> None:
        alertmanagers = [{"static_configs": [{"targets": [alertmanager]}]}] if alertmanager else []
        config = {
            "global": {
                "scrape_interval": f"{_SCRAPE_S * 1000:g}ms",
                "scrape_timeout": f"{_SCRAPE_S * 1000:g}ms",
                "evaluation_interval": f"{_SCRAPE_S * 1000:g}ms",
            },
            "rule_files": [str(file) for file in rules],
            "alerting": {"alertmanagers": alertmanagers},
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": [target]}]}
                for job, target in targets.items()
            ],
        }
        file = directory / "prometheus.yml"
        file.write_text(yaml.safe_dump(config))
        arguments = [
            f"--config.file={file}",
            f"--storage.tsdb.path={directory / 'prometheus'}",
            "--rules.alert.resend-delay=1s",
        ]
        super().__init__("prometheus", directory, arguments, "/-/ready")

    async def query(self, expr: str) -> list[dict[str, Any]]:
        """The result of an instant query: a `metric` (its labels) and a `value` [time, number] each."""
        async with self.session.post("/api/v1/query", data={"query": expr}) as reply:
            answer = await reply.json()
        assert answer["status"] == "success", (expr, answer)
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result


class Alertmanager(_Server):
    """Tells nobody."""

    def __init__(self, directory: Path) -> None:
        file = directory / "alertmanager.yml"
        file.write_text(yaml.safe_dump({"route": {"receiver": "none"}, "receivers": [{"name": "none"}]}))
        arguments = [
            f"--config.file={file}",
            f"--storage.path={directory / 'alertmanager'}",
            "--cluster.listen-address=",
        ]
        super().__init__("alertmanager", directory, arguments, "/-/ready")

    async def alerts(self) -> list[str]:
        """What amtool shows, a line for each alert that fires."""
        process = await asyncio.create_subprocess_exec(
            *(tool("amtool"), "alert", "query", f"--alertmanager.url={self.url}", "--output=extended"),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "HOME": str(self._log.parent)},
        )
        output, _ = await process.communicate()
        assert process.returncode == 0
        return output.decode().splitlines()[1:]
