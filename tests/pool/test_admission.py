"""What a pool holds is bounded, and what it held is released."""

import asyncio

import pytest

from gateway.core.lanes import BatchKey
from gateway.core.retry import Failure
from gateway.core.settings import AdmissionSettings, BatchingSettings, EngineSettings, RetrySettings
from gateway.errors import BadRequest, DeadlineExceeded, NoDeployment, Overloaded
from tests.fakes.time import fake_time, idle
from tests.fakes.upstream import Fault, RecordingUpstream
from tests.pool.pools import (
    EMBED,
    ask,
    assert_answered,
    assert_at_rest,
    at,
    cancel,
    failure,
    now,
    outcome,
    running,
    sizes,
    states,
    texts,
)


def bounded(items: int = 10, size: int = 10_000) -> EngineSettings:
    return EngineSettings(
        batching=BatchingSettings(in_flight_max=1, items_max=2),
        admission=AdmissionSettings(queued_items_max=items, queued_bytes_max=size),
        retry=RetrySettings(retries_max=0),
    )


@fake_time
async def test_past_its_bound_a_pool_refuses_calls_at_once() -> None:
    """And takes them again when there is room."""
    upstream = RecordingUpstream(latency_s=1)

    async with running(upstream, "a", bounded(items=10)) as pool:
        first = ask(pool, texts(8))
        await idle()

        assert isinstance(await failure(ask(pool, texts(3))), Overloaded)
        assert now() == 0
        second = ask(pool, texts(2))
        await first
        assert_answered(await ask(pool, texts(8)))
        await second


@fake_time
async def test_the_bound_on_text_is_kept_too() -> None:
    """A few enormous calls are as much as many small ones."""
    upstream = RecordingUpstream(latency_s=1)

    async with running(upstream, "a", bounded(size=100)) as pool:
        first = ask(pool, "x" * 60)
        await idle()

        assert isinstance(await failure(ask(pool, "x" * 41)), Overloaded)
        assert_answered(await ask(pool, "x" * 40))
        await first


ENDS = [
    "answered",
    "failed",
    "rejected",
    "timed out",
    "left",
    "left under way",
    "no server",
    "refused parameters",
]


@pytest.mark.parametrize("end", ENDS)
@fake_time
async def test_what_was_admitted_is_released_however_the_call_ends(end: str) -> None:
    """Else the bound shrinks until nothing is admitted."""
    upstream = RecordingUpstream(latency_s=1)
    keys: list[BatchKey] = []

    async with running(upstream, "a", bounded(items=100, size=300)) as pool:
        for _ in range(3):
            match end:
                case "answered":
                    assert_answered(await ask(pool, texts(5)))
                case "failed":
                    upstream.faults.append(Fault(Failure.SERVER_ERROR, times=1))
                    await failure(ask(pool, texts(5)))
                    await ask(pool, "resets the count of failures")
                case "rejected":
                    upstream.faults.append(Fault(Failure.REJECTED, times=1))
                    assert isinstance(await failure(ask(pool, texts(5))), BadRequest)
                case "timed out":
                    assert isinstance(await failure(ask(pool, texts(5), within_s=0.5)), DeadlineExceeded)
                case "left" | "left under way":
                    busy = ask(pool, "busy")
                    await idle()
                    call = ask(pool, texts(5))
                    await at(now() + (0.5 if end == "left" else 1.5))
                    await cancel(call)
                    await busy
                case "no server":
                    upstream.down.add("a")
                    assert isinstance(await failure(ask(pool, texts(5))), NoDeployment)
                    assert isinstance(await failure(ask(pool, texts(5))), NoDeployment)
                    upstream.down.clear()
                    await at(now() + 1)
                case "refused parameters":
                    keys = [EMBED._replace(params=b"%d" % number) for number in range(65)]
                    answers = [outcome(ask(pool, "x", key)) for key in keys]
                    assert sorted(await asyncio.gather(*answers)) == ["BadRequest", *["answered"] * 64]
            await at(now() + 3)

        assert states(pool) == {"a": "up"}
        assert_at_rest(pool)
        everything = ask(pool, ["xxx"] * 100)
        await idle()
        assert isinstance(await failure(ask(pool, "x")), Overloaded)
        assert_answered(await everything)


@fake_time
async def test_a_call_that_is_refused_leaves_no_trace() -> None:
    """It is neither queued nor counted."""
    upstream = RecordingUpstream(latency_s=1)

    async with running(upstream, "a", bounded(items=10)) as pool:
        assert isinstance(await failure(ask(pool, texts(11))), Overloaded)

        assert_at_rest(pool)
        await at(5)
    assert sizes(upstream) == []
