"""More to do than can be done: what is done must still be done for somebody."""

import asyncio

import pytest

from tests.fakes.time import fake_time, idle
from tests.fakes.upstream import RecordingUpstream
from tests.pool.pools import ask, assert_at_rest, now, outcome, running, texts

LASTS_S = 600.0


async def goodput(batch_s: float, within_s: float, callers: int) -> float:
    """The answers that callers get who ask for a full batch again and again, as a share of what the server
    can do."""
    upstream = RecordingUpstream(latency_s=batch_s, serial=True)
    answered = 0

    async with running(upstream) as pool:

        async def caller(name: str) -> None:
            nonlocal answered
            while now() < LASTS_S:
                if await outcome(ask(pool, texts(32, name), within_s=within_s)) == "answered":
                    answered += 1
                else:
                    await asyncio.sleep(1)

        await asyncio.gather(*(caller(f"caller {i} ") for i in range(callers)))
    return answered * batch_s / LASTS_S


@pytest.mark.parametrize("batch_s", [1.0, 3.0, 4.0])
@fake_time
async def test_a_slow_server_that_is_kept_busy_goes_on_answering(batch_s: float) -> None:
    """What stands in its queue must not run out of time there: it would work for nobody, ever more."""
    assert await goodput(batch_s, within_s=120, callers=16) >= 0.8


@pytest.mark.parametrize("callers", [16, 32, 64])
@fake_time
async def test_callers_in_a_hurry_who_are_too_many_are_answered_as_far_as_can_be(callers: int) -> None:
    """Some must go without. What cannot come in time is not sent, or all would be late."""
    assert await goodput(2.0, within_s=30, callers=callers) >= 0.5


@fake_time
async def test_what_cannot_come_in_time_is_refused_before_its_time_is_up() -> None:
    """Its caller can try elsewhere, and the server does something else."""
    upstream = RecordingUpstream(latency_of=lambda _, request: 0.1 * len(request.items), serial=True)

    async with running(upstream) as pool:
        for number in range(30):
            await ask(pool, texts(1 + number * 7 % 32, f"{number} "))
        since = now()
        busy = [ask(pool, texts(32, f"busy {i} ")) for i in range(2)]
        await asyncio.sleep(0.1)
        hasty = ask(pool, texts(32, "hasty "), within_s=5)

        assert await outcome(hasty) == "DeadlineExceeded"
        assert now() - since < 4.5
        assert [await outcome(call) for call in busy] == ["answered"] * 2
    assert not any(item.startswith("hasty") for batch in upstream.batches for item in batch.items)


@fake_time
async def test_an_idle_server_is_asked_whatever_it_is_thought_to_be() -> None:
    """Nothing else could show that it has become faster."""
    upstream = RecordingUpstream(latency_s=10)

    async with running(upstream) as pool:
        for number in range(6):
            await ask(pool, f"{number}")
        upstream.latency_s = 0.1

        assert await outcome(ask(pool, "x", within_s=1)) == "answered"


@fake_time
async def test_of_a_call_that_is_refused_in_part_nothing_is_sent() -> None:
    """Two parts of it had their servers already when the third turned out to come too late."""
    upstream = RecordingUpstream(latency_of=lambda _, request: 0.1 * len(request.items), serial=True)

    async with running(upstream, "ab") as pool:
        for number in range(60):
            await ask(pool, texts(9 + number * 7 % 24, f"{number} "))

        assert await outcome(ask(pool, texts(96, "refused "), within_s=4)) == "DeadlineExceeded"
        await idle()
        assert_at_rest(pool)
        assert await outcome(ask(pool, texts(64, "next "), within_s=4)) == "answered"
    assert not any(item.startswith("refused") for batch in upstream.batches for item in batch.items)
