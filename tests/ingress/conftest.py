"""Two real gateways, in front of three servers, for an ingress to stand before."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.end_to_end.configs import entry, written
from tests.fakes.infinity import FakeInfinity, FakeModel
from tests.faults.conftest import all_started
from tests.gateway_process import GatewayProcess
from tests.ingress.proxies import KINDS, Ingress, Kind
from tests.real_infinity import RealInfinity, ServedModel

SERVERS, GATEWAYS = 3, 2
KEY = "the-callers-key"
LARGE = FakeModel("large", dim=1024)


@asynccontextmanager
async def gateways_of(
    folder: Path, models: Sequence[dict[str, Any]], up: int, **content: Any
) -> AsyncIterator[list[GatewayProcess]]:
    """Two of them, once so many deployments are up in each. `content` is what the file holds besides."""
    file = written(folder / "gateway.yaml", {"model_list": models, **content})
    async with AsyncExitStack() as running:
        gateways = [GatewayProcess(config=file) for _ in range(GATEWAYS)]
        for gateway in gateways:
            await running.enter_async_context(gateway)
        for gateway in gateways:
            await gateway.wait_ready(up)
        yield gateways


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def servers() -> AsyncIterator[list[FakeInfinity]]:
    async with AsyncExitStack() as running:
        models = (FakeModel("bert"), LARGE)
        yield [await running.enter_async_context(FakeInfinity(models)) for _ in range(SERVERS)]


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def gateways(
    servers: list[FakeInfinity], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[list[GatewayProcess]]:
    """With a key, all else by default but for what they log; one model of theirs has no server."""
    urls = [server.url for server in servers]
    models = [entry("bert", urls), entry("large", urls), entry("absent", ["http://127.0.0.1:9"])]
    folder = tmp_path_factory.mktemp("gateways")
    settings = {
        "logging": {"access_log": 1.0},
        "admission": {"queued_items_max": 2048},
        "batching": {"in_flight_max": 1},
        "health": {"silent_s_max": 600},
    }
    keyed = {"general_settings": {"master_key": KEY}}
    async with gateways_of(folder, models, 2 * SERVERS, gateway=settings, **keyed) as gateways:
        yield gateways


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    kind: Kind = request.param
    return kind


@pytest_asyncio.fixture(loop_scope="package")
async def ingress(kind: Kind, gateways: list[GatewayProcess], tmp_path: Path) -> AsyncIterator[Ingress]:
    async with Ingress(kind, [gateway.url for gateway in gateways], tmp_path) as ingress:
        yield ingress


@pytest.fixture(scope="package")
def replicas() -> Iterator[list[RealInfinity]]:
    """Real servers of one model, whose vectors are 13 times the length of the text."""
    servers = [RealInfinity([ServedModel("debug")], engine="debugengine") for _ in range(SERVERS)]
    with all_started(servers):
        yield servers
