"""What a bug of ours, or of an upstream, may not do: leave somebody waiting, or a server out of service."""

import asyncio

import pytest

from gateway.core.events import DeploymentChanged, Event
from gateway.core.settings import DeploymentSettings, EngineSettings, HealthSettings
from gateway.errors import ServerFailed
from gateway.pool import Answer, Request, ServerFacts
from tests.fakes.time import fake_time, idle
from tests.fakes.upstream import RecordingUpstream
from tests.pool.pools import ask, assert_at_rest, at, failure, now, running, states

SETTINGS = EngineSettings(
    health=HealthSettings(probe_interval_s=0.5, silent_s_max=10, probe_timeout_s=2, failures_max=3)
)


class BrokenUpstream(RecordingUpstream):
    """Answers what no upstream may answer."""

    async def send(self, deployment: DeploymentSettings, request: Request, timeout_s: float) -> Answer:
        answer = await super().send(deployment, request, timeout_s)
        if request.items == ["raises"]:
            raise ZeroDivisionError("a bug")
        if request.items == ["miscounts"]:
            return Answer([], 0)
        return answer


@pytest.mark.parametrize("text", ["raises", "miscounts"])
@fake_time
async def test_a_bug_leaves_nobody_waiting(text: str) -> None:
    """Its callers get an error at once, the room is given back, and the bug is shown."""
    upstream = BrokenUpstream(latency_s=1)
    shown: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: shown.append(context["exception"]))

    async with running(upstream) as pool:
        error = await failure(ask(pool, text))

        assert now() == 1
        assert isinstance(error, ServerFailed)
        assert len(shown) == 1
        await idle()
        assert_at_rest(pool)


class BrokenProbes(RecordingUpstream):
    """Raises once what no upstream may raise."""

    broken = True

    async def inspect(self, deployment: DeploymentSettings, timeout_s: float) -> ServerFacts:
        facts = await super().inspect(deployment, timeout_s)
        if self.broken:
            self.broken = False
            raise ZeroDivisionError("a bug")
        return facts


@fake_time
async def test_a_bug_in_a_probe_does_not_end_the_probes() -> None:
    """Else the server is out of service until the gateway is started anew."""
    upstream = BrokenProbes()
    asyncio.get_running_loop().set_exception_handler(lambda _, __: None)

    async with running(upstream, "a", SETTINGS) as pool:
        await at(5)

        assert states(pool) == {"a": "up"}


class BrokenListener(list[Event]):
    """Raises once, when a server goes down."""

    broken = True

    def append(self, event: Event) -> None:
        if self.broken and isinstance(event, DeploymentChanged) and not event.up:
            self.broken = False
            raise ZeroDivisionError("a bug")


@fake_time
async def test_a_bug_in_what_hears_of_a_probe_does_not_end_the_probes() -> None:
    upstream, listener = RecordingUpstream(), BrokenListener()
    shown: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: shown.append(context["exception"]))

    async with running(upstream, "a", SETTINGS, listener) as pool:
        upstream.down.add("a")
        await at(15)
        assert states(pool) == {"a": "down"}
        assert len(shown) == 1

        upstream.down.clear()
        await at(16)
        assert states(pool) == {"a": "up"}
