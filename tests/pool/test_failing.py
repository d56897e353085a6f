"""What becomes of a batch that failed: tried elsewhere, or given up; and of its callers."""

import asyncio
import math

import pytest

from gateway.core.events import BadAnswerSeen, BatchEnded, BatchRetried, Event
from gateway.core.lanes import Ticket
from gateway.core.retry import Failure
from gateway.core.settings import BatchingSettings, EngineSettings, RetrySettings
from gateway.errors import (
    BadAnswer,
    BadRequest,
    DeadlineExceeded,
    GatewayError,
    NoDeployment,
    Overloaded,
    ServerFailed,
)
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
    now,
    outcome,
    running,
    texts,
)

FAILS = [
    Failure.DISCONNECTED,
    Failure.OVERLOADED,
    Failure.SERVER_ERROR,
    Failure.BAD_ANSWER,
    Failure.UNAUTHORIZED,
    Failure.REFUSED,
]
FIRST_A = [deployment("a", weight=1e9), deployment("b")]
"""Two servers of which the first gets all that it has room for."""


# Trying elsewhere


@pytest.mark.parametrize("kind", FAILS)
@fake_time
async def test_a_batch_that_failed_is_tried_on_another_server_at_once(kind: Failure) -> None:
    """Its callers notice nothing but the time that it took."""
    upstream = RecordingUpstream(latency_s=1, faults=[Fault(kind, "a", times=1)])
    events: list[Event] = []

    async with running(upstream, FIRST_A, events=events) as pool:
        tickets = await asyncio.gather(ask(pool, "w"), ask(pool, ["x", "y", "z"]))

    failed_at = 0.0 if kind is Failure.REFUSED else 1.0
    assert upstream.batches[0] == (0.0, "a", ["w", "x", "y", "z"])
    if kind is Failure.DISCONNECTED:  # It may be one of them that kills servers.
        assert upstream.batches[1:] == [(1.0 + i, "b", [item]) for i, item in enumerate("wxyz")]
    else:
        assert upstream.batches[1:] == [(failed_at, "b", ["w", "x", "y", "z"])]
    for ticket in tickets:
        assert_answered(ticket)
    assert [event for event in events if isinstance(event, BatchRetried)] == [("model", kind.value)]
    ended = [(e.deployment, e.reason) for e in events if isinstance(e, BatchEnded)]
    assert ended == [("a", kind.value), *(("b", "") for _ in upstream.batches[1:])]


@fake_time
async def test_a_timeout_is_never_tried_again() -> None:
    """The server works on, so a second try doubles the load just when there is too much of it."""
    upstream = RecordingUpstream(faults=[Fault(Failure.TIMEOUT, "a")])

    async with running(upstream, FIRST_A) as pool:
        error = await failure(ask(pool, "x"))

    assert isinstance(error, DeadlineExceeded)
    assert upstream.batches == [(0.0, "a", ["x"])]


@fake_time
async def test_a_retry_never_goes_back_to_a_server_that_failed_on_it() -> None:
    """Even when that is the only one with room: it waits for another."""
    upstream = RecordingUpstream(
        latencies={"a": 1, "b": 5},
        faults=[Fault(Failure.DISCONNECTED, on=lambda r: "bad luck" in r.items, times=1)],
    )
    settings = EngineSettings(batching=BatchingSettings(in_flight_max=1))

    async with running(upstream, "b", settings) as pool:
        busy = ask(pool, "busy")
        await idle()
        pool.add(deployment("a"))
        await idle()
        unlucky = ask(pool, "bad luck")
        await at(2)
        other = ask(pool, "other")
        await asyncio.gather(busy, unlucky, other)

    assert upstream.batches == [
        (0.0, "b", ["busy"]),
        (0.0, "a", ["bad luck"]),
        (2.0, "a", ["other"]),
        (5.0, "b", ["bad luck"]),
    ]


@fake_time
async def test_what_is_tried_again_goes_before_what_is_new() -> None:
    """Its callers have waited longest."""
    upstream = RecordingUpstream(latency_s=1, faults=[Fault(Failure.DISCONNECTED, "a", times=1)])
    settings = EngineSettings(batching=BatchingSettings(in_flight_max=1, items_max=1))

    async with running(upstream, FIRST_A, settings) as pool:
        calls = [ask(pool, text) for text in texts(6)]
        await asyncio.gather(*calls)

    assert upstream.batches[0] == (0.0, "a", ["t0"])
    assert upstream.batches[2] == (1.0, "b", ["t0"])


@pytest.mark.parametrize("retries_max", [0, 1, 2])
@fake_time
async def test_retries_stop_at_their_limit(retries_max: int) -> None:
    """A batch that makes servers fail must not walk through all of them."""
    upstream = RecordingUpstream(faults=[Fault(Failure.SERVER_ERROR)])

    async with running(upstream, "abcdef", EngineSettings(retry=RetrySettings(retries_max))) as pool:
        error = await failure(ask(pool, "x"))

    assert isinstance(error, ServerFailed)
    assert len(upstream.batches) == 1 + retries_max
    assert len({batch.deployment for batch in upstream.batches}) == 1 + retries_max


@fake_time
async def test_all_retries_together_stop_at_the_budget() -> None:
    """When everything fails, retries must not be what keeps the servers busy."""
    upstream = RecordingUpstream(faults=[Fault(Failure.OVERLOADED, times=100)])
    settings = EngineSettings(
        batching=BatchingSettings(items_max=1, in_flight_max=100),
        retry=RetrySettings(retries_max=1, budget_ratio=0.1, budget_per_s=0, budget_window_s=10),
    )
    names = [f"s{i}" for i in range(100)]

    async with running(upstream, names, settings) as pool:
        await asyncio.gather(*(outcome(ask(pool, text)) for text in texts(50)))

    retried = len(upstream.batches) - 50
    assert 1 <= retried <= math.ceil(0.1 * len(upstream.batches))


@fake_time
async def test_refusals_do_not_spend_the_budget() -> None:
    """Nothing listened, so nobody did any work."""
    upstream = RecordingUpstream(down=set("ab"))
    settings = EngineSettings(retry=RetrySettings(retries_max=2, budget_ratio=0, budget_per_s=0))
    upstream.down.clear()

    async with running(upstream, "abc", settings) as pool:
        upstream.down |= {"a", "b"}
        tickets = await asyncio.gather(*(ask(pool, text) for text in texts(9)))

    for ticket in tickets:
        assert_answered(ticket)


@fake_time
async def test_a_retry_that_waits_for_a_server_fails_when_that_goes_too() -> None:
    """It may go nowhere else, and nobody is left waiting for a server that is gone."""
    upstream = RecordingUpstream(
        latency_s=1, latencies={"b": 20}, faults=[Fault(Failure.DISCONNECTED, "a", times=1)]
    )
    settings = EngineSettings(batching=BatchingSettings(in_flight_max=1, items_max=1))

    async with running(upstream, "b", settings) as pool:
        busy = ask(pool, "busy")
        await idle()
        pool.add(deployment("a"))
        await idle()
        unlucky = ask(pool, "bad luck")
        await at(3)
        assert not unlucky.done()
        pool.remove("b")
        error = await failure(unlucky)
        assert now() == 3
        assert_answered(await busy)

    assert isinstance(error, ServerFailed)


@fake_time
async def test_a_retry_of_which_all_callers_have_left_is_not_sent() -> None:
    """Nobody wants it any more."""
    upstream = RecordingUpstream(
        latency_s=1, latencies={"b": 20}, faults=[Fault(Failure.DISCONNECTED, "a", times=1)]
    )
    settings = EngineSettings(batching=BatchingSettings(in_flight_max=1, items_max=1))

    async with running(upstream, "b", settings) as pool:
        busy = ask(pool, "busy")
        await idle()
        pool.add(deployment("a"))
        await idle()
        unlucky = ask(pool, "bad luck")
        await at(3)
        await cancel(unlucky)
        await busy
        await idle()
        assert_at_rest(pool)

    assert [batch.items for batch in upstream.batches] == [["busy"], ["bad luck"]]


# Giving up


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Failure.DISCONNECTED, ServerFailed),
        (Failure.SERVER_ERROR, ServerFailed),
        (Failure.UNAUTHORIZED, ServerFailed),
        (Failure.OVERLOADED, Overloaded),
        (Failure.BAD_ANSWER, BadAnswer),
        (Failure.TIMEOUT, DeadlineExceeded),
        (Failure.REJECTED, BadRequest),
        (Failure.REFUSED, NoDeployment),
    ],
)
@fake_time
async def test_each_failure_of_the_only_server_is_an_error_in_the_callers_terms(
    kind: Failure, expected: type[GatewayError]
) -> None:
    """Nothing that the server said of itself reaches a caller, but for what it says of an input."""
    upstream = RecordingUpstream(faults=[Fault(kind, message="told by the server")])

    async with running(upstream) as pool:
        error = await failure(ask(pool, "x"))

        assert type(error) is expected
        assert ("told by the server" in str(error)) == (kind is Failure.REJECTED)
        assert_at_rest(pool)


@fake_time
async def test_a_bad_answer_is_reported_with_its_reason() -> None:
    """A server that miscounts must not go unnoticed because another one mends it."""
    upstream = RecordingUpstream(faults=[Fault(Failure.BAD_ANSWER, "a", times=1)])
    events: list[Event] = []

    async with running(upstream, FIRST_A, events=events) as pool:
        await ask(pool, "x")

    assert [e for e in events if isinstance(e, BadAnswerSeen)] == [("model", "a", "bad_answer")]


@fake_time
async def test_every_caller_of_a_failed_batch_is_told() -> None:
    """Whatever their number and the parts of them that were answered."""
    upstream = RecordingUpstream(
        latency_s=1, faults=[Fault(Failure.SERVER_ERROR, on=lambda r: "t40" in r.items)]
    )

    async with running(upstream) as pool:
        calls: list[asyncio.Task[Ticket]] = [
            ask(pool, texts(64)),
            *(ask(pool, text) for text in texts(5, "u")),
        ]
        outcomes = await asyncio.gather(*map(outcome, calls))

        assert outcomes == ["ServerFailed", *["answered"] * 5]
        assert_at_rest(pool)
