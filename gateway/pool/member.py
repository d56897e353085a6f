"""One deployment of a pool, and the task that watches it."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from gateway.core.balancer import Deployment
from gateway.core.retry import Failure
from gateway.core.sameness import distance
from gateway.core.settings import DeploymentSettings, HealthSettings
from gateway.messages import Task
from gateway.pool.port import Answer, Request, SendError, ServerFacts, Upstream
from gateway.pool.samples import SHORT, sample_of, trial_key


class Member:
    """A deployment with what only the driver needs: its address and what it has told."""

    __slots__ = ("_compared_at", "_nudge", "facts", "hangs", "settings", "state", "tells_spent")

    def __init__(self, settings: DeploymentSettings, state: Deployment) -> None:
        self.settings = settings
        self.state = state
        self.facts: ServerFacts | None = None
        self.tells_spent = True
        """Whether it tells how long requests were with it."""
        self.hangs = False
        """It went down because a probe was not answered in time: nor will be what is under way there."""
        self._nudge = asyncio.Event()
        self._compared_at = 0.0
        """When its answer to a fixed text was last seen to be that of its pool."""

    def nudge(self) -> None:
        """Something failed there, so the next probe is due sooner than the watch thinks."""
        self._nudge.set()

    async def watch(
        self,
        upstream: Upstream,
        health: HealthSettings,
        differs: Callable[["Member", ServerFacts], str],
        on_probed: Callable[["Member", bool], None],
    ) -> None:
        """Ask the deployment whenever it is not up, or has been silent for long, and at times in any case.

        What it tells of itself then goes to `differs`, which says why it does not fit the pool, if so.
        `on_probed` is told after each probe, and whether there is news.
        """
        loop = asyncio.get_running_loop()
        while True:
            due = self.state.health.probe_at()
            if self.state.health.is_up:
                proven = self.state.is_proven or self.state.batches
                every_s = health.compare_every_s if proven else health.probe_interval_s
                due = min(due, self._compared_at + every_s)
            if due <= loop.time():
                news = await self._probe(upstream, health, differs)
                try:
                    on_probed(self, news)
                except Exception as error:  # A bug, as below: the watch goes on.
                    loop.call_exception_handler({"message": "a probe was not taken", "exception": error})
                continue
            self._nudge.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._nudge.wait()

    async def _probe(
        self,
        upstream: Upstream,
        settings: HealthSettings,
        differs: Callable[["Member", ServerFacts], str],
    ) -> bool:
        loop = asyncio.get_running_loop()
        timeout_s = settings.probe_timeout_s
        health = self.state.health
        asked, was_up = loop.time(), health.is_up
        try:
            self._compared_at = asked
            answers_as_before = False
            if was_up and self.facts:
                answer = await upstream.send(
                    self.settings, _canary(self.facts), self.state.canary_s(timeout_s)
                )
                self.state.on_canary(asked, loop.time())
                answers_as_before = _distance(self.facts, answer) <= settings.vector_tolerance
            if not answers_as_before:  # It is new, or another than it was.
                facts = await upstream.inspect(self.settings, timeout_s)
                if was_up and not health.is_up:
                    return False  # It went down meanwhile, and whoever comes back is inspected first.
                why = differs(self, facts)
                self.facts = None if why else facts
                self.tells_spent = True
                if why:
                    return health.on_different(loop.time(), why)
        except SendError as error:
            if health.is_up and health.has_answered_since(asked):
                # It has more to do than our probe, and does it.
                health.on_answer(loop.time())
                return False
            # Too much to do, if that ends soon; dead, if it goes on. Infinity whose worker has died takes
            # requests until its queue is full.
            full = error.failure is Failure.OVERLOADED
            self.hangs = health.is_up and error.failure is Failure.TIMEOUT
            if self.hangs:
                self.state.on_hang(asked)
            elif error.failure in (Failure.REFUSED, Failure.DISCONNECTED):
                self.state.on_end()
            # A single item that is not answered in all that time says as much as a refused connection.
            return health.on_failure(loop.time(), str(error), refused=not full, full=full)
        except Exception as bug:  # A bug, which must not end the watch: nobody else would take it back.
            loop.call_exception_handler({"message": "a probe failed", "exception": bug})
            return health.on_failure(loop.time(), "internal error")
        if was_up and not health.is_up:
            return False
        return health.on_probe_answer(loop.time(), asked)


def _canary(facts: ServerFacts) -> Request:
    """A real call of one item: a server's own health route answers even when its model is dead."""
    return Request(trial_key(_task(facts)), [SHORT], facts.encoding)


def _task(facts: ServerFacts) -> Task:
    return next((task for task in Task if task.value in facts.capabilities), Task.EMBED)


def _distance(facts: ServerFacts, answer: Answer) -> float:
    """How far a canary's answer is from what the server told at first."""
    before, task = facts.samples[:1], _task(facts)
    return distance(before, [sample_of(task, answer.values[0], binary=each.are_bits) for each in before])
