"""More to do than can be done: what is done must still be done for somebody."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from gateway.core.events import DeploymentChanged, Event
from gateway.core.lanes import Ticket
from gateway.core.packing import tokens_of
from gateway.core.retry import Failure
from gateway.core.settings import AdmissionSettings, EngineSettings
from gateway.errors import Overloaded
from gateway.pool import Pool, Request
from tests.fakes.time import fake_time, idle
from tests.fakes.upstream import Fault, RecordingUpstream
from tests.pool.pools import (
    EMBED,
    acquaint,
    ask,
    assert_at_rest,
    at,
    failure,
    now,
    outcome,
    running,
    texts,
)

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


# More calls than can be answered, for minutes


def batch_s(items: int, tokens: int) -> float:
    """How long a server takes for so many items, all of so many tokens."""
    return 0.2 + 0.02 * items + 0.0001 * items * tokens


@dataclass
class Load:
    """Calls that come at random, so many times as many items as the servers could do, whoever is refused."""

    slow: dict[str, float] = field(default_factory=dict)
    """Server → how many times as long it takes."""
    servers: str = "ab"
    times: float = 3.0
    within_s: float = 10.0
    lasts_s: float = 60.0
    characters: Sequence[int] = (20,)
    callers: int = 1
    ended: Counter[str] = field(default_factory=Counter)
    held_most: int = 0
    retry_after_s: list[float] = field(default_factory=list)

    @property
    def capacity(self) -> float:
        """Items a second, in full batches of equal texts."""
        tokens = sum(map(tokens_of, ("x" * count for count in self.characters))) // len(self.characters)
        return sum(32 / (self.slow.get(name, 1) * batch_s(32, tokens)) for name in self.servers)

    @property
    def goodput(self) -> float:
        return self.ended["answered"] / self.lasts_s / self.capacity

    @property
    def in_time(self) -> float:
        """Of those that were taken."""
        return self.ended["answered"] / (self.ended.total() - self.ended["refused"])

    async def run(self) -> None:
        upstream = RecordingUpstream(latency_of=self._latency_s, serial=True)
        rng = random.Random(1)
        async with running(upstream, self.servers) as pool:
            number = 0
            while now() < self.lasts_s:
                number += 1
                text = f"{number} " + "x" * rng.choice(self.characters)
                self._call(pool, text, f"caller {number % self.callers}")
                self.held_most = max(self.held_most, pool._admission.held_items)
                await asyncio.sleep(rng.expovariate(self.times * self.capacity))
            await asyncio.sleep(self.within_s + 1)
            await idle()
            assert_at_rest(pool)

    def _latency_s(self, name: str, request: Request) -> float:
        longest = max(map(tokens_of, request.items))
        return self.slow.get(name, 1.0) * batch_s(len(request.items), longest)

    def _call(self, pool: Pool, text: str, caller: str) -> None:
        def answered(ticket: Ticket) -> None:
            self.ended[type(ticket.error).__name__ if ticket.error else "answered"] += 1

        try:
            pool.ask(EMBED, [text], now() + self.within_s, caller, answered)
        except Overloaded as refused:
            self.ended["refused"] += 1
            self.retry_after_s.append(refused.retry_after_s)


@pytest.mark.parametrize(
    ("load", "goodput", "in_time"),
    [
        (Load(lasts_s=180.0), 0.95, 0.99),
        (Load(within_s=3.0), 0.95, 0.9),
        (Load(characters=(10, 20, 40, 80, 200, 800)), 0.95, 0.95),
        (Load(servers="abc", slow={"c": 5.0}), 0.85, 0.85),
        (Load(callers=4), 0.95, 0.95),
        (Load(callers=50), 0.9, 0.85),
    ],
    ids=["plain", "in a hurry", "of all lengths", "a slow server", "four callers", "fifty callers"],
)
@fake_time
async def test_three_times_more_than_can_be_done(load: Load, goodput: float, in_time: float) -> None:
    """The servers do what they can, and do it for somebody; the others are refused at once."""
    await load.run()

    assert load.goodput >= goodput
    assert load.in_time >= in_time
    # What waits is as much as can be done in time, and no more, however long it goes on.
    assert load.held_most < 1.3 * load.capacity * load.within_s + 200
    assert min(load.retry_after_s) >= 1
    assert max(load.retry_after_s) <= 3 * load.within_s


@pytest.mark.parametrize("batch_times", [1.0, 3.1])
@fake_time
async def test_a_server_that_turns_slow_under_overload_is_not_taken_out_and_back(batch_times: float) -> None:
    """Its canaries stand behind its queue. Whoever takes it for dead once has more patience then."""
    load = Load(slow={"a": batch_times, "b": batch_times}, within_s=30.0)
    upstream, events = RecordingUpstream(latency_of=load._latency_s, serial=True), list[Event]()

    async with running(upstream, "ab", events=events) as pool:
        rate, number = 3 * load.capacity, 0
        while now() < 150:
            if now() >= 30:
                load.slow["b"] = 5 * batch_times
            number += 1
            load._call(pool, f"{number}", f"caller {number % 5}")
            await asyncio.sleep(1 / rate)
        await asyncio.sleep(60)

    lost = [each for each in events if isinstance(each, DeploymentChanged) and not each.up]
    assert len(lost) <= 1
    assert {batch.deployment for batch in upstream.batches if batch.at > 60} == {"a", "b"}


@pytest.mark.parametrize("times", [0.5, 0.9])
@fake_time
async def test_as_much_as_can_be_done_is_all_taken(times: float) -> None:
    """A call that is refused wrongly is worse than one that comes too late."""
    load = Load(times=times)
    await load.run()

    assert set(load.ended) == {"answered"}


@fake_time
async def test_a_burst_is_taken_as_far_as_it_can_be_answered() -> None:
    """And who is refused is told when all that waits before him will be done."""
    upstream = RecordingUpstream(latency_of=lambda _, r: batch_s(len(r.items), 10), serial=True)

    async with running(upstream) as pool:
        await acquaint(pool)
        for number in range(1, 33):
            await ask(pool, texts(number, f"{number} "))
        since = now()
        calls = [ask(pool, texts(32, f"call {i} "), within_s=10) for i in range(30)]
        results = [await outcome(call) for call in calls]
        taken = results.count("answered")

        assert results == ["answered"] * taken + ["Overloaded"] * (30 - taken)
        assert 8 <= taken <= 11  # of 0.9 s each
        assert now() - since < 10


@fake_time
async def test_who_is_refused_is_told_when_there_will_be_room() -> None:
    """Once all that waits before him is done, he is taken."""
    upstream = RecordingUpstream(latency_of=lambda _, r: batch_s(len(r.items), 10), serial=True)

    async with running(upstream) as pool:
        await acquaint(pool)
        for number in range(1, 33):
            await ask(pool, texts(number, f"{number} "))
        calls = [ask(pool, texts(32, f"call {i} ")) for i in range(10)]
        await idle()
        refused = await failure(ask(pool, texts(9), within_s=5))

        assert isinstance(refused, Overloaded)
        assert "and the call has 5 s" in str(refused)
        assert refused.retry_after_s == pytest.approx(7.5, rel=0.25)
        await at(now() + refused.retry_after_s)
        assert await outcome(ask(pool, texts(9), within_s=5)) == "answered"
        assert [await outcome(call) for call in calls] == ["answered"] * 10


@fake_time
async def test_an_idle_or_unknown_pool_refuses_nobody() -> None:
    """Whatever it is asked: nothing is known of how long it takes, or nothing is waited for."""
    upstream = RecordingUpstream(latency_s=2, serial=True)

    async with running(upstream) as pool:
        unknown = [ask(pool, texts(100, f"call {i} "), within_s=1) for i in range(20)]
        assert {await outcome(call) for call in unknown} == {"DeadlineExceeded"}
        await at(now() + 60)
        await acquaint(pool)
        assert await outcome(ask(pool, texts(2000), within_s=1)) == "DeadlineExceeded"


@fake_time
async def test_what_others_wait_for_already_costs_nothing_more() -> None:
    """A call for it is not refused as if it did."""
    upstream = RecordingUpstream(latency_of=lambda _, r: batch_s(len(r.items), 10), serial=True)

    async with running(upstream) as pool:
        await acquaint(pool)
        for number in range(1, 33):
            await ask(pool, texts(number, f"{number} "))
        first = ask(pool, texts(200, "the same "), within_s=10)
        await idle()

        again = ask(pool, texts(200, "the same "), within_s=10)
        others = ask(pool, texts(200, "others "), within_s=10)
        assert await outcome(others) == "Overloaded"
        assert await outcome(first) == await outcome(again) == "answered"


@fake_time
async def test_an_interactive_call_is_not_refused_for_a_flood_of_bulk() -> None:
    """It goes first, so it will be in time."""
    upstream = RecordingUpstream(latency_of=lambda _, r: batch_s(len(r.items), 10), serial=True)

    async with running(upstream) as pool:
        await acquaint(pool)
        for number in range(1, 33):
            await ask(pool, texts(number, f"{number} "))
        flood = [ask(pool, texts(500, f"flood {i} ")) for i in range(10)]
        await idle()

        assert await outcome(ask(pool, texts(64, "bulk "), within_s=20)) == "Overloaded"
        assert await outcome(ask(pool, "a question", within_s=5)) == "answered"
        for call in flood:
            call.cancel()


@fake_time
async def test_a_bound_that_is_met_says_when_to_come_again_too() -> None:
    """By the same forecast; and the bytes are those of UTF-8."""
    upstream = RecordingUpstream(latency_of=lambda _, r: batch_s(len(r.items), 10), serial=True)
    settings = EngineSettings(admission=AdmissionSettings(queued_items_max=320, queued_bytes_max=10_000))

    async with running(upstream, "a", settings) as pool:
        await acquaint(pool)
        for number in range(1, 33):
            await ask(pool, texts(number, f"{number} "))
        calls = [ask(pool, texts(32, f"call {i} ")) for i in range(10)]
        await idle()
        refused = await failure(ask(pool, texts(9)))
        assert isinstance(refused, Overloaded)
        assert refused.retry_after_s == pytest.approx(7.5, rel=0.25)
        assert [await outcome(call) for call in calls] == ["answered"] * 10

        assert await outcome(ask(pool, "\N{HIRAGANA LETTER A}" * 3334)) == "Overloaded"
        assert await outcome(ask(pool, "\N{HIRAGANA LETTER A}" * 3333)) == "answered"


@fake_time
async def test_calls_that_fail_make_no_forecast_worse() -> None:
    """Only those that were late do."""
    upstream = RecordingUpstream(latency_s=1, serial=True)

    async with running(upstream) as pool:
        await acquaint(pool)
        upstream.faults.append(Fault(Failure.REJECTED, on=lambda request: "bad" in request.items[0]))
        calls = [ask(pool, texts(32, "bad "), within_s=6) for _ in range(8)]
        await asyncio.gather(*map(outcome, calls))

        assert pool._forecast._caution == 1
