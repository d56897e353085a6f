"""Calls that come to an idle pool within a moment of each other, time after time, leave together."""

import asyncio

import pytest

from gateway.pool import Pool
from tests.fakes.time import fake_time
from tests.fakes.upstream import RecordingUpstream
from tests.pool.pools import ask, now, running, texts

WORK_S = 0.05


async def fan_out(pool: Pool, name: str, calls: int, apart_s: float) -> float:
    """So many calls of one caller, each shortly after the one before; how long until all are answered."""

    async def one(number: int) -> None:
        await asyncio.sleep(number * apart_s)
        await ask(pool, f"{name} {number}")

    since = now()
    await asyncio.gather(*(one(number) for number in range(calls)))
    return now() - since


@fake_time
async def test_the_calls_of_a_fan_out_share_a_batch_once_they_are_known() -> None:
    upstream = RecordingUpstream(latency_of=lambda *_: WORK_S, serial=True)

    async with running(upstream) as pool:
        took = [await fan_out(pool, f"turn {turn}", 4, 0.0002) for turn in range(20)]

    sizes = [len(batch.items) for batch in upstream.batches]
    assert sizes[0] == 1  # nobody could know
    assert sizes[-10:] == [4] * 10
    assert took[-1] == pytest.approx(WORK_S + 3 * 0.0002)
    assert took[0] > 1.9 * WORK_S


@fake_time
async def test_a_single_caller_never_waits_for_others() -> None:
    upstream = RecordingUpstream(latency_of=lambda *_: WORK_S)

    async with running(upstream) as pool:
        took = [await fan_out(pool, f"turn {turn}", 1, 0.0) for turn in range(20)]

    assert took == pytest.approx([WORK_S] * 20)


@fake_time
async def test_who_was_waited_for_in_vain_costs_a_moment_and_no_call() -> None:
    upstream = RecordingUpstream(latency_of=lambda *_: WORK_S, serial=True)

    async with running(upstream) as pool:
        for turn in range(20):
            await fan_out(pool, f"turn {turn}", 4, 0.0002)
        alone = [await fan_out(pool, f"alone {turn}", 1, 0.0) for turn in range(20)]

    assert max(alone) <= WORK_S + 0.0011
    assert alone[-1] == pytest.approx(WORK_S)


@fake_time
async def test_enough_for_a_full_batch_waits_for_nobody() -> None:
    upstream = RecordingUpstream(latency_of=lambda *_: WORK_S, serial=True)

    async with running(upstream) as pool:
        for turn in range(20):
            await fan_out(pool, f"turn {turn}", 4, 0.0002)
        since = now()
        await ask(pool, texts(32))

    assert upstream.batches[-1].at == since
