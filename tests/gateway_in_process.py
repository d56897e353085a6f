"""The real gateway, its engine and its HTTP server both, in the event loop of the test that uses it."""

import asyncio
import signal
from contextlib import suppress
from types import TracebackType
from typing import Self

import aiohttp

from gateway.api.server import listen, serve
from gateway.bootstrap import Runtime
from gateway.config import Config
from gateway.discovery import LookUp
from gateway.errors import StartError
from gateway.observability.lines import Lines
from gateway.observability.tracing import Tracing
from gateway.reload import ConfigFile
from gateway.upstream.resolver import look_up

_START_S_MAX = 20.0
_STOP_S_MAX = 20.0
_POLL_S = 0.002
_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stopped(StartError):
    """What ends `serve` here, where a signal would end a process."""


class GatewayInProcess:
    """An async context manager; when it is entered, every deployment of `config` is up.

    With `deployments` it waits for so many, 0 for none: for servers that are not there, or are sick. The
    access log goes to `lines`; `file` and `names` are the runtime's.
    """

    def __init__(
        self,
        config: Config,
        *,
        deployments: int | None = None,
        lines: Lines | None = None,
        tracing: Tracing | None = None,
        file: ConfigFile | None = None,
        names: LookUp = look_up,
    ) -> None:
        self.runtime = Runtime(config, lines, tracing, file, names)
        named = sum(len(pool.deployments) for pool in config.engine.pools) + len(config.engine.servers)
        self._wanted = named if deployments is None else deployments
        self._ending = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None
        self._listener = listen("127.0.0.1", 0)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        before = {number: signal.getsignal(number) for number in _HANDLED}
        self._serving = asyncio.create_task(serve(self.runtime, self._listener, self._told_to_stop()))
        try:
            async with asyncio.timeout(_START_S_MAX):
                await self.wait_up(self._wanted)
                async with aiohttp.ClientSession() as session, session.get(f"{self.url}/health/liveness"):
                    pass
        except BaseException:
            await self._stop()
            raise
        # The server handles signals from here on. In a test they are pytest's.
        for number, handler in before.items():
            asyncio.get_running_loop().remove_signal_handler(number)
            signal.signal(number, handler)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def _stop(self) -> None:
        assert self._serving
        self._ending.set()
        async with asyncio.timeout(_STOP_S_MAX):
            with suppress(Stopped):
                await self._serving

    async def wait_up(self, deployments: int) -> None:
        """Until so many deployments are up, and no more."""
        while self.up != deployments:
            assert self._serving
            if self._serving.done():
                await self._serving
            await asyncio.sleep(_POLL_S)

    @property
    def up(self) -> int:
        pools = self.runtime.gateway.stats()
        return sum(deployment.state == "up" for pool in pools for deployment in pool.deployments)

    async def _told_to_stop(self) -> StartError:
        await self._ending.wait()
        return Stopped()
