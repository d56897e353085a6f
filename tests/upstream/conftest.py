"""InfinityUpstream against a stand-in on real sockets, in the event loop that the gateway runs in."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest

from gateway.bootstrap import EventLoop
from gateway.upstream.infinity import InfinityUpstream


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": EventLoop}


@pytest.fixture
async def upstream() -> AsyncIterator[InfinityUpstream]:
    async with InfinityUpstream() as entered:
        yield entered
