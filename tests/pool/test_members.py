"""Servers that join, leave and change while there is work."""

import asyncio

import pytest

from gateway.core.events import BatchEnded, DeploymentChanged, DeploymentGone, Event
from gateway.core.retry import Failure
from gateway.core.settings import BatchingSettings, EngineSettings, HealthSettings
from gateway.errors import NoDeployment
from gateway.pool import Encoding, ServerFacts
from tests.fakes.time import fake_time, idle
from tests.fakes.upstream import Fault, RecordingUpstream
from tests.pool.pools import (
    ask,
    assert_answered,
    assert_at_rest,
    at,
    deployment,
    failure,
    now,
    outcome,
    running,
    sizes,
    states,
    texts,
)

SETTINGS = EngineSettings(
    health=HealthSettings(probe_interval_s=0.5, silent_s_max=10, probe_timeout_s=2, failures_max=3)
)
FIRST_A = [deployment("a", weight=1e9), deployment("b")]
"""Two servers of which the first gets the first batch."""


@fake_time
async def test_a_server_that_comes_back_different_is_treated_as_it_now_is() -> None:
    """It may have been started anew with other settings."""
    upstream = RecordingUpstream(facts={"a": ServerFacts(frozenset({"embed"}), 32)})

    async with running(upstream, "a", SETTINGS) as pool:
        upstream.down.add("a")
        await failure(ask(pool, "x"))
        upstream.facts["a"] = ServerFacts(frozenset({"embed", "rerank"}), 8, Encoding.FLOAT)
        upstream.down.clear()
        await at(1)
        upstream.batches.clear()
        await ask(pool, texts(20))

        assert pool.capabilities == {"embed", "rerank"}
    assert max(sizes(upstream)) == 8
    assert upstream.requests[-1].encoding is Encoding.FLOAT


@fake_time
async def test_a_server_that_joins_under_load_gets_its_part() -> None:
    """As soon as it has answered a probe."""
    upstream = RecordingUpstream(latency_s=1)
    settings = EngineSettings(batching=BatchingSettings(items_max=4, in_flight_max=1))

    async with running(upstream, "a", settings) as pool:
        call = ask(pool, texts(40))
        await at(2.5)
        pool.add(deployment("b"))
        assert_answered(await call)

    assert [b.at for b in upstream.batches if b.deployment == "b"] == pytest.approx([2.5, 3.5, 4.5, 5.5])


@fake_time
async def test_a_server_that_is_removed_gets_no_more_and_ends_what_it_has() -> None:
    """The callers of what is under way there are answered."""
    upstream = RecordingUpstream(latency_s=1)
    settings = EngineSettings(batching=BatchingSettings(items_max=4, in_flight_max=1))

    async with running(upstream, "ab", settings) as pool:
        call = ask(pool, texts(40))
        await at(2.5)
        pool.remove("b")
        assert states(pool) == {"a": "up"}
        assert_answered(await call)
        assert_at_rest(pool)
        await at(60)

    assert max(batch.at for batch in upstream.batches if batch.deployment == "b") == 2
    assert not [probe for probe in upstream.probes if probe.deployment == "b" and probe.at > 2.5]


@fake_time
async def test_removing_the_last_server_ends_what_waits() -> None:
    """Nobody will come."""
    upstream = RecordingUpstream(latency_s=1)
    settings = EngineSettings(batching=BatchingSettings(items_max=4, in_flight_max=1))

    async with running(upstream, "a", settings) as pool:
        under_way = ask(pool, texts(4))
        await at(0.25)
        waits = ask(pool, "waits")
        await at(0.5)
        pool.remove("a")

        assert isinstance(await failure(waits), NoDeployment)
        assert now() == 0.5
        assert_answered(await under_way)
        assert now() == 1


@pytest.mark.parametrize("turns", range(6))
@fake_time
async def test_removing_a_server_in_any_turn_leaves_nobody_waiting(turns: int) -> None:
    """A batch that was given to it in the same moment is still sent, or goes elsewhere."""
    upstream = RecordingUpstream(latency_s=1)

    async with running(upstream, FIRST_A, SETTINGS) as pool:
        call = ask(pool, "x")
        for _ in range(turns):
            await asyncio.sleep(0)
        pool.remove("a")

        assert_answered(await call)
        assert now() == 1
        assert_at_rest(pool)


@fake_time
async def test_a_server_may_be_removed_and_added_again_while_it_is_busy() -> None:
    """Its old work and its new work are counted apart."""
    upstream = RecordingUpstream(latency_s=1)

    async with running(upstream, "a", SETTINGS) as pool:
        old = ask(pool, "old")
        await at(0.5)
        pool.remove("a")
        pool.add(deployment("a"))
        await idle()
        new = ask(pool, "new")
        await idle()
        assert [(each.batches, each.items) for each in pool.stats().deployments] == [(1, 1)]
        assert_answered(await old)
        assert [(each.batches, each.items) for each in pool.stats().deployments] == [(1, 1)]
        assert_answered(await new)
        assert_at_rest(pool)


# What is told of them


@fake_time
async def test_changes_are_reported_once_each_with_their_reason() -> None:
    """A server that is down for an hour is not reported 7,200 times."""
    upstream = RecordingUpstream()
    events: list[Event] = []

    async with running(upstream, "a", SETTINGS, events) as pool:
        upstream.down.add("a")
        await failure(ask(pool, "x"))
        await at(100)
        upstream.down.clear()
        await at(101)

    changes = [(e.deployment, e.up, e.why) for e in events if isinstance(e, DeploymentChanged)]
    assert changes == [
        ("a", True, "answers"),
        ("a", False, "no connection: refused"),
        ("a", True, "answers"),
    ]


@pytest.mark.parametrize("kind", [None, Failure.REFUSED])
@fake_time
async def test_nothing_is_reported_of_a_server_after_it_is_gone(kind: Failure | None) -> None:
    """Its series in the metrics would come back, and stay for ever."""
    upstream = RecordingUpstream(latency_s=1)
    events: list[Event] = []

    async with running(upstream, "ab", SETTINGS, events) as pool:
        calls = [outcome(ask(pool, text)) for text in texts(8)]
        answers = asyncio.gather(*calls)
        await at(0.5)
        if kind:
            upstream.latency_s = 0
            upstream.faults.append(Fault(kind, "a"))
        pool.remove("a")
        await answers

    after = events[events.index(DeploymentGone("model", "a")) + 1 :]
    assert not [e for e in after if isinstance(e, BatchEnded | DeploymentChanged) and e.deployment == "a"]


@fake_time
async def test_what_an_old_server_did_is_not_said_of_a_new_one_of_its_name() -> None:
    """An address can come back as another server while the old one's last batch is under way."""
    upstream = RecordingUpstream(latency_s=1, faults=[Fault(Failure.SERVER_ERROR, times=1)])
    events: list[Event] = []
    settings = EngineSettings(health=HealthSettings(failures_max=1))

    async with running(upstream, "a", settings, events) as pool:
        old = ask(pool, "old")
        await at(0.5)
        pool.remove("a")
        pool.add(deployment("a"))
        await failure(old)
        await idle()

        assert states(pool) == {"a": "up"}
    assert [(e.deployment, e.up) for e in events if isinstance(e, DeploymentChanged)] == [("a", True)] * 2
