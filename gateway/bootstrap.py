"""The one place where the parts are put together."""

import asyncio
import time
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

import uvloop

from gateway import __version__
from gateway.config import Config
from gateway.core.events import Event
from gateway.observability.logs import LOGGED, log
from gateway.observability.metrics import Metrics
from gateway.service import Gateway
from gateway.upstream.infinity import InfinityUpstream

_LAG_INTERVAL_S = 0.5


class EventLoop(uvloop.Loop):
    """uvloop with an exact clock: its own stands still for a turn of the loop and counts milliseconds, which
    is too coarse for latencies and for service times.
    """

    time = staticmethod(time.monotonic)  # noqa: TID251 - this is the clock that all others are told to use


class Runtime:
    """A gateway with its connections and its listeners. Enter it to start them, leave it to end them."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._upstream = InfinityUpstream()
        self.gateway = Gateway(config.engine, self._upstream, self.observe)
        self.metrics = Metrics(__version__, self.gateway.stats)
        self._stack = AsyncExitStack()

    def observe(self, event: Event) -> None:
        """Tell every listener."""
        self.metrics(event)
        if type(event) in LOGGED:
            log(event)

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._upstream)
        await self._stack.enter_async_context(self.gateway)
        lag = asyncio.create_task(self._measure_lag())
        self._stack.callback(lag.cancel)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _measure_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LAG_INTERVAL_S
            await asyncio.sleep(_LAG_INTERVAL_S)
            self.metrics.on_loop_lag(max(0.0, loop.time() - due))
