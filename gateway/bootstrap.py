"""The one place where the parts are put together."""

import asyncio
import logging
import os
import random
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import uvloop

from gateway import __version__, service
from gateway.config import Config, KeysFile
from gateway.core.admission import Bodies
from gateway.core.events import ConfigRead, DeploymentChanged, Event, KeysRead
from gateway.core.quota import Quotas
from gateway.core.settings import KeySettings
from gateway.discovery import Discovery, LookUp
from gateway.observability.calls import Calls
from gateway.observability.lines import Lines, set_up
from gateway.observability.logs import Log, say
from gateway.observability.metrics import Metrics
from gateway.reload import ConfigFile, Watch, in_force
from gateway.service import Directory, Gateway
from gateway.upstream.infinity import InfinityUpstream
from gateway.upstream.resolver import look_up

if TYPE_CHECKING:  # it is installed with an extra
    from gateway.observability.tracing import Tracing

_LAG_INTERVAL_S = 0.5
_EXPORT_S_MAX = 3.0
"""How long the last traces may take at the end."""
_CONFIG_INTERVAL_S = 1.0
"""Between looks at the configuration; what differs is read at the second."""
_KEYS_INTERVAL_S = 2.0
"""Between looks at the file of keys: a key that is taken out of it is good for no longer."""


class EventLoop(uvloop.Loop):
    """uvloop with an exact clock: its own stands still for a turn of the loop and counts milliseconds, which
    is too coarse for latencies and for service times.
    """

    time = staticmethod(time.monotonic)  # noqa: TID251 - this is the clock that all others are told to use


BUILD = "pure" if service.__file__.endswith(".py") else "compiled"
"""Whether what each call passes through is machine code: see setup.py."""


class Runtime:
    """A gateway with its connections and its listeners. Enter it to start them, leave it to end them. The
    access log goes to `lines`; without them there is none. What changes in `file`, from which the
    configuration is, counts while it runs. Names are looked up by `names`.
    """

    def __init__(
        self,
        config: Config,
        lines: Lines | None = None,
        tracing: "Tracing | None" = None,
        file: ConfigFile | None = None,
        names: LookUp = look_up,
    ) -> None:
        self.config = config
        self.id = os.urandom(6).hex()
        """Of this run."""
        self._upstream = InfinityUpstream(config.engine.upstream_tls)
        upstream: Directory = tracing.traced(self._upstream) if tracing else self._upstream
        self.gateway = Gateway(config.engine, upstream, self.observe)
        self.metrics = Metrics(__version__, BUILD, self.gateway.stats, lambda: lines.dropped if lines else 0)
        self._lines = lines
        self._tracing = tracing
        self.calls = self._calls()
        """Who is told of each call; None where nobody wants to know."""
        self._log = Log()
        self._tellers = self._log.tellers
        self._discovery = Discovery(names, self.gateway.find, self.observe, random.Random())
        self._file = file
        self._reading: Watch[Config] | None = None
        self._reading_keys: asyncio.Task[None] | None = None
        self.on_change: list[Callable[[], None]] = []
        """Called when there is another configuration, which all below has by then."""
        self.quotas = Quotas((*config.keys, *config.keys_in_file))
        self.bodies = Bodies(config.engine.limits.in_all_bodies_max)
        self._stack = AsyncExitStack()

    def observe(self, event: Event) -> None:
        """Tell every listener."""
        self.metrics(event)
        kind = type(event)
        if teller := self._tellers.get(kind):
            teller(event)
        if kind is DeploymentChanged and isinstance(event, DeploymentChanged) and not event.up:
            self._discovery.doubt(event.deployment)

    async def __aenter__(self) -> Self:
        if self._tracing:
            self._stack.push_async_callback(self._tracing.close, _EXPORT_S_MAX)
        await self._stack.enter_async_context(self._upstream)
        await self._stack.enter_async_context(self.gateway)
        self._stack.callback(self._discovery.close)
        self._discovery.want(self.config.engine.names, self.config.engine.discovery.refresh_s)
        self._stack.callback(asyncio.create_task(self._measure_lag()).cancel)
        if file := self._file:
            self._reading = Watch(
                file.load_if_changed, self.become, partial(self._refused, file.path), _CONFIG_INTERVAL_S
            )
            self._stack.callback(asyncio.create_task(self._reading.run()).cancel)
        self._stack.callback(self._stop_reading_keys)
        self._read_keys()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def reloads(self) -> bool:
        """Whether there is a file of which changes count."""
        return self._file is not None

    def reload(self) -> None:
        """Have the configuration read again now."""
        if self._reading:
            self._reading.ask()

    def become(self, config: Config) -> None:
        """Run by another configuration from now on: all of it in this turn of the event loop."""
        before = self.config
        config, fixed = in_force(config, before)
        engine, self.config = config.engine, config
        for warning in config.warnings:
            if warning not in before.warnings:
                say(logging.WARNING, "config_warning", warning, warning)
        self.quotas.replace((*config.keys, *config.keys_in_file))
        self.bodies.become(engine.limits.in_all_bodies_max)
        if config.logging != before.logging:
            self.calls = self._calls()
            if self._lines:
                set_up(self._lines, config.logging)
        self._upstream.trust(engine.upstream_tls)
        self.gateway.become(engine)
        self._discovery.want(engine.names, engine.discovery.refresh_s)
        self._read_keys()
        for each in self.on_change:
            each()
        assert self._file
        changed = _without_keys(config) != _without_keys(before)
        self.observe(ConfigRead(str(self._file.path), fixed=fixed, changed=changed))

    def _refused(self, path: Path, problems: tuple[str, ...]) -> None:
        self.observe(ConfigRead(str(path), problems))

    def _calls(self) -> Calls | None:
        share = self.config.logging.access_log if self._lines else 0.0
        return Calls(self._lines, share, self._tracing) if self._tracing or share else None

    def _read_keys(self) -> None:
        """Have the keys of a file that changes count from now on; one that is broken changes nothing."""
        self._stop_reading_keys()
        config = self.config
        if (path := config.keys_file) is None:
            return
        file = KeysFile(path, config.master_key, config.keys)

        def taken(keys: tuple[KeySettings, ...]) -> None:
            self.quotas.replace((*config.keys, *keys))
            self.observe(KeysRead(str(path), len(keys)))

        def refused(problems: tuple[str, ...]) -> None:
            self.observe(KeysRead(str(path), 0, "; ".join(problems)))

        watch = Watch(lambda _: file.read_if_changed(), taken, refused, _KEYS_INTERVAL_S)
        self._reading_keys = asyncio.create_task(watch.run())

    def _stop_reading_keys(self) -> None:
        if self._reading_keys:
            self._reading_keys.cancel()

    async def _measure_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LAG_INTERVAL_S
            await asyncio.sleep(_LAG_INTERVAL_S)
            now = loop.time()
            self.metrics.on_loop_lag(max(0.0, now - due))
            self._log.look(now)


def _without_keys(config: Config) -> Config:
    """All but what is read on its own, or has no effect."""
    return replace(config, keys_in_file=(), warnings=())
