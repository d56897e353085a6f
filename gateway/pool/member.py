"""One deployment of a pool, and the task that watches it."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from gateway.core.balancer import Deployment
from gateway.core.lanes import BatchKey
from gateway.core.retry import Failure
from gateway.core.settings import DeploymentSettings, HealthSettings
from gateway.messages import Task
from gateway.pool.port import Request, SendError, ServerFacts, Upstream


class Member:
    """A deployment with what only the driver needs: its address and what it has told."""

    __slots__ = ("_nudge", "facts", "settings", "state", "tells_spent")

    def __init__(self, settings: DeploymentSettings, state: Deployment) -> None:
        self.settings = settings
        self.state = state
        self.facts: ServerFacts | None = None
        self.tells_spent = True
        """Whether it tells how long requests were with it."""
        self._nudge = asyncio.Event()

    def nudge(self) -> None:
        """Something failed there, so the next probe is due sooner than the watch thinks."""
        self._nudge.set()

    async def watch(
        self, upstream: Upstream, health: HealthSettings, on_probed: Callable[["Member", bool], None]
    ) -> None:
        """Ask the deployment whenever it is not up, or has been silent for long.

        `on_probed` is told after each probe, and whether there is news.
        """
        loop = asyncio.get_running_loop()
        while True:
            due = self.state.health.probe_at()
            if due <= loop.time():
                on_probed(self, await self._probe(upstream, health.probe_timeout_s))
                continue
            self._nudge.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._nudge.wait()

    async def _probe(self, upstream: Upstream, timeout_s: float) -> bool:
        loop = asyncio.get_running_loop()
        health = self.state.health
        asked, was_up = loop.time(), health.is_up
        try:
            if was_up and self.facts:
                await upstream.send(self.settings, _canary(self.facts), timeout_s)
                self.state.on_canary(asked, loop.time())
            else:
                self.facts = await upstream.inspect(self.settings, timeout_s)
                self.tells_spent = True
        except SendError as error:
            if health.is_up and (error.failure is Failure.OVERLOADED or health.has_answered_since(asked)):
                # It has more to do than our probe, and does it.
                health.on_answer(loop.time())
                return False
            # A single item that is not answered in all that time says as much as a refused connection.
            return health.on_failure(loop.time(), str(error), refused=True)
        except Exception as error:  # A bug, which must not end the watch: nobody else would take it back.
            loop.call_exception_handler({"message": "a probe failed", "exception": error})
            return health.on_failure(loop.time(), "internal error")
        if was_up and not health.is_up:
            return False  # It went down meanwhile, and whoever comes back is inspected first.
        return health.on_probe_answer(loop.time())


def _canary(facts: ServerFacts) -> Request:
    """A real call of one item: a server's own health route answers even when its model is dead."""
    task = next((task for task in Task if task.value in facts.capabilities), Task.EMBED)
    query = "ping" if task is Task.RERANK else None
    return Request(BatchKey(task, query=query), ["ping"], facts.encoding)
