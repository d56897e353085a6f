"""Connections are kept, and one that the server has closed meanwhile costs nobody anything."""

import asyncio
from typing import Any

import pytest

from gateway.core.retry import Failure
from gateway.upstream.infinity import InfinityUpstream
from tests.fakes.faults import Fault, contains
from tests.fakes.infinity import FakeInfinity, vector_of
from tests.upstream.peer import peer
from tests.upstream.requests import TIMEOUT_S, decoded, deployment, failure_of, sent, texts

AT_ONCE = 8


async def keep_connections(upstream: InfinityUpstream, fake: FakeInfinity, count: int) -> None:
    """Make so many calls at one time that so many connections lie idle afterwards."""
    gate = asyncio.Event()
    fake.faults.append(Fault(delay=gate))
    async with asyncio.TaskGroup() as calls:
        for i in range(count):
            calls.create_task(sent(upstream, deployment(fake), texts(f"warm {i}")))
        await fake.received(count)
        gate.set()
    fake.faults.clear()
    fake.requests.clear()


@pytest.mark.parametrize("count", [1, AT_ONCE])
async def test_a_server_that_was_restarted_is_called_as_if_nothing_had_been(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity, count: int
) -> None:
    """Every kept connection is dead by then, and each call goes over a new one."""
    await keep_connections(upstream, fake_infinity, count)
    await fake_infinity.stop()
    await fake_infinity.start()

    answers = await asyncio.gather(
        *(sent(upstream, deployment(fake_infinity), texts(f"text {i}")) for i in range(count))
    )

    for i, answer in enumerate(answers):
        assert decoded(answer.values) == [vector_of(f"text {i}").tolist()]


async def test_a_server_that_is_gone_after_a_request_did_not_refuse_it(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity
) -> None:
    """It has had it, and may be gone because of it: as a refusal it would be tried everywhere."""
    await keep_connections(upstream, fake_infinity, 1)
    fake_infinity.faults.append(Fault(kills_server=True))

    error = await failure_of(upstream, deployment(fake_infinity))

    assert error.failure is Failure.DISCONNECTED
    assert error.is_gone


async def test_what_may_break_connections_goes_over_one_of_its_own_once(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity
) -> None:
    """A kept one might be dead already, and whatever it is sent over twice may die twice."""
    await keep_connections(upstream, fake_infinity, 1)
    fake_infinity.faults.append(Fault(drop="before"))

    error = await failure_of(upstream, deployment(fake_infinity), texts("one")._replace(fresh=True))

    assert error.failure is Failure.DISCONNECTED
    assert not error.is_gone
    assert fake_infinity.batches == [["one"]]
    await fake_infinity.stop()
    error = await failure_of(upstream, deployment(fake_infinity), texts("two")._replace(fresh=True))
    assert error.failure is Failure.REFUSED


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_a_kept_connection_that_breaks_under_a_call_costs_one_more_try(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity, reset: bool
) -> None:
    """The server may have closed it while the call was on its way, so only a new one can tell how it is."""
    await keep_connections(upstream, fake_infinity, 1)
    fake_infinity.faults.append(Fault(drop="before", reset=reset, times=1))

    answer = await upstream.send(deployment(fake_infinity), texts("one"), TIMEOUT_S)

    assert decoded(answer.values) == [vector_of("one").tolist()]
    assert fake_infinity.batches == [["one"], ["one"]]


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_what_makes_a_server_hang_up_does_not_go_over_every_kept_connection(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity, reset: bool
) -> None:
    """An input that breaks the connection is sent again once, however many connections are kept."""
    await keep_connections(upstream, fake_infinity, AT_ONCE)
    fake_infinity.faults.append(Fault(drop="before", reset=reset, when=contains("poison")))

    error = await failure_of(upstream, deployment(fake_infinity), texts("poison"))

    assert error.failure is Failure.DISCONNECTED
    assert len(fake_infinity.batches) <= 2


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_an_answer_that_breaks_off_on_a_kept_connection_is_not_asked_for_again(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity, reset: bool
) -> None:
    """The server has seen the batch and worked on it: a failure, and what follows is decided above."""
    await keep_connections(upstream, fake_infinity, 1)
    fake_infinity.faults.append(Fault(drop="middle", reset=reset, times=1))

    error = await failure_of(upstream, deployment(fake_infinity), texts("one"))

    assert error.failure is Failure.DISCONNECTED
    assert fake_infinity.batches == [["one"]]


async def test_connections_are_used_again(upstream: InfinityUpstream) -> None:
    """Calls one after another share a connection: opening one costs the server and us."""
    async with peer() as served:
        for _ in range(5):
            await upstream.send(deployment(served.url), texts("one"), TIMEOUT_S)

    assert served.connections == 1


async def test_a_call_that_is_given_up_leaves_its_connection(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity
) -> None:
    """Else the next call would read the late answer of the one before it."""
    late = asyncio.Event()
    fake_infinity.faults.append(Fault(delay=late, times=1))
    await failure_of(upstream, deployment(fake_infinity), texts("late"), timeout_s=0.05)

    late.set()
    answers: list[Any] = [
        await upstream.send(deployment(fake_infinity), texts(f"next {i}"), TIMEOUT_S) for i in range(3)
    ]

    assert [decoded(answer.values)[0] for answer in answers] == [
        vector_of(f"next {i}").tolist() for i in range(3)
    ]


async def test_many_calls_at_once_each_get_a_connection(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity
) -> None:
    """How many calls a server gets at once is decided by the balancer, not by a limit of connections."""
    gate = asyncio.Event()
    fake_infinity.faults.append(Fault(delay=gate))

    async with asyncio.TaskGroup() as calls, asyncio.timeout(TIMEOUT_S):
        for i in range(150):
            calls.create_task(sent(upstream, deployment(fake_infinity), texts(f"text {i}")))
        await fake_infinity.received(150)
        gate.set()

    assert fake_infinity.in_flight_max == 150
