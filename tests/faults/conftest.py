"""Real servers that tests may kill and freeze, and real gateways in front of them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gateway.bootstrap import EventLoop
from tests.api.caller import Caller
from tests.end_to_end.configs import entry, written
from tests.gateway_process import GatewayProcess
from tests.real_infinity import RealInfinity, ServedModel

REPLICAS = 3


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": EventLoop}


@contextmanager
def all_started(servers: Sequence[RealInfinity]) -> Iterator[None]:
    """Side by side, since each takes seconds; stopped at the end."""
    try:
        with ThreadPoolExecutor() as threads:
            list(threads.map(RealInfinity.start, servers))
        yield
    finally:
        for server in servers:
            server.stop()


@pytest.fixture(scope="module")
def replicas() -> Iterator[list[RealInfinity]]:
    """Real servers of one model, whose vectors are 13 times the length of the text. Leave them running."""
    servers = [RealInfinity([ServedModel("debug")], engine="debugengine") for _ in range(REPLICAS)]
    with all_started(servers):
        yield servers


class Front(NamedTuple):
    gateway: GatewayProcess
    caller: Caller


FrontOf = Callable[..., AbstractAsyncContextManager[Front]]


@pytest.fixture
def front_of(tmp_path: Path) -> FrontOf:
    """`front_of(model, urls, **gateway)`: a gateway process that knows them, once all are up."""

    @asynccontextmanager
    async def front(model: str, urls: list[str], **settings: Any) -> AsyncIterator[Front]:
        content = {"model_list": [entry(model, urls)], "gateway": settings}
        file = written(tmp_path / "gateway.yaml", content)
        async with GatewayProcess(config=file) as gateway, Caller(gateway.url) as caller:
            await gateway.wait_ready(len(urls))
            yield Front(gateway, caller)

    return front


def name_of(url: str) -> str:
    """The label of a server in metrics."""
    return url.removeprefix("http://")
