"""Servers that owe an answer for too long, and servers that take no work."""

import asyncio

import pytest

from gateway.core.events import BatchRetried, Event
from gateway.core.retry import Failure
from gateway.core.settings import EngineSettings, HealthSettings
from gateway.errors import Overloaded
from tests.fakes.time import fake_time, idle
from tests.fakes.upstream import Fault, RecordingUpstream
from tests.pool.pools import (
    acquaint,
    ask,
    assert_answered,
    assert_at_rest,
    at,
    deployment,
    failure,
    now,
    running,
    states,
    texts,
)


def sent_to(upstream: RecordingUpstream, name: str, since: float) -> list[float]:
    return [batch.at for batch in upstream.batches if batch.deployment == name and batch.at >= since]


@fake_time
async def test_nobody_is_lost_with_a_server_that_hangs() -> None:
    """It gets nothing new after a second, what it has is answered by another, and it is taken back."""
    upstream = RecordingUpstream(latency_s=0.125)
    events: list[Event] = []

    async with running(upstream, "ab", events=events) as pool:
        await acquaint(pool)
        since = now()
        upstream.hung.add("a")
        calls = []
        for i in range(80):
            calls.append(ask(pool, f"text {i}"))
            await at(since + i / 8)
        for call in calls:
            assert_answered(await call)

        assert max(sent_to(upstream, "a", since)) <= since + 1.25
        asked = next(probe.at for probe in upstream.probes if probe.deployment == "a" and probe.at > since)
        assert since + 1 <= asked <= since + 1.5
        assert now() < since + 15
        assert states(pool) == {"a": "down", "b": "up"}
        assert {event.reason for event in events if isinstance(event, BatchRetried)} == {"hung"}
        assert_at_rest(pool)

        upstream.hung.clear()
        await at(now() + 11)  # a probe of it may hang still
        assert states(pool) == {"a": "up", "b": "up"}
        back = now()
        await asyncio.gather(*(ask(pool, f"again {i}") for i in range(64)))
        assert sent_to(upstream, "a", back)


@fake_time
async def test_a_batch_that_takes_its_time_is_waited_for() -> None:
    """Slowness is no failure as long as the server answers a canary: nothing is sent twice."""
    slow = "a long text"
    upstream = RecordingUpstream(latency_of=lambda _, request: 20.0 if slow in request.items else 0.125)

    async with running(upstream, "ab") as pool:
        await acquaint(pool)
        since = now()
        assert_answered(await ask(pool, slow))

        assert since + 20 <= now() <= since + 20.001  # it may have waited for company
        assert set(states(pool).values()) == {"up"}
        assert [probe for probe in upstream.probes if probe.kind == "canary" and probe.at > since]

    assert [slow in batch.items for batch in upstream.batches].count(True) == 1


@pytest.mark.parametrize("servers", ["ab", "abc"])
@fake_time
async def test_a_server_that_takes_no_work_is_left_alone(servers: str) -> None:
    """429 at once makes it look like the least busy. It is asked by canaries, and counts as down if that
    goes on; the others serve."""
    upstream = RecordingUpstream(latency_s=0.125)

    async with running(upstream, servers) as pool:
        await acquaint(pool)
        since = now()
        upstream.full.add("a")
        for i in range(40):
            assert_answered(await ask(pool, f"text {i}"))

        assert len(sent_to(upstream, "a", since)) <= 1
        assert states(pool)["a"] == "down"
        upstream.full.clear()
        await at(now() + 1)
        assert states(pool)["a"] == "up"


@fake_time
async def test_a_server_that_is_full_for_a_moment_stays() -> None:
    """It gets work again as soon as it takes a canary."""
    upstream = RecordingUpstream(latency_s=0.125, faults=[Fault(Failure.OVERLOADED, times=1)])

    async with running(upstream, "a") as pool:
        assert isinstance(await failure(ask(pool, "unlucky")), Overloaded)
        assert_answered(await ask(pool, "lucky"))

        assert states(pool) == {"a": "up"}


@fake_time
async def test_errors_take_out_half_of_the_servers_at_most() -> None:
    """If all fail on calls while they answer canaries, it is the calls."""
    upstream = RecordingUpstream(latency_s=0.125, faults=[Fault(Failure.BAD_ANSWER)])
    settings = EngineSettings(health=HealthSettings(failures_max=2, probe_interval_s=60))
    least_up = 4

    async with running(upstream, "abcd", settings) as pool:
        for i in range(60):
            await asyncio.gather(*(ask(pool, text) for text in texts(4, f"{i} ")), return_exceptions=True)
            least_up = min(least_up, list(states(pool).values()).count("up"))
        assert least_up == 2

        upstream.down |= set("abcd")
        await asyncio.gather(*(ask(pool, text) for text in texts(64)), return_exceptions=True)
        assert "up" not in states(pool).values()


@fake_time
async def test_a_server_that_comes_back_starts_slowly() -> None:
    """One batch at a time, until it has answered some."""
    upstream = RecordingUpstream(latency_s=0.125)

    async with running(upstream, "a") as pool:
        await acquaint(pool)
        await asyncio.gather(*(ask(pool, text) for text in texts(200)))
        assert upstream.in_flight_most["a"] > 1

        upstream.down.add("a")
        await asyncio.gather(ask(pool, "x"), return_exceptions=True)
        upstream.down.clear()
        await at(now() + 1)
        assert pool.stats().deployments[0].breaker == "half_open"
        upstream.in_flight_most.clear()
        calls = [ask(pool, text) for text in texts(400)]
        await idle()
        assert upstream.in_flight_most["a"] == 1
        await asyncio.gather(*calls)
        assert upstream.in_flight_most["a"] > 1
        assert pool.stats().deployments[0].breaker == "closed"


@fake_time
async def test_a_server_that_came_back_proves_itself_without_calls() -> None:
    """Canaries are enough, within a few seconds."""
    upstream = RecordingUpstream(latency_s=0.125)

    async with running(upstream, "ab") as pool:
        await acquaint(pool)
        upstream.down.add("a")
        await at(now() + 11)
        assert states(pool) == {"a": "down", "b": "up"}
        upstream.down.clear()
        await at(now() + 1)
        assert [each.breaker for each in pool.stats().deployments] == ["half_open", "closed"]

        await at(now() + 3)
        assert [each.breaker for each in pool.stats().deployments] == ["closed", "closed"]
        probes = len(upstream.probes)
        await at(now() + 60)
        assert len(upstream.probes) <= probes + 2 * 7


@fake_time
async def test_a_server_that_was_slow_once_gets_another_chance() -> None:
    """As after its start, when its model is not warm yet. Passed over for that, it would not be asked again
    while the others can do the work."""
    warm: set[str] = {"a"}
    upstream = RecordingUpstream(serial=True, latency_of=lambda name, _: 0.125 if name in warm else 3.0)

    async with running(upstream, "a") as pool:
        await acquaint(pool)
        pool.add(deployment("b"))
        since = now()
        calls = []
        for i in range(320):
            calls.append(ask(pool, texts(7, f"{i} ")))
            await at(since + i / 32)
            if upstream.in_flight["b"]:
                warm.add("b")
            if i == 256:
                thought = pool.stats().deployments[1].service
        for call in calls:
            assert_answered(await call)

        assert next(batch.at for batch in upstream.batches if batch.deployment == "b") < since + 1
        assert thought["l"] + thought["o"] + thought["a"] < 0.3
