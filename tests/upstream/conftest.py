"""InfinityUpstream against a stand-in on real sockets, in the event loop that the gateway runs in."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest

from gateway.bootstrap import EventLoop
from gateway.upstream.infinity import InfinityUpstream

# Where each event loop has ways of its own.
_OF_CONNECTIONS = (
    "test_client.py",
    "test_connections.py",
    "test_failures.py",
    "test_resolver.py",
    "test_tls.py",
)


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"uvloop": EventLoop}
    if item.path.name in _OF_CONNECTIONS:
        loops["asyncio"] = asyncio.new_event_loop
    return loops


@pytest.fixture
async def upstream() -> AsyncIterator[InfinityUpstream]:
    async with InfinityUpstream() as entered:
        yield entered
