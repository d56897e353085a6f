"""The gateway in process, in front of stand-ins, in the event loop that it runs in.

`gateway` and its `fake` are made once for a module, for tests that leave them as they find them: such a
module says `pytestmark = SHARED`. A test that breaks servers, or counts what they got, makes its own.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

import pytest
import pytest_asyncio

from gateway.bootstrap import EventLoop
from tests.api.caller import Caller
from tests.api.configs import config, pools_of
from tests.fakes.infinity import FakeInfinity
from tests.gateway_in_process import GatewayInProcess


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": EventLoop}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_fake() -> AsyncIterator[FakeInfinity]:
    async with FakeInfinity() as fake:
        yield fake


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(shared_fake: FakeInfinity) -> AsyncIterator[GatewayInProcess]:
    """One gateway with a pool for each model of the stand-in, under the same names."""
    async with GatewayInProcess(config(*pools_of(shared_fake))) as gateway:
        yield gateway


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def caller(gateway: GatewayInProcess) -> AsyncIterator[Caller]:
    async with Caller(gateway.url) as caller:
        yield caller


@pytest.fixture
def fake(shared_fake: FakeInfinity, gateway: GatewayInProcess) -> Iterator[FakeInfinity]:
    """The stand-in behind `gateway`, with an empty record and without faults."""
    shared_fake.requests.clear()
    yield shared_fake
    shared_fake.faults.clear()
