"""When batches leave for a server that does one thing after the other, as Infinity does."""

import asyncio
import random
from itertools import count

import pytest

from gateway.core.lanes import Ticket
from gateway.core.settings import DeploymentSettings
from gateway.pool import Answer, Pool, Request
from tests.fakes.time import fake_time, idle
from tests.fakes.upstream import RecordingUpstream
from tests.pool.pools import ask, assert_answered, at, now, rerank, running, texts

BATCH_S = 0.05
ITEM_S = 0.005
FULL_S = BATCH_S + 32 * ITEM_S
WAY_S = 0.05


def work_s(_: str, request: Request) -> float:
    return BATCH_S + ITEM_S * len(request.items)


def serial() -> RecordingUpstream:
    return RecordingUpstream(latency_of=work_s, serial=True)


async def caller(pool: Pool, name: str, until: float) -> int:
    """One who asks for the next as soon as he has an answer; how many he got."""
    for number in count():
        if now() >= until:
            return number
        await ask(pool, f"{name} {number:05}")
    raise AssertionError


def idle_ratio(upstream: RecordingUpstream, begin: float, end: float) -> float:
    """The share of that time in which the server had nothing to do."""
    free_at = idled = 0.0
    for batch, request in zip(upstream.batches, upstream.requests, strict=True):
        if begin <= batch.at < end:
            idled += max(0.0, batch.at - free_at)
        free_at = max(batch.at, free_at) + work_s("a", request)
    return idled / (end - begin)


@pytest.mark.parametrize("callers", [80, 128, 300])
@fake_time
async def test_under_load_batches_are_full_and_the_server_is_never_idle(callers: int) -> None:
    """Each batch leaves just before the server is done with the one before it."""
    upstream = serial()

    async with running(upstream) as pool:
        answers = sum(await asyncio.gather(*(caller(pool, f"c{i:03}", 20) for i in range(callers))))

    late = [len(batch.items) for batch in upstream.batches if 5 <= batch.at < 20]
    assert sum(late) / len(late) >= 30
    assert idle_ratio(upstream, 5, 20) <= 0.03
    assert answers >= 0.9 * 20 / FULL_S * 32
    assert upstream.in_flight_most["a"] <= 3


class FarAway(RecordingUpstream):
    """Half of WAY_S there, and half back."""

    async def send(self, deployment: DeploymentSettings, request: Request, timeout_s: float) -> Answer:
        await asyncio.sleep(WAY_S / 2)
        answer = await super().send(deployment, request, timeout_s)
        await asyncio.sleep(WAY_S / 2)
        return answer


@fake_time
async def test_a_batch_leaves_before_the_server_is_done_by_as_much_as_the_way_takes() -> None:
    """While an answer and the next batch are under way, a server must not stand idle. (There are too few
    callers here for a full batch to wait behind another.)
    """
    upstream = FarAway(latency_of=work_s, serial=True)

    async with running(upstream) as pool:
        await asyncio.gather(*(caller(pool, f"c{i:03}", 40) for i in range(44)))

    assert idle_ratio(upstream, 20, 40) <= 0.1
    late = [len(batch.items) for batch in upstream.batches if 20 <= batch.at < 40]
    assert sum(late) / len(late) >= 14


@fake_time
async def test_with_fewer_callers_than_a_batch_holds_all_travel_together() -> None:
    """Two thin batches in turn would cost twice."""
    upstream = serial()

    async with running(upstream) as pool:
        await asyncio.gather(*(caller(pool, f"c{i:03}", 20) for i in range(16)))

    late = [len(batch.items) for batch in upstream.batches if 5 <= batch.at < 20]
    assert sum(late) / len(late) >= 7
    assert idle_ratio(upstream, 5, 20) <= 0.05


@fake_time
async def test_a_single_call_does_not_wait_for_company() -> None:
    """An idle server has nothing better to do, however much is known of it."""
    upstream = serial()

    async with running(upstream) as pool:
        for number in range(20):
            await at(number)
            await ask(pool, f"{number}")

    assert [batch.at for batch in upstream.batches] == [float(number) for number in range(20)]


@pytest.mark.parametrize("seed", range(3))
@fake_time
async def test_an_interactive_call_waits_for_two_batches_at_most_under_a_flood_of_bulk(seed: int) -> None:
    """What is under way cannot be overtaken, so there is never more of it than keeps the server busy."""
    upstream = serial()
    rng = random.Random(seed)
    waits = []

    async with running(upstream) as pool:
        flood = [ask(pool, texts(2048, f"bulk {i} ")) for i in range(4)]
        await at(5)
        for number in range(60):
            await asyncio.sleep(rng.uniform(0, 0.3))
            begun = now()
            assert_answered(await ask(pool, f"question {number}"))
            waits.append(now() - begun)
        flooding = not all(call.done() for call in flood)
        for call in flood:
            call.cancel()
        await asyncio.gather(*flood, return_exceptions=True)

    assert flooding
    # Two full batches before it and the one that it is in; seldom one more, when the turn is bulk's.
    assert sorted(waits)[30] <= 2.8 * FULL_S
    assert sorted(waits)[48] <= 3.5 * FULL_S
    assert max(waits) <= 4.2 * FULL_S


@fake_time
async def test_many_people_under_a_flood_of_bulk_share_batches() -> None:
    """Else each would have a batch to himself, filled up with bulk, in a queue of batches."""
    upstream = serial()

    async with running(upstream) as pool:
        flood = [ask(pool, texts(2048, f"bulk {i} ")) for i in range(4)]
        await at(5)
        begun = now()
        people: list[asyncio.Task[Ticket]] = [ask(pool, texts(3, f"person {i} ")) for i in range(10)]
        await asyncio.gather(*people)
        took = now() - begun
        for call in flood:
            call.cancel()
        await asyncio.gather(*flood, return_exceptions=True)

    assert took <= 4.2 * FULL_S


@fake_time
async def test_a_full_batch_leaves_for_one_busy_server_and_not_a_part_for_each() -> None:
    """It has nothing to wait for; four thin ones would."""
    upstream = serial()

    async with running(upstream, "abcd") as pool:
        for number in range(40):
            await ask(pool, texts(64, f"{number} "))
        begun = len(upstream.batches)
        busy = ask(pool, texts(128, "busy "))
        await idle()
        assert [len(batch.items) for batch in upstream.batches[begun:]] == [32] * 4
        more = ask(pool, texts(40, "more "))
        await idle()
        behind = [len(batch.items) for batch in upstream.batches[begun + 4 :]]
        await asyncio.gather(busy, more)

    assert behind == [32]


@fake_time
async def test_lists_of_several_queries_go_to_one_server_at_once() -> None:
    """As requests of their own, which the server works on together."""
    upstream = RecordingUpstream(latency_s=1)

    async with running(upstream, "ab") as pool:
        calls = [ask(pool, texts(4, query), rerank(query)) for query in "qrst"]
        tickets = await asyncio.gather(*calls)

    for ticket in tickets:
        assert_answered(ticket)
    assert all(batch.at == 0 for batch in upstream.batches)
    assert len(upstream.batches) == 4
