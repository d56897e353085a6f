"""The event loop that gateways run in."""

import asyncio
from collections.abc import Callable, Mapping

from gateway.bootstrap import EventLoop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": EventLoop}
