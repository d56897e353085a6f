"""What servers tell of themselves, and what the pool tells of them and of its calls."""

import asyncio

import pytest

from gateway.core.events import BatchEnded, Event
from gateway.core.settings import BatchingSettings, EngineSettings
from gateway.pool import Encoding, ServerFacts
from tests.fakes.time import fake_time, idle
from tests.fakes.upstream import RecordingUpstream
from tests.pool.pools import ask, assert_at_rest, running, sizes, texts

ONE_AT_A_TIME = EngineSettings(batching=BatchingSettings(in_flight_max=1))


# What servers tell of themselves


@fake_time
async def test_a_batch_fits_the_server_with_the_smallest_batches() -> None:
    """It is cut before its server is chosen, so it must fit any."""
    embed = frozenset({"embed"})
    upstream = RecordingUpstream(facts={"a": ServerFacts(embed, 64), "b": ServerFacts(embed, 8)})

    async with running(upstream, "ab") as pool:
        await ask(pool, texts(100))

    assert max(sizes(upstream)) == 8


@fake_time
async def test_a_configured_batch_size_comes_before_what_servers_tell() -> None:
    """The operator knows better."""
    upstream = RecordingUpstream(facts={"a": ServerFacts(frozenset({"embed"}), 64)})

    async with running(upstream, "a", EngineSettings(batching=BatchingSettings(items_max=16))) as pool:
        await ask(pool, texts(100))

    assert max(sizes(upstream)) == 16


@fake_time
async def test_a_server_that_is_gone_does_not_make_batches_small() -> None:
    """Its limit goes with it."""
    embed = frozenset({"embed"})
    upstream = RecordingUpstream(facts={"a": ServerFacts(embed, 64), "b": ServerFacts(embed, 8)})

    async with running(upstream, "ab") as pool:
        pool.remove("b")
        await ask(pool, texts(64))

    assert sizes(upstream) == [64]


@fake_time
async def test_each_server_is_asked_in_its_own_encoding() -> None:
    """One with a binary dtype cannot give base64."""
    embed = frozenset({"embed"})
    upstream = RecordingUpstream(facts={"b": ServerFacts(embed, encoding=Encoding.FLOAT)})

    async with running(upstream, "ab", EngineSettings(batching=BatchingSettings(items_max=1))) as pool:
        await ask(pool, texts(10))

    asked = {
        (batch.deployment, request.encoding)
        for batch, request in zip(upstream.batches, upstream.requests, strict=True)
    }
    assert asked == {("a", Encoding.BASE64), ("b", Encoding.FLOAT)}


@fake_time
async def test_a_pool_can_do_what_its_servers_can_do() -> None:
    """Until one has told, what the configuration says; later also those that are down count."""
    upstream = RecordingUpstream(facts={"a": ServerFacts(frozenset({"embed", "rerank"}))}, down={"b"})

    async with running(upstream, "ab") as pool:
        assert pool.capabilities == {"embed", "rerank"}

    async with running(upstream, "b") as pool:
        assert pool.capabilities == frozenset()


# What is told to metrics and logs


@fake_time
async def test_each_batch_is_reported_with_its_size_callers_padding_and_time() -> None:
    """Metrics are made of nothing else."""
    upstream = RecordingUpstream(latency_s=2)
    events: list[Event] = []

    async with running(upstream, "a", events=events) as pool:
        await asyncio.gather(ask(pool, ["a" * 40, "b" * 8]), ask(pool, "c" * 8))

    ended = [event for event in events if isinstance(event, BatchEnded)]
    assert [(e.model, e.deployment, e.outcome.value, e.reason) for e in ended] == [
        ("model", "a", "success", "")
    ]
    assert (ended[0].items, ended[0].calls, ended[0].fill_ratio, ended[0].duration_s) == (3, 2, 3 / 32, 2)
    assert ended[0].padding_ratio == pytest.approx(1 - (12 + 4 + 4) / (3 * 12))


@fake_time
async def test_stats_and_repr_tell_what_waits_and_what_is_under_way() -> None:
    """That is what the gauges and the status page are made of."""
    upstream = RecordingUpstream(latency_s=1)

    async with running(upstream, "a", ONE_AT_A_TIME) as pool:
        calls = [ask(pool, texts(40)), ask(pool, ["x", "y"])]
        await idle()

        stats = pool.stats()
        assert (stats.model, stats.in_flight_calls, stats.queued_items) == (
            "model",
            2,
            {"bulk": 10, "interactive": 0},
        )
        assert [told[:7] for told in stats.deployments] == [("a", "up", "answers", "closed", 1, 32, 1)]
        assert 0 <= stats.deployments[0].busy_ratio <= 1
        assert set(stats.deployments[0].service) == {"l", "o", "a", "b"}
        assert repr(pool) == "<Pool model: 2 calls, <Lanes: 10 entries wait, 1 lanes>>"

        await asyncio.gather(*calls)
        assert_at_rest(pool)
