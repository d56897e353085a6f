"""What several callers ask at once is sent once, and what was answered may be kept."""

import asyncio

import pytest

from gateway.core.events import CacheUsed, Event, ItemsShared
from gateway.core.retry import Failure
from gateway.core.settings import BatchingSettings, CacheSettings, EngineSettings, RetrySettings
from gateway.errors import BadRequest, DeadlineExceeded, ServerFailed
from gateway.pool import Request
from tests.fakes.time import fake_time, idle
from tests.fakes.upstream import Fault, RecordingUpstream
from tests.pool.pools import (
    EMBED,
    ask,
    assert_answered,
    assert_at_rest,
    at,
    cancel,
    deployment,
    failure,
    image,
    items_sent,
    now,
    outcome,
    rerank,
    running,
    texts,
)

ONE_AT_A_TIME = EngineSettings(batching=BatchingSettings(in_flight_max=1))
CACHED = EngineSettings(cache=CacheSettings(bytes_max=100_000, ttl_s=60))


def bad(request: Request) -> bool:
    return "bad" in request.items


# Waiting or under way


@pytest.mark.parametrize("joins", ["in the same turn", "while it waits", "under way"])
@fake_time
async def test_what_somebody_asks_already_is_not_sent_again(joins: str) -> None:
    """Both get it when it comes, and both pay for it."""
    upstream = RecordingUpstream(latency_s=1)
    events: list[Event] = []

    async with running(upstream, "a", ONE_AT_A_TIME, events) as pool:
        busy = [ask(pool, "busy")] if joins == "while it waits" else []
        await idle()
        first = ask(pool, ["x", "y"])
        if joins != "in the same turn":
            await at(0.5)
        second = ask(pool, ["z", "x", "x"])
        tickets = await asyncio.gather(first, second, *busy)
        assert_at_rest(pool)

    for ticket in tickets:
        assert_answered(ticket)
    assert [ticket.tokens for ticket in tickets[:2]] == [2, 3]
    assert sorted(items_sent(upstream)) == sorted(["x", "y", "z", *["busy" for _ in busy]])
    assert [event for event in events if isinstance(event, ItemsShared)] == [("model", 2)]


@fake_time
async def test_who_joins_an_item_under_way_waits_only_for_the_rest_of_it() -> None:
    """It is on its way."""
    upstream = RecordingUpstream(latency_s=1)

    async with running(upstream) as pool:
        first = ask(pool, "x")
        await at(0.75)
        assert_answered(await ask(pool, "x"))
        assert now() == 1
        await first


@fake_time
async def test_different_parameters_queries_and_images_share_nothing() -> None:
    """They change the answer."""
    upstream = RecordingUpstream(latency_s=1)
    keys = [EMBED, EMBED._replace(params=b"1"), rerank("q"), rerank("r"), image(1), image(2)]

    async with running(upstream) as pool:
        tickets = await asyncio.gather(*(ask(pool, "x", key) for key in keys))

    for ticket in tickets:
        assert_answered(ticket)
    assert items_sent(upstream) == ["x"] * len(keys)


@pytest.mark.parametrize("under_way", [True, False])
@pytest.mark.parametrize("who", [0, 1])
@fake_time
async def test_one_of_those_who_ask_may_leave(who: int, under_way: bool) -> None:
    """The others get their answer, sent once."""
    upstream = RecordingUpstream(latency_s=1)

    async with running(upstream, "a", ONE_AT_A_TIME) as pool:
        busy = None if under_way else ask(pool, "busy")
        await idle()
        calls = [ask(pool, ["x"]), ask(pool, ["x", "y"])]
        await at(0.5)
        await cancel(calls[who])

        assert_answered(await calls[1 - who])
        if busy:
            await busy
        await at(5)
        assert_at_rest(pool)

    assert items_sent(upstream).count("x") == 1


@fake_time
async def test_when_all_who_ask_have_left_it_is_not_sent() -> None:
    """The last takes it along."""
    upstream = RecordingUpstream(latency_s=1)

    async with running(upstream, "a", ONE_AT_A_TIME) as pool:
        busy = ask(pool, "busy")
        await idle()
        calls = [ask(pool, "x") for _ in range(3)]
        await at(0.5)
        for call in calls:
            await cancel(call)
        await busy
        await at(5)
        assert_at_rest(pool)

    assert items_sent(upstream) == ["busy"]


@fake_time
async def test_a_rejected_item_fails_all_who_ask_for_it_and_nobody_else() -> None:
    """Who asked for it beside other things too."""
    upstream = RecordingUpstream(latency_s=1, faults=[Fault(Failure.REJECTED, on=bad)])

    async with running(upstream) as pool:
        calls = [ask(pool, items) for items in (["bad"], ["x", "bad"], ["x"], ["y"], ["bad", "bad"])]
        await at(0.5)
        calls += [ask(pool, items) for items in (["bad"], ["x"])]

        assert [await outcome(call) for call in calls] == [
            "BadRequest", "BadRequest", "answered", "answered", "BadRequest", "BadRequest", "answered"
        ]  # fmt: skip
        assert isinstance(await failure(calls[0]), BadRequest)
        await idle()
        assert_at_rest(pool)


@fake_time
async def test_a_shared_item_that_fails_fails_for_all() -> None:
    """And whoever asks then asks anew."""
    upstream = RecordingUpstream(latency_s=1, faults=[Fault(Failure.SERVER_ERROR, times=1)])

    async with running(upstream, "a", EngineSettings(retry=RetrySettings(retries_max=0))) as pool:
        calls = [ask(pool, "x"), ask(pool, "x")]
        await at(0.5)
        calls.append(ask(pool, "x"))

        assert [type(await failure(call)) for call in calls] == [ServerFailed] * 3
        assert_answered(await ask(pool, "x"))


@fake_time
async def test_a_shared_item_that_is_tried_again_is_answered_for_all() -> None:
    """Also for who joined it while it waited for another server, or there."""
    upstream = RecordingUpstream(latency_s=1, faults=[Fault(Failure.DISCONNECTED, "a", times=1)])

    async with running(upstream, [deployment("a", weight=1e9), deployment("b")]) as pool:
        calls = [ask(pool, "x")]
        for time in (0.5, 1.5):
            await at(time)
            calls.append(ask(pool, "x"))
        for call in calls:
            assert_answered(await call)

        assert now() == 2
    assert [batch.deployment for batch in upstream.batches] == ["a", "b"]


# Time


@fake_time
async def test_each_who_asks_has_his_own_time() -> None:
    """The hasty one times out alone."""
    upstream = RecordingUpstream(latency_s=3)

    async with running(upstream) as pool:
        patient, hasty = ask(pool, "x", within_s=10), ask(pool, "x", within_s=1)

        assert isinstance(await failure(hasty), DeadlineExceeded)
        assert now() == 1
        assert_answered(await patient)

    assert upstream.timeouts == [10]


@fake_time
async def test_who_joined_under_way_is_not_cut_off_with_those_who_were_in_a_hurry() -> None:
    """The request has their time limit; for who came later the item is sent anew."""
    upstream = RecordingUpstream(latency_of=lambda _, __: 3.0 if not upstream.batches[1:] else 0.5)

    async with running(upstream) as pool:
        hasty = ask(pool, ["x", "y"], within_s=1)
        await at(0.5)
        late = [ask(pool, ["x"]), ask(pool, ["z", "x", "x"])]
        await idle()

        assert isinstance(await failure(hasty), DeadlineExceeded)
        for call in late:
            assert_answered(await call)
        await at(10)
        assert_at_rest(pool)

    assert items_sent(upstream) == ["x", "y", "z", "x"] or items_sent(upstream) == ["x", "y", "x", "z"]


@fake_time
async def test_who_joined_under_way_keeps_his_own_deadline_when_the_item_is_sent_anew() -> None:
    """And is sent a third time for nobody who has gone."""
    upstream = RecordingUpstream(latency_s=3)

    async with running(upstream) as pool:
        first = ask(pool, "x", within_s=1)
        await at(0.5)
        second = ask(pool, "x", within_s=1)
        assert isinstance(await failure(first), DeadlineExceeded)
        assert isinstance(await failure(second), DeadlineExceeded)
        assert now() == 1.5
        await at(20)
        assert_at_rest(pool)

    assert [batch.at for batch in upstream.batches] == [0, 1]


@fake_time
async def test_a_server_that_hangs_does_not_send_joiners_in_circles() -> None:
    """Each send has the time of somebody who asked for it before it left."""
    upstream = RecordingUpstream()

    async with running(upstream, [deployment("a", timeout_s=5)]) as pool:
        upstream.hung.add("a")
        calls = []
        for time in range(12):
            await at(time)
            calls.append(ask(pool, "x", within_s=8))
        outcomes = [await outcome(call) for call in calls]

        assert set(outcomes) <= {"DeadlineExceeded", "NoDeployment"}
        await at(30)
        assert_at_rest(pool)
    assert len(upstream.batches) <= 4


# The cache


@fake_time
async def test_what_was_answered_is_not_asked_again() -> None:
    """It is there at once, and costs what it cost."""
    upstream = RecordingUpstream(latency_s=1)
    events: list[Event] = []

    async with running(upstream, "a", CACHED, events) as pool:
        first = await ask(pool, ["xxx", "y"])
        again = await ask(pool, ["y", "xxx", "y"])

        assert now() == 1
        assert_at_rest(pool)
    assert_answered(again)
    assert (first.tokens, again.tokens) == (4, 5)
    assert upstream.batches == [(0.0, "a", ["xxx", "y"])]
    assert [e for e in events if isinstance(e, CacheUsed)] == [("model", 0, 2), ("model", 3, 0)]


@fake_time
async def test_only_what_is_not_known_is_sent() -> None:
    """In whatever order the caller has it."""
    upstream = RecordingUpstream(latency_s=1)

    async with running(upstream, "a", CACHED) as pool:
        await ask(pool, ["b", "d"])
        ticket = await ask(pool, ["a", "b", "c", "d", "e"])
        assert_at_rest(pool)

    assert_answered(ticket)
    assert upstream.batches[1:] == [(1.0, "a", ["a", "c", "e"])]


@fake_time
async def test_answers_are_kept_for_their_time_and_no_longer() -> None:
    """An operator who loads another revision of a model knows when it is seen."""
    upstream = RecordingUpstream()

    async with running(upstream, "a", CACHED) as pool:
        for time in (0, 59, 61, 62):
            await at(time)
            await ask(pool, "x")

    assert [batch.at for batch in upstream.batches] == [0, 61]


@fake_time
async def test_scores_are_kept_by_query_and_images_not_at_all() -> None:
    """An image is asked for once, and large."""
    upstream = RecordingUpstream()

    async with running(upstream, "a", CACHED) as pool:
        keys = [rerank("q"), rerank("q"), rerank("r"), image(1), image(1)]
        for key in keys:
            assert_answered(await ask(pool, texts(3), key))

    assert [request.key for request in upstream.requests] == [keys[0], *keys[2:]]


@fake_time
async def test_errors_are_not_kept() -> None:
    """The next may have better luck."""
    upstream = RecordingUpstream(faults=[Fault(Failure.SERVER_ERROR, times=1)])
    settings = EngineSettings(cache=CACHED.cache, retry=RetrySettings(retries_max=0))

    async with running(upstream, "a", settings) as pool:
        assert isinstance(await failure(ask(pool, "x")), ServerFailed)
        assert_answered(await ask(pool, "x"))

    assert len(upstream.batches) == 2


@fake_time
async def test_an_answer_that_nobody_waits_for_any_more_is_kept() -> None:
    """It was paid for, and who gave up may ask again."""
    upstream = RecordingUpstream(latency_s=2)

    async with running(upstream, "a", CACHED) as pool:
        calls = [ask(pool, "x", within_s=1), ask(pool, "y", within_s=5)]
        assert [await outcome(call) for call in calls] == ["DeadlineExceeded", "answered"]

        assert_answered(await ask(pool, "x"))
        assert now() == 2


@fake_time
async def test_unless_it_is_asked_for_nothing_is_kept() -> None:
    """Memory is the operator's."""
    upstream = RecordingUpstream()

    async with running(upstream) as pool:
        for _ in range(2):
            await ask(pool, "x")

    assert len(upstream.batches) == 2
