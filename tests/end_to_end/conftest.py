"""Real Infinity servers and a gateway process in front, for the whole session: each start takes seconds."""

import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.api.caller import Caller
from tests.end_to_end.configs import entry, written
from tests.gateway_process import GatewayProcess
from tests.real_infinity import RealInfinity, ServedModel, model_dir


@pytest.fixture(scope="session")
def second_infinity() -> Iterator[tuple[RealInfinity, threading.Thread]]:
    """Starts at once, so that it is up when the one that all tests share is."""
    models = [ServedModel(name, model_dir(name)) for name in ("bert", "cross", "classifier")]
    server = RealInfinity(models)
    starting = threading.Thread(target=server.start)
    starting.start()
    try:
        yield server, starting
    finally:
        starting.join()
        server.stop()


@pytest.fixture(scope="session")
def servers(
    second_infinity: tuple[RealInfinity, threading.Thread], real_infinity: RealInfinity
) -> list[RealInfinity]:
    """Two with the same text models; the first has all the others too."""
    second, starting = second_infinity
    starting.join()
    return [real_infinity, second]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def gateway(
    servers: list[RealInfinity], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[GatewayProcess]:
    """A pool for each model; `cross-raw` is `cross` with raw_scores in the configuration."""
    both, first = [server.url for server in servers], [servers[0].url]
    entries = [entry(name, both) for name in ("bert", "cross", "classifier")]
    entries += [entry(name, first) for name in ("clip", "clap", "colbert", "bert-bits")]
    entries.append(entry("cross-raw", both, model="cross", raw_scores=True))
    file = written(tmp_path_factory.mktemp("gateway") / "gateway.yaml", {"model_list": entries})
    async with GatewayProcess(config=file) as gateway:
        await gateway.wait_ready(2 * 4 + 4)
        yield gateway


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def caller(gateway: GatewayProcess) -> AsyncIterator[Caller]:
    async with Caller(gateway.url) as caller:
        yield caller


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def direct(servers: list[RealInfinity], gateway: GatewayProcess) -> AsyncIterator[Caller]:
    """Calls the first server itself."""
    async with Caller(servers[0].url) as caller:
        yield caller


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    return tmp_path / "gateway.yaml"
