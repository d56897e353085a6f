"""The one place where the parts are put together."""

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import uvloop

from gateway import __version__
from gateway.config import Config, KeysFile
from gateway.core.events import Event, KeysRead
from gateway.core.quota import Quotas
from gateway.errors import ConfigError
from gateway.observability.logs import LOGGED, log
from gateway.observability.metrics import Metrics
from gateway.service import Gateway
from gateway.upstream.infinity import InfinityUpstream

_LAG_INTERVAL_S = 0.5
_KEYS_INTERVAL_S = 2.0
"""Between looks at the file of keys: a key that is taken out of it is good for no longer."""


class EventLoop(uvloop.Loop):
    """uvloop with an exact clock: its own stands still for a turn of the loop and counts milliseconds, which
    is too coarse for latencies and for service times.
    """

    time = staticmethod(time.monotonic)  # noqa: TID251 - this is the clock that all others are told to use


class Runtime:
    """A gateway with its connections and its listeners. Enter it to start them, leave it to end them."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._upstream = InfinityUpstream(config.engine.upstream_tls)
        self.gateway = Gateway(config.engine, self._upstream, self.observe)
        self.metrics = Metrics(__version__, self.gateway.stats)
        self.quotas = Quotas((*config.keys, *config.keys_in_file))
        self._stack = AsyncExitStack()

    def observe(self, event: Event) -> None:
        """Tell every listener."""
        self.metrics(event)
        if type(event) in LOGGED:
            log(event)

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._upstream)
        await self._stack.enter_async_context(self.gateway)
        tasks = [asyncio.create_task(self._measure_lag())]
        if path := self.config.keys_file:
            tasks.append(asyncio.create_task(self._watch_keys(path)))
        for task in tasks:
            self._stack.callback(task.cancel)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _watch_keys(self, path: Path) -> None:
        """Have the keys of a file that has changed count from now on; one that is broken changes nothing."""
        file = KeysFile(path, self.config.master_key, self.config.keys)
        problem = ""
        while True:
            try:
                keys = await asyncio.to_thread(file.read_if_changed)
            except ConfigError as error:
                if (found := "; ".join(error.problems)) != problem:
                    problem = found
                    self.observe(KeysRead(str(path), 0, problem))
            except Exception as error:  # A bug, after which the next look may do better.
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "reading the file of keys failed", "exception": error}
                )
            else:
                if keys is not None:
                    problem = ""
                    self.quotas.replace((*self.config.keys, *keys))
                    self.observe(KeysRead(str(path), len(keys)))
            await asyncio.sleep(_KEYS_INTERVAL_S)

    async def _measure_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LAG_INTERVAL_S
            await asyncio.sleep(_LAG_INTERVAL_S)
            self.metrics.on_loop_lag(max(0.0, loop.time() - due))
