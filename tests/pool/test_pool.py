"""Which batches leave, when, and to whom, while nothing fails."""

import asyncio
from itertools import count

import pytest

from gateway.core.events import Event, ItemsShared
from gateway.core.lanes import Ticket
from gateway.core.settings import BatchingSettings, EngineSettings
from gateway.errors import NoDeployment
from gateway.messages import Task
from gateway.pool import Pool
from tests.fakes.time import fake_time, idle
from tests.fakes.upstream import RecordingUpstream
from tests.pool.pools import (
    EMBED,
    ask,
    assert_answered,
    assert_at_rest,
    at,
    deployment,
    image,
    items_sent,
    now,
    rerank,
    running,
    sizes,
    texts,
)

ONE_AT_A_TIME = EngineSettings(batching=BatchingSettings(in_flight_max=1))


@fake_time
async def test_an_idle_pool_sends_at_once() -> None:
    """Nobody waits for company while a server has nothing to do."""
    upstream = RecordingUpstream(latency_s=1)

    async with running(upstream) as pool:
        await at(5)
        ticket = await ask(pool, "x")

    assert upstream.batches == [(5.0, "a", ["x"])]
    assert ticket.left - ticket.arrived == 0


@fake_time
async def test_calls_of_one_turn_leave_together() -> None:
    """What arrives at the same moment is one batch, without any wait; and what is equal in it is one item."""
    upstream = RecordingUpstream(latency_s=1)

    async with running(upstream) as pool:
        tickets = await asyncio.gather(ask(pool, "x"), ask(pool, ["y", "z"]), ask(pool, "x"))

    assert upstream.batches == [(0.0, "a", ["x", "y", "z"])]
    for ticket in tickets:
        assert_answered(ticket)


@fake_time
async def test_what_arrives_while_the_only_server_is_busy_leaves_together_when_it_is_free() -> None:
    """A busy server makes batches larger."""
    upstream = RecordingUpstream(latency_s=1)

    async with running(upstream, "a", ONE_AT_A_TIME) as pool:
        calls = [ask(pool, "first")]
        for text in "bcd":
            await at(now() + 0.25)
            calls.append(ask(pool, text))
        await asyncio.gather(*calls)

    assert upstream.batches == [(0.0, "a", ["first"]), (1.0, "a", ["b", "c", "d"])]


@pytest.mark.parametrize("most", [1, 2, 5])
@fake_time
async def test_a_server_never_has_more_batches_than_allowed(most: int) -> None:
    """However much waits."""
    upstream = RecordingUpstream(latencies={"a": 1, "b": 0.3})
    settings = EngineSettings(batching=BatchingSettings(items_max=2, in_flight_max=most))

    async with running(upstream, "ab", settings) as pool:
        await asyncio.gather(*(ask(pool, text) for text in texts(100)))

    assert all(1 <= count <= most for count in upstream.in_flight_most.values())
    assert set(upstream.in_flight_most) == {"a", "b"}


@pytest.mark.parametrize("in_flight_max", [1, 8])
@pytest.mark.parametrize(
    ("servers", "items"), [("ab", 32), ("abcd", 32), ("abcd", 33), ("abc", 10), ("abcd", 3)]
)
@fake_time
async def test_a_burst_is_shared_evenly_over_idle_servers(
    servers: str, items: int, in_flight_max: int
) -> None:
    """32 items for four idle servers are 4 x 8: thinner wastes their time, thicker leaves one idle."""
    upstream = RecordingUpstream(latency_s=1)
    settings = EngineSettings(batching=BatchingSettings(in_flight_max=in_flight_max))

    async with running(upstream, servers, settings) as pool:
        await asyncio.gather(*(ask(pool, text) for text in texts(items)))

    share = -(-items // len(servers))
    assert all(batch.at == 0 for batch in upstream.batches)
    assert max(sizes(upstream)) == share
    assert len(upstream.batches) == -(-items // share)
    assert len({batch.deployment for batch in upstream.batches}) == len(upstream.batches)


@fake_time
async def test_a_burst_for_one_server_leaves_in_full_batches() -> None:
    """With nobody to share with there is no reason for thin ones."""
    upstream = RecordingUpstream(latency_s=1)

    async with running(upstream) as pool:
        await asyncio.gather(*(ask(pool, text) for text in texts(70)))

    assert sizes(upstream) == [32, 32, 6]


@fake_time
async def test_a_big_call_is_divided_over_the_servers_and_comes_back_in_order() -> None:
    """Each server does a part, and the slow one's part lands where it belongs."""
    upstream = RecordingUpstream(latencies={"a": 1, "b": 5, "c": 2})

    async with running(upstream, "abc") as pool:
        ticket = await ask(pool, texts(200))

    assert_answered(ticket)
    assert {batch.deployment for batch in upstream.batches} == {"a", "b", "c"}
    assert max(sizes(upstream)) == 32
    assert sorted(items_sent(upstream)) == sorted(texts(200))


@fake_time
async def test_an_interactive_call_goes_before_bulk_that_came_before_it() -> None:
    """It waits for what is under way, and for nothing else."""
    upstream = RecordingUpstream(latency_s=1)

    async with running(upstream, "a", ONE_AT_A_TIME) as pool:
        before = [ask(pool, texts(64, "before")) for _ in range(3)]
        await idle()
        small = ask(pool, "small", EMBED._replace(task=Task.CLASSIFY))
        await idle()
        after = [ask(pool, texts(64, "after")) for _ in range(3)]
        await small
        assert now() == 2
        await asyncio.gather(*before, *after)

    assert upstream.batches[1].items == ["small"]


@fake_time
async def test_bulk_is_not_starved_by_interactive_calls() -> None:
    """However many there are, a fifth of the server is its own."""
    upstream = RecordingUpstream(latency_s=1)

    async with running(upstream, "a", ONE_AT_A_TIME) as pool:
        people = [asyncio.create_task(_asks_again_and_again(pool, name)) for name in "abcdefgh"]
        await idle()
        bulk = await ask(pool, texts(320))
        for person in people:
            person.cancel()
        await asyncio.gather(*people, return_exceptions=True)

    assert_answered(bulk)
    assert now() <= 10 * 5 + 2


@fake_time
async def test_different_batch_keys_never_mix() -> None:
    """A query, a set of parameters and a task each have batches of their own, and everyone his answer."""
    upstream = RecordingUpstream(latency_s=1)
    keys = [
        EMBED,
        EMBED._replace(params=b'{"p":1}'),
        rerank("q"),
        rerank("r"),
        EMBED._replace(task=Task.CLASSIFY),
    ]

    async with running(upstream, "ab") as pool:
        tickets = await asyncio.gather(*(ask(pool, text, key) for text in texts(10) for key in keys))

    for ticket in tickets:
        assert_answered(ticket)
    assert {request.key for request in upstream.requests} == set(keys)


@fake_time
async def test_image_calls_are_neither_merged_nor_divided() -> None:
    """Each is one request, even where a text call would be spread and shared."""
    upstream = RecordingUpstream(latency_s=1)
    settings = EngineSettings(batching=BatchingSettings(items_max=4))

    async with running(upstream, "ab", settings) as pool:
        calls = [ask(pool, texts(10, f"image {number} "), image(number)) for number in (1, 2, 3)]
        tickets = await asyncio.gather(*calls)

    assert sorted(batch.items for batch in upstream.batches) == [ticket.items for ticket in tickets]
    for ticket in tickets:
        assert_answered(ticket)


@fake_time
async def test_a_ticket_tells_its_wait_and_how_long_the_server_took() -> None:
    """Both are shown to the caller and measured."""
    upstream = RecordingUpstream(latency_s=2)

    async with running(upstream, "a", ONE_AT_A_TIME) as pool:
        first = ask(pool, "first")
        await at(0.5)
        second = await ask(pool, "second")

    assert ((await first).left - (await first).arrived, (await first).upstream_s) == (0, 2)
    assert (second.left - second.arrived, second.upstream_s) == (1.5, 2)


@fake_time
async def test_each_item_is_charged_its_own_characters() -> None:
    """What a call costs does not depend on who shares its batches."""
    upstream = RecordingUpstream(latency_s=1)

    async with running(upstream) as pool:
        short, long = await asyncio.gather(ask(pool, ["a", "bb"]), ask(pool, "c" * 100))
        ranked = await asyncio.gather(ask(pool, "a", rerank("four")), ask(pool, "b" * 9, rerank("four")))

    assert len(upstream.batches) == 2
    assert (short.tokens, long.tokens) == (3, 100)
    assert [ticket.tokens for ticket in ranked] == [4 + 1, 4 + 9]


@fake_time
async def test_a_server_that_counts_tokens_has_its_sum_shared_out() -> None:
    """No token of the batch is lost between its callers."""
    upstream = RecordingUpstream(latency_s=1, tokens_of=lambda _: 10)

    async with running(upstream) as pool:
        tickets = await asyncio.gather(*(ask(pool, "x" * n) for n in (1, 2, 4)))

    assert [ticket.tokens for ticket in tickets] == [2, 3, 5]


@fake_time
async def test_the_least_busy_server_gets_the_batch() -> None:
    """A slow server keeps its items for longer, and so gets fewer."""
    upstream = RecordingUpstream(latencies={"slow": 10, "fast": 1})

    async with running(upstream, ["slow", "fast"]) as pool:
        calls = []
        for time in range(20):
            await at(time)
            calls.append(ask(pool, f"t{time}"))
        await asyncio.gather(*calls)

    assert sum(batch.deployment == "slow" for batch in upstream.batches) <= 3


@fake_time
async def test_a_server_of_three_times_the_weight_gets_three_times_the_work() -> None:
    """In a burst that fills nobody."""
    upstream = RecordingUpstream(latency_s=1)

    async with running(upstream, [deployment("a", weight=3), deployment("b")]) as pool:
        await asyncio.gather(*(ask(pool, text.ljust(88)) for text in texts(40)))

    assert sorted((batch.at, batch.deployment, len(batch.items)) for batch in upstream.batches) == [
        (0.0, "a", 30),
        (0.0, "b", 10),
    ]


@fake_time
async def test_a_server_that_is_three_times_as_fast_gets_three_times_the_work() -> None:
    """As soon as that is known, all are done at once."""
    upstream = RecordingUpstream(latency_of=lambda name, r: len(r.items) * (0.1 if name == "fast" else 0.3))

    async with running(upstream, ["fast", "slow"]) as pool:
        for i in range(60):
            await ask(pool, [text.ljust(88) for text in texts(1 + 7 * i % 40, f"{i} ")])
        upstream.batches.clear()
        await ask(pool, [text.ljust(88) for text in texts(32)])

    assert {batch.deployment for batch in upstream.batches} == {"fast", "slow"}
    share = sum(len(batch.items) for batch in upstream.batches if batch.deployment == "fast")
    assert 21 <= share <= 27


# Waiting for company


@fake_time
async def test_with_a_wait_set_an_item_waits_for_company_and_no_longer() -> None:
    """The wait is of the oldest; who comes later waits less."""
    upstream = RecordingUpstream(latency_s=0.125)
    settings = EngineSettings(batching=BatchingSettings(wait_s_max=0.5))

    async with running(upstream, "a", settings) as pool:
        calls = [ask(pool, "x")]
        await at(0.25)
        calls.append(ask(pool, "y"))
        await asyncio.gather(*calls)
        await at(2)
        await ask(pool, "z")

    assert upstream.batches == [(0.5, "a", ["x", "y"]), (2.5, "a", ["z"])]


@fake_time
async def test_with_a_wait_set_a_full_batch_leaves_at_once() -> None:
    """Better company cannot come; the rest waits its time."""
    upstream = RecordingUpstream(latency_s=0.125)
    settings = EngineSettings(batching=BatchingSettings(items_max=4, wait_s_max=0.5))

    async with running(upstream, "a", settings) as pool:
        await ask(pool, texts(5))

    assert upstream.batches == [(0.0, "a", texts(4)), (0.5, "a", ["t4"])]


async def _asks_again_and_again(pool: Pool, name: str) -> None:
    for number in count():
        await ask(pool, f"{name}{number}", EMBED._replace(task=Task.CLASSIFY))


# Calls of many items, which are queued in several turns


@fake_time
async def test_a_call_of_very_many_items_comes_back_whole_and_in_order() -> None:
    """Also what is in it twice, and what somebody asked a turn later that it had not queued yet."""
    upstream = RecordingUpstream(latency_s=0.01)
    events: list[Event] = []

    async with running(upstream, "ab", events=events) as pool:
        big = ask(pool, [*texts(1999), "t0", "t1998"])
        small = ask(pool, ["t1500", "other"])
        assert_answered(await big)
        assert_answered(await small)
        assert_at_rest(pool)

    assert sorted(items_sent(upstream)) == sorted([*texts(1999), "other"])
    assert sum(event.items for event in events if isinstance(event, ItemsShared)) == 3


@fake_time
async def test_what_is_not_queued_yet_of_a_call_that_ends_never_is() -> None:
    """Its caller leaves, or the last server goes, in the turn in which it was asked."""
    upstream = RecordingUpstream(latency_s=100)

    async with running(upstream) as pool:
        loop = asyncio.get_running_loop()
        ended: list[Ticket] = []
        pool.ask(EMBED, texts(2000), loop.time() + 1000, "", ended.append).leave()
        await idle()
        assert ended == []
        assert_at_rest(pool)

        pool.ask(EMBED, texts(2000), loop.time() + 1000, "", ended.append)
        pool.remove("a")
        await idle()
        assert [type(ticket.error) for ticket in ended] == [NoDeployment]
        assert_at_rest(pool)

    assert upstream.batches == []


@fake_time
async def test_the_rest_of_a_call_does_not_wait_for_a_server_that_has_gone() -> None:
    """Not even if all that was queued of it is under way there."""
    upstream = RecordingUpstream(latency_s=1)

    async with running(upstream, settings=EngineSettings(batching=BatchingSettings(items_max=512))) as pool:
        loop = asyncio.get_running_loop()
        ended: list[Ticket] = []
        ticket = pool.ask(EMBED, texts(1000), loop.time() + 1000, "", ended.append)
        pool._dispatch()
        assert ticket.queued == 0
        pool.remove("a")
        await idle()
        assert [type(ticket.error) for ticket in ended] == [NoDeployment]
