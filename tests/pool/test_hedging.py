"""Batches that are late are sent to an idle server as well, and the first answer counts."""

from collections import Counter

from gateway.core.events import BatchRetried, Event, Hedged
from gateway.core.retry import Failure
from gateway.core.settings import EngineSettings, RetrySettings
from gateway.errors import ServerFailed
from gateway.pool import Pool, Request
from tests.fakes.time import fake_time
from tests.fakes.upstream import Fault, RecordingUpstream
from tests.pool.pools import ask, assert_answered, assert_at_rest, at, failure, now, running, texts

LATE_S = 5.0


class Moody(RecordingUpstream):
    """Servers that take long for a text with "late" in it, the first time."""

    def __init__(self) -> None:
        super().__init__(latency_of=self.time_of)
        self.seen: Counter[str] = Counter()

    def time_of(self, _: str, request: Request) -> float:
        first = request.items[0]
        self.seen[first] += 1
        return LATE_S if first.startswith("late") and self.seen[first] == 1 else 0.125


async def know(pool: Pool, count: int = 200) -> None:
    """Have both servers known so well that it shows what is late."""
    for i in range(count):
        assert_answered(await ask(pool, f"known {i}"))


def hedges(events: list[Event]) -> list[str]:
    return [event.outcome for event in events if isinstance(event, Hedged)]


@fake_time
async def test_the_second_answer_is_sooner() -> None:
    """The caller has it, and the first server keeps its work until that ends."""
    upstream, events = Moody(), list[Event]()

    async with running(upstream, "ab", events=events) as pool:
        await know(pool)
        since = now()
        assert_answered(await ask(pool, "late"))

        assert now() < since + 1
        assert sum(deployment.batches for deployment in pool.stats().deployments) == 1
        await at(since + LATE_S)
        assert_at_rest(pool)
        assert hedges(events) == ["won"]
        assert not [event for event in events if isinstance(event, BatchRetried)]


@fake_time
async def test_the_first_answer_is_sooner_all_the_same() -> None:
    """Then the second is dropped."""
    upstream, events = Moody(), list[Event]()
    upstream.latency_of = lambda _, request: LATE_S if request.items[0] == "late" else 0.125

    async with running(upstream, "ab", events=events) as pool:
        await know(pool)
        since = now()
        assert_answered(await ask(pool, "late"))

        assert now() == since + LATE_S
        await at(since + 2 * LATE_S)
        assert_at_rest(pool)
        assert hedges(events) == ["lost"]


@fake_time
async def test_when_one_fails_the_other_goes_on() -> None:
    """Without a retry: it is under way already."""
    upstream, events = Moody(), list[Event]()

    async with running(upstream, "ab", events=events) as pool:
        await know(pool)
        upstream.faults.append(
            Fault(Failure.DISCONNECTED, on=lambda r: r.items == ["late"] and upstream.seen["late"] == 1)
        )
        assert_answered(await ask(pool, "late"))

        assert [batch.items[0] for batch in upstream.batches].count("late") == 2
        assert not [event for event in events if isinstance(event, BatchRetried)]
        assert hedges(events) == ["failed"]
        assert_at_rest(pool)


@fake_time
async def test_where_no_other_server_is_left_the_first_goes_on() -> None:
    """It is late, and no more than that."""
    upstream = Moody()

    async with running(upstream, "ab") as pool:
        await know(pool)
        upstream.latency_of = lambda _, request: LATE_S if request.items[0] == "late" else 0.125
        since, call = now(), ask(pool, "late")
        await at(since + 0.0625)
        upstream.down |= {"a", "b"} - {upstream.batches[-1].deployment}

        assert_answered(await call)
        assert now() == since + LATE_S
        assert_at_rest(pool)


@fake_time
async def test_when_both_fail_that_is_told_once() -> None:
    """What became of the first is no news by then."""
    upstream, events = Moody(), list[Event]()

    async with running(upstream, "ab", events=events) as pool:
        await know(pool)
        upstream.faults.append(Fault(Failure.BAD_ANSWER, on=lambda request: "late" in request.items))
        upstream.latency_of = lambda _, request: LATE_S if request.items[0] == "late" else 0.125
        error = await failure(ask(pool, "late"))

        assert type(error).__name__ in ("BadAnswer", ServerFailed.__name__)
        assert hedges(events) == ["failed"]
        assert_at_rest(pool)


@fake_time
async def test_when_both_fail_a_third_is_tried() -> None:
    """And neither of the two again."""
    upstream, events = Moody(), list[Event]()

    async with running(upstream, "abc", events=events) as pool:
        await know(pool, 300)
        upstream.faults.append(Fault(Failure.BAD_ANSWER, on=lambda r: r.items == ["late"], times=2))
        upstream.latency_of = lambda _, request: 1.0 if request.items[0] == "late" else 0.125
        assert_answered(await ask(pool, "late"))

        tried = [batch.deployment for batch in upstream.batches if batch.items == ["late"]]
        assert sorted(tried[:3]) == ["a", "b", "c"]
        assert hedges(events)[:1] == ["failed"]


@fake_time
async def test_few_are_sent_twice() -> None:
    """At most one in twenty, however many are late."""
    upstream, events = Moody(), list[Event]()

    async with running(upstream, "ab", events=events) as pool:
        await know(pool)
        before = len(upstream.batches)
        for i in range(100):
            assert_answered(await ask(pool, f"late {i}"))
        assert 1 <= len(hedges(events)) <= 0.05 * len(upstream.batches)
        assert len(upstream.batches) - before - len(hedges(events)) == 100


@fake_time
async def test_nobody_is_asked_twice_while_others_wait() -> None:
    """A server that stands idle then has something better to do."""
    upstream, events = Moody(), list[Event]()

    async with running(upstream, "a", events=events) as pool:
        await know(pool)
        calls = [ask(pool, f"late {i}") for i in range(3)] + [ask(pool, text) for text in texts(100)]
        for call in calls:
            assert_answered(await call)

    assert hedges(events) == []


@fake_time
async def test_it_can_be_turned_off() -> None:
    """A share of 0 means none."""
    upstream, events = Moody(), list[Event]()
    settings = EngineSettings(retry=RetrySettings(hedge_ratio=0))

    async with running(upstream, "ab", settings, events) as pool:
        await know(pool)
        assert_answered(await ask(pool, "late"))

    assert hedges(events) == []
