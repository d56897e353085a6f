"""An input that a server rejects: it is looked for, and fails alone."""

import asyncio
import math

import pytest

from gateway.core.retry import Failure
from gateway.core.settings import BatchingSettings, EngineSettings
from gateway.errors import BadRequest, NoDeployment
from gateway.pool import Request
from tests.fakes.time import fake_time
from tests.fakes.upstream import Fault, RecordingUpstream
from tests.pool.pools import ask, assert_at_rest, at, cancel, failure, image, outcome, running, states, texts


def bad(request: Request) -> bool:
    return any("bad" in item for item in request.items)


@pytest.mark.parametrize("position", ["first", "middle", "last"])
@pytest.mark.parametrize("callers", [1, 2, 3, 8, 31, 64])
@fake_time
async def test_a_rejected_input_fails_alone_and_everyone_else_is_answered(
    callers: int, position: str
) -> None:
    """It is found by halving, so the number of sends is logarithmic."""
    index = {"first": 0, "middle": callers // 2, "last": callers - 1}[position]
    upstream = RecordingUpstream(latency_s=1, faults=[Fault(Failure.REJECTED, on=bad, message="too odd")])
    settings = EngineSettings(batching=BatchingSettings(items_max=64))

    async with running(upstream, "ab", settings) as pool:
        await at(1)
        pool.remove("b")
        calls = [ask(pool, "bad" if i == index else f"t{i}") for i in range(callers)]
        outcomes = await asyncio.gather(*map(outcome, calls))

        assert outcomes == ["BadRequest" if i == index else "answered" for i in range(callers)]
        assert "too odd" in str(await failure(calls[index]))
        assert len(upstream.batches) <= 1 + 2 * math.ceil(math.log2(callers)) if callers > 1 else 1
        assert_at_rest(pool)


@fake_time
async def test_several_rejected_inputs_each_fail_alone() -> None:
    """However they lie."""
    upstream = RecordingUpstream(latency_s=1, faults=[Fault(Failure.REJECTED, on=bad)])

    async with running(upstream) as pool:
        names = [f"bad {i}" if i in (3, 4, 17, 31) else f"good {i}" for i in range(32)]
        outcomes = await asyncio.gather(*(outcome(ask(pool, name)) for name in names))

    assert outcomes == ["BadRequest" if name.startswith("bad") else "answered" for name in names]


@fake_time
async def test_a_big_call_with_a_rejected_input_fails_as_a_whole_and_its_neighbours_do_not() -> None:
    """What of it was answered already is dropped."""
    upstream = RecordingUpstream(latency_s=1, faults=[Fault(Failure.REJECTED, on=bad)])

    async with running(upstream, "ab") as pool:
        big = ask(pool, [*texts(90), "bad"])
        small = [ask(pool, f"small {i}") for i in range(4)]
        outcomes = await asyncio.gather(*map(outcome, [big, *small]))

        assert outcomes == ["BadRequest", *["answered"] * 4]
        assert_at_rest(pool)


@fake_time
async def test_a_rejected_image_call_is_not_divided() -> None:
    """It is one caller's, and fails at once."""
    upstream = RecordingUpstream(faults=[Fault(Failure.REJECTED)])

    async with running(upstream) as pool:
        assert isinstance(await failure(ask(pool, texts(8), image(1))), BadRequest)

    assert len(upstream.batches) == 1


@fake_time
async def test_a_rejected_input_says_nothing_about_the_server() -> None:
    """A caller could take every server down with it."""
    upstream = RecordingUpstream(faults=[Fault(Failure.REJECTED, on=bad)])

    async with running(upstream) as pool:
        for _ in range(10):
            await failure(ask(pool, "bad"))

        assert states(pool) == {"a": "up"}


@pytest.mark.parametrize("leaves", ["cancelled", "timed out"])
@fake_time
async def test_nobody_is_blamed_for_the_input_of_a_caller_who_has_left(leaves: str) -> None:
    """The batch had two callers when it was sent, so which of them was at fault is not known."""
    upstream = RecordingUpstream(latency_s=1, faults=[Fault(Failure.REJECTED, on=bad)])

    async with running(upstream) as pool:
        culprit = ask(pool, "bad", within_s=0.5)
        innocent = ask(pool, "good")
        await at(0.25)
        if leaves == "cancelled":
            await cancel(culprit)
        outcomes = [await outcome(culprit), await outcome(innocent)]

        assert outcomes == ["cancelled" if leaves == "cancelled" else "DeadlineExceeded", "answered"]


@fake_time
async def test_halves_that_find_no_server_left_are_told_that_none_is_up() -> None:
    """Nothing failed on these callers; they are where everybody else is."""
    upstream = RecordingUpstream(latency_s=1, faults=[Fault(Failure.REJECTED, on=bad)])

    async with running(upstream) as pool:
        calls = [ask(pool, "good"), ask(pool, "bad")]
        await at(0.5)
        upstream.down.add("a")
        refused = await failure(ask(pool, "takes it down"))

        assert isinstance(refused, NoDeployment)
        assert [await outcome(call) for call in calls] == ["NoDeployment", "NoDeployment"]
