"""The command `infinity-gateway`.

Exit codes: 0 after a regular end; 1 for a configuration or a server that does not work; 2 for a command
line or an environment in which nothing can be started.
"""

import argparse
import asyncio
import ipaddress
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from gateway import __version__
from gateway.api.server import listen, serve
from gateway.bench.command import add_options as add_bench_options
from gateway.bench.command import bench
from gateway.bootstrap import BUILD, EventLoop, Runtime
from gateway.config import Config, callers_key, describe, from_environment, load
from gateway.core.sameness import Sameness
from gateway.core.settings import DeploymentSettings, DrainSettings, EngineSettings, NameSettings
from gateway.embedded import LocalServers, Supervisor, find
from gateway.errors import ConfigError, StartError
from gateway.observability.calls import start_tracing
from gateway.observability.lines import Lines, on_exception, set_up
from gateway.observability.logs import say
from gateway.pool import SendError, ServerFacts
from gateway.reload import ConfigFile
from gateway.upstream.infinity import InfinityUpstream
from gateway.upstream.resolver import look_up

_LOOK_UP_S = 10.0
_VERSION = f"infinity-gateway {__version__}" + (" (compiled)" if BUILD == "compiled" else "")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        if options.command == "check":
            return _check(options.file, options.probe)
        if options.command == "bench":
            return _run(bench(options, os.environ))
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
    parser.add_argument("--version", action="version", version=_VERSION)
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
    checking.add_argument("file", type=Path, metavar="FILE", help="the configuration")
    checking.add_argument("--probe", action="store_true", help="call each server, too")
    add_bench_options(
        commands.add_parser(
            "bench",
            help="load a running gateway or Infinity, or compare the two",
            description="Send calls to a running gateway or Infinity, whether or not those before have been "
            "answered, and print throughput and latencies; or compare a server with a gateway before it.",
            allow_abbrev=False,
        )
    )
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
    changing: ConfigFile | None = None
    if file is not None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # it means to read the file again, which is done already
        changing = ConfigFile(file, os.environ, partial(_check_danger, host))
        config: Config | None = changing.load()
    else:
        config = from_environment(os.environ)
    if config is None:
        local = find(os.environ)
        # Nobody sends traffic through an ingress to servers that end with us: no grace time.
        engine = EngineSettings(rerank_by_embedding=True)
        config = Config(engine, master_key=callers_key(os.environ), drain=DrainSettings(grace_s=0.0))
    if danger := _danger(host, config):
        raise StartError(danger)
    with Lines() as lines:
        set_up(lines, config.logging)
        for warning in config.warnings:
            say(logging.WARNING, "config_warning", warning, warning)
        return _run(_serving(config, changing, local, host, port, lines))


def _danger(host: str, config: Config) -> str:
    """What forbids to serve callers of `host` so; empty where nothing does."""
    if _is_loopback(host) or config.keyed or config.allow_anonymous:
        return ""
    return (
        f"--host {host} can be reached from other machines, and no key is set: anybody could call. Set "
        "general_settings.master_key (or GATEWAY_MASTER_KEY) or gateway.keys, or say that this is meant "
        "with gateway.allow_anonymous: true."
    )


def _check_danger(host: str, config: Config) -> None:
    if danger := _danger(host, config):
        raise ConfigError([danger])


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


async def _serving(
    config: Config,
    file: ConfigFile | None,
    local: LocalServers | None,
    host: str,
    port: int,
    lines: Lines,
) -> int:
    asyncio.get_running_loop().set_exception_handler(on_exception)
    say(logging.INFO, "starting", None, f"{_VERSION} starts", version=__version__, build=BUILD)
    tracing = start_tracing(config.telemetry, __version__, os.environ)
    listener = listen(host, port)
    host, port = listener.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    async with AsyncExitStack() as stack:
        failed: Coroutine[None, None, StartError] | None = None
        if local is not None:
            _tell(f"no servers are named: starting {local.count} local Infinity servers")
            supervisor = await stack.enter_async_context(Supervisor(local, report=_tell))
            failed = supervisor.failed()
            servers = tuple(
                DeploymentSettings(base.removeprefix("http://"), base) for base in supervisor.api_bases
            )
            config = replace(config, engine=replace(config.engine, servers=servers))
        runtime = Runtime(config, lines, tracing, file)
        say(logging.INFO, "listening", None, f"listening on {url}", url=url)
        if local is not None:
            announcing = asyncio.create_task(_announce(runtime, url, lines))
            stack.callback(announcing.cancel)
        await serve(runtime, listener, failed)
    say(logging.INFO, "ended", None, "ended")
    return 0


def _tell(text: str) -> None:
    """Of local servers. No line of what one wrote last may be missing."""
    say(logging.INFO, "local_server", ("local", text), text)


async def _announce(runtime: Runtime, url: str, lines: Lines) -> None:
    """Print requests to try once they can be answered, below the lines that say so."""
    await runtime.gateway.wait_ready()
    await asyncio.to_thread(lines.flush)
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
    engine, lines = config.engine, list[str]()
    timeout_s = engine.health.probe_timeout_s
    async with InfinityUpstream(engine.upstream_tls) as upstream:
        found = dict(zip(engine.names, await asyncio.gather(*map(_addresses, engine.names)), strict=True))
        lines += [f"failed: {name}: {each}" for name, each in found.items() if isinstance(each, str)]
        pools = {pool.name: [*pool.deployments, *_behind(pool.names, found)] for pool in engine.pools}
        servers = [*engine.servers, *_behind(engine.discovery.names, found)]
        lists = await asyncio.gather(*(_tried(upstream.models(each, timeout_s)) for each in servers))
        for server, models in zip(servers, lists, strict=True):
            if isinstance(models, SendError):
                lines.append(f"failed: {_at(server)}: {models}")
                continue
            lines.append(f"ok: {_at(server)}: serves {', '.join(models)}")
            for model in models:
                pools.setdefault(model, []).append(replace(server, server_model=model))
        for pool in pools.values():
            told = await asyncio.gather(*(_tried(upstream.inspect(each, timeout_s)) for each in pool))
            lines += _compared(dict(zip(pool, told, strict=True)), engine.health.vector_tolerance)
    print("\n".join(lines))
    return 1 if any(line.startswith("failed: ") for line in lines) else 0


async def _addresses(name: NameSettings) -> list[str] | str:
    """Or why there are none."""
    try:
        async with asyncio.timeout(_LOOK_UP_S):
            return await look_up(name.host, name.family)
    except TimeoutError:
        return f"the name was not looked up within {_LOOK_UP_S:g} s"
    except (OSError, UnicodeError):
        return "the name does not resolve"


def _behind(
    names: Sequence[NameSettings], found: Mapping[NameSettings, list[str] | str]
) -> list[DeploymentSettings]:
    return [
        name.deployment(address) for name in names if isinstance(found[name], list) for address in found[name]
    ]


def _at(server: DeploymentSettings) -> str:
    return f"{server.api_base} at {server.address}" if server.address else server.api_base


_Told = TypeVar("_Told")


async def _tried(asked: Awaitable[_Told]) -> _Told | SendError:
    try:
        return await asked
    except SendError as error:
        return error


def _compared(told: dict[DeploymentSettings, ServerFacts | SendError], tolerance: float) -> list[str]:
    """A line for each server of a pool: whether its vectors are those of most."""
    found = {server.name: facts for server, facts in told.items() if isinstance(facts, ServerFacts)}
    sameness, lines = Sameness(tolerance), list[str]()
    for name, facts in found.items():
        sameness.add(name, facts.samples, found, worked=False)
    for server, answer in told.items():
        place = f"{_at(server)} ({server.server_model})" if server.server_model else _at(server)
        if isinstance(answer, SendError):
            lines.append(f"failed: {place}: {answer}")
        elif why := sameness.differs(server.name):
            lines.append(f"failed: {place}: {why}")
        else:
            can = ", ".join(sorted(answer.capabilities))
            lines.append(f"ok: {place}: can {can}; batches of {answer.batch_size}")
    return lines
