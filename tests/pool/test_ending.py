"""How calls end other than by an answer: their time is up, their caller leaves, the pool closes."""

import asyncio
import gc

import pytest

from gateway.core.retry import Failure
from gateway.core.settings import BatchingSettings, EngineSettings
from gateway.errors import DeadlineExceeded, Draining
from tests.fakes.time import fake_time, idle
from tests.fakes.upstream import Fault, RecordingUpstream
from tests.pool.pools import (
    ask,
    assert_answered,
    assert_at_rest,
    at,
    cancel,
    deployment,
    failure,
    items_sent,
    now,
    others,
    outcome,
    rerank,
    running,
    texts,
    watched,
)

ONE_AT_A_TIME = EngineSettings(batching=BatchingSettings(in_flight_max=1))


# Deadlines


@fake_time
async def test_a_caller_times_out_alone_and_its_batch_mates_are_answered() -> None:
    """The batch goes on for those who have more time."""
    upstream = RecordingUpstream(latency_s=3)

    async with running(upstream) as pool:
        hasty, patient = ask(pool, "hasty", within_s=1), ask(pool, "patient", within_s=5)

        assert isinstance(await failure(hasty), DeadlineExceeded)
        assert now() == 1
        assert_answered(await patient)
        assert now() == 3

    assert upstream.batches == [(0.0, "a", ["hasty", "patient"])]


@fake_time
async def test_a_call_that_times_out_while_it_waits_is_not_sent() -> None:
    """Nobody wants its answer any more."""
    upstream = RecordingUpstream(latency_s=3)

    async with running(upstream, "a", ONE_AT_A_TIME) as pool:
        busy = ask(pool, "busy")
        await idle()
        late, patient = ask(pool, "late", within_s=2), ask(pool, "patient")

        assert isinstance(await failure(late), DeadlineExceeded)
        assert now() == 2
        await asyncio.gather(busy, patient)

    assert items_sent(upstream) == ["busy", "patient"]


@pytest.mark.parametrize(("within", "expected"), [((2, 5), 5), ((2, 50), 30), ((600, 700), 30)])
@fake_time
async def test_a_batch_is_given_the_time_of_its_most_patient_caller_and_no_more_than_configured(
    within: tuple[float, float], expected: float
) -> None:
    """Cut off for the hasty it would be lost for all."""
    upstream = RecordingUpstream(latency_s=1)

    async with running(upstream, [deployment("a", timeout_s=30)]) as pool:
        await asyncio.gather(*(ask(pool, "x", within_s=within_s) for within_s in within))

    assert upstream.timeouts == [expected]


@fake_time
async def test_a_server_that_takes_longer_than_configured_ends_the_call() -> None:
    """However patient the caller is."""
    upstream = RecordingUpstream(latency_s=100)

    async with running(upstream, [deployment("a", timeout_s=30)]) as pool:
        assert isinstance(await failure(ask(pool, "x", within_s=600)), DeadlineExceeded)

        assert now() == 30


@fake_time
async def test_a_deadline_that_has_passed_ends_the_call_at_once() -> None:
    """A caller may ask for less time than it took to get here."""
    upstream = RecordingUpstream(latency_s=1)

    async with running(upstream) as pool:
        assert isinstance(await failure(ask(pool, "x", within_s=-1)), DeadlineExceeded)

        assert now() == 0
        await at(5)
        assert_at_rest(pool)


# Callers who leave


@fake_time
async def test_what_waits_of_a_caller_who_left_is_not_sent() -> None:
    """Not even when the rest of the call is under way."""
    upstream = RecordingUpstream(latency_s=1)

    async with running(upstream, "a", ONE_AT_A_TIME) as pool:
        big = ask(pool, texts(100))
        await idle()
        small = ask(pool, "small")
        await at(0.5)
        await cancel(big)

        assert pool.stats().queued_items == {"interactive": 1, "bulk": 0}
        assert_answered(await small)

    assert upstream.batches == [(0.0, "a", texts(32)), (1.0, "a", ["small"])]


@fake_time
async def test_a_caller_who_leaves_while_its_batch_is_under_way_harms_nobody() -> None:
    """The batch cannot be taken back, and the others want it."""
    upstream = RecordingUpstream(latency_s=1)

    async with running(upstream) as pool:
        leaver, stayer = ask(pool, "leaver"), ask(pool, "stayer")
        await at(0.5)
        await cancel(leaver)

        assert_answered(await stayer)
        assert_at_rest(pool)

    assert upstream.batches == [(0.0, "a", ["leaver", "stayer"])]


@pytest.mark.parametrize("turns", range(8))
@fake_time
async def test_a_caller_may_leave_in_any_turn(turns: int) -> None:
    """Before it was queued, before its batch left, and after: counts are right and the other is served."""
    upstream = RecordingUpstream(latency_s=1)

    async with running(upstream) as pool:
        leaver, stayer = ask(pool, ["x", "y"]), ask(pool, "stayer")
        for _ in range(turns):
            await asyncio.sleep(0)
        await cancel(leaver)

        assert_answered(await stayer)
        assert_at_rest(pool)


@fake_time
async def test_a_caller_who_leaves_as_its_answer_comes_harms_nobody() -> None:
    """Both ends in one moment are one end."""
    upstream = RecordingUpstream(latency_s=1)

    async with running(upstream) as pool:
        leaver, stayer = ask(pool, "leaver"), ask(pool, "stayer")
        asyncio.get_running_loop().call_at(1, leaver.cancel)

        assert await outcome(leaver) in ("cancelled", "answered")
        assert_answered(await stayer)
        assert_at_rest(pool)


# Closing


@fake_time
async def test_closing_ends_every_call_with_draining_and_leaves_no_task() -> None:
    """Those under way, those that wait, and those that come later."""
    upstream = RecordingUpstream(latency_s=100, down={"b"})

    async with running(upstream, "ab", ONE_AT_A_TIME) as pool:
        calls = [ask(pool, texts(40)), ask(pool, "x", rerank("q"))]
        await at(5)

        await pool.close()

        assert now() == 5
        assert [type(await failure(call)) for call in calls] == [Draining, Draining]
        assert isinstance(await failure(ask(pool, "later")), Draining)
        assert_at_rest(pool)
        assert not others()


@pytest.mark.parametrize("turns", range(6))
@fake_time
async def test_closing_in_any_turn_is_done_at_once(turns: int) -> None:
    """Also when a call came in the same moment: nothing new is sent, and nothing is waited for."""
    upstream = RecordingUpstream(latency_s=100)

    async with running(upstream) as pool:
        call = ask(pool, "x")
        for _ in range(turns):
            await asyncio.sleep(0)
        await pool.close()

        assert now() == 0
        assert isinstance(await failure(call), Draining)
        assert_at_rest(pool)
        assert not others()


@fake_time
async def test_closing_twice_is_closing_once() -> None:
    """Who cleans up need not know whether somebody did."""
    async with running(RecordingUpstream()) as pool:
        await pool.close()
        await pool.close()

        assert not others()


@fake_time
async def test_a_closed_pool_holds_no_text() -> None:
    """Texts are what takes memory."""
    upstream = RecordingUpstream(latency_s=100, faults=[Fault(Failure.DISCONNECTED, "b")])
    words, refs = watched(200, "t")

    async with running(upstream, "ab", ONE_AT_A_TIME) as pool:
        call = asyncio.gather(*(outcome(ask(pool, [word])) for word in words))
        del words
        await at(5)
        await pool.close()
        await call
        del call
        gc.collect()

        assert not [ref for ref in refs if ref() is not None]
