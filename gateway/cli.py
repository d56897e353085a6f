"""The command `infinity-gateway`.

Exit codes: 0 after a regular end; 1 for a configuration or a server that does not work; 2 for a command
line or an environment in which nothing can be started.
"""

import argparse
import asyncio
import ipaddress
import logging
import os
import sys
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path

from gateway import __version__
from gateway.api.server import listen, serve
from gateway.bootstrap import EventLoop, Runtime
from gateway.config import Config, callers_key, describe, from_environment, load
from gateway.core.settings import DeploymentSettings, DrainSettings, EngineSettings
from gateway.embedded import LocalServers, Supervisor, find
from gateway.errors import ConfigError, StartError
from gateway.pool import SendError
from gateway.upstream.infinity import InfinityUpstream

_log = logging.getLogger("gateway")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO, stream=sys.stderr)
    # The server's own words at start and end repeat ours.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    try:
        if options.command == "check":
            return _check(options.file, options.probe)
        return _serve(options.config, options.host, options.port)
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return 1
    except StartError as error:
        print(error, file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="infinity-gateway",
        description="One address in front of many Infinity embedding and rerank servers.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serving = commands.add_parser(
        "serve",
        help="start the gateway",
        description="Start the gateway. Without --config it stands in front of the servers that "
        "INFINITY_API_BASE names (comma-separated); without both, it starts local Infinity servers itself.",
    )
    serving.add_argument("--config", type=Path, metavar="FILE", help="YAML in LiteLLM's words")
    serving.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    serving.add_argument(
        "--port", type=_port, default=4000, help="port to listen on (%(default)s); 0 takes any"
    )
    checking = commands.add_parser("check", help="read a configuration and say what would run")
    checking.add_argument("file", type=Path, metavar="FILE")
    checking.add_argument("--probe", action="store_true", help="call each server, too")
    return parser


def _port(text: str) -> int:
    if text.isdigit() and int(text) < 65536:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no port; expected a number from 0 to 65535")


def _run(work: Coroutine[None, None, int]) -> int:
    with asyncio.Runner(loop_factory=EventLoop) as runner:
        return runner.run(work)


# serve


def _serve(file: Path | None, host: str, port: int) -> int:
    local: LocalServers | None = None
    if file is not None:
        config: Config | None = load(file, os.environ)
    else:
        config = from_environment(os.environ)
    if config is None:
        local = find(os.environ)
        # Nobody sends traffic through an ingress to servers that end with us: no grace time.
        engine = EngineSettings(rerank_by_embedding=True)
        config = Config(engine, master_key=callers_key(os.environ), drain=DrainSettings(grace_s=0.0))
    for warning in config.warnings:
        _log.warning("%s", warning)
    if not (_is_loopback(host) or config.keyed or config.allow_anonymous):
        print(
            f"--host {host} can be reached from other machines, and no key is set: anybody could call. Set "
            "general_settings.master_key (or GATEWAY_MASTER_KEY) or gateway.keys, or say that this is meant "
            "with gateway.allow_anonymous: true.",
            file=sys.stderr,
        )
        return 2
    return _run(_serving(config, local, host, port))


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


async def _serving(config: Config, local: LocalServers | None, host: str, port: int) -> int:
    listener = listen(host, port)
    host, port = listener.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    async with AsyncExitStack() as stack:
        failed: Coroutine[None, None, StartError] | None = None
        if local is not None:
            _log.info("no servers are named: starting %d local Infinity servers", local.count)
            supervisor = await stack.enter_async_context(Supervisor(local, report=_log.info))
            failed = supervisor.failed()
            servers = tuple(
                DeploymentSettings(base.removeprefix("http://"), base) for base in supervisor.api_bases
            )
            config = replace(config, engine=replace(config.engine, servers=servers))
        runtime = Runtime(config)
        _log.info("listening on %s", url)
        if local is not None:
            announcing = asyncio.create_task(_announce(runtime, url))
            stack.callback(announcing.cancel)
        await serve(runtime, listener, failed)
    return 0


async def _announce(runtime: Runtime, url: str) -> None:
    """Print requests to try once they can be answered."""
    await runtime.gateway.wait_ready()
    model = runtime.gateway.models()[0].name
    variable = "GATEWAY_MASTER_KEY" if os.environ.get("GATEWAY_MASTER_KEY") else "LITELLM_MASTER_KEY"
    key = f" \\\n  -H 'Authorization: Bearer '\"${variable}\"" if runtime.config.master_key else ""
    print(_TO_TRY.format(url=url, model=model, key=key), flush=True)


_TO_TRY = """
Ready. Requests to try:

curl {url}/v1/embeddings{key} \\
  -H 'Content-Type: application/json' \\
  -d '{{"model": "{model}", "input": ["cat", "kitten", "stock"]}}'

curl {url}/rerank{key} \\
  -H 'Content-Type: application/json' \\
  -d '{{
    "model": "{model}",
    "query": "What is the capital of the United States?",
    "documents": [
      "Carson City is the capital city of the American state of Nevada.",
      "The Commonwealth of the Northern Mariana Islands is a group of islands in the Pacific Ocean. Its capital is Saipan.",
      "Washington, D.C. is the capital of the United States.",
      "Capital punishment has existed in the United States since before it was a country."
    ],
    "top_n": 3,
    "return_documents": true
  }}'

curl {url}/metrics
"""  # noqa: E501 - lines as they are printed


# check


def _check(file: Path, probe: bool) -> int:
    config = load(file, os.environ)
    print(describe(config))
    for warning in config.warnings:
        print(f"warning: {warning}")
    return _run(_probe(config)) if probe else 0


async def _probe(config: Config) -> int:
    """Ask every server what `serve` would ask it; 1 when one of them could not be used."""
    named = [deployment for pool in config.engine.pools for deployment in pool.deployments]
    timeout_s = config.engine.health.probe_timeout_s
    async with InfinityUpstream(config.engine.upstream_tls) as upstream:

        async def told(server: DeploymentSettings, learned: bool) -> str:
            if learned:
                return "serves " + ", ".join(await upstream.models(server, timeout_s))
            facts = await upstream.inspect(server, timeout_s)
            return f"can {', '.join(sorted(facts.capabilities))}; batches of {facts.batch_size}"

        async def line(server: DeploymentSettings, learned: bool) -> tuple[bool, str]:
            place = f"{server.api_base} ({server.server_model})" if server.server_model else server.api_base
            try:
                return True, f"ok: {place}: {await told(server, learned)}"
            except SendError as error:
                return False, f"failed: {place}: {error}"

        lines = await asyncio.gather(
            *(line(server, False) for server in named),
            *(line(server, True) for server in config.engine.servers),
        )
    for _, text in lines:
        print(text)
    return 0 if all(works for works, _ in lines) else 1
