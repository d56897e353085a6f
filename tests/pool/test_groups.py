"""Callers who come back at once are served in one group or in two, whichever is faster."""

import asyncio
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count

import pytest

from gateway.pool import Pool, Request
from tests.fakes.time import fake_time
from tests.fakes.upstream import PING, RecordingUpstream
from tests.pool.pools import ask, now, running

EACH_S = 0.001
CALLERS = 8
COME_BACK_S = 0.001
MOMENT_S = 0.0011
"""Company may be waited for so long in any case."""


@dataclass
class Stage:
    """One server after the other works on what it gets, and the way there and back takes time as well."""

    batch_s: float
    way_s: float
    servers: Iterable[str] = "a"
    free_at: dict[str, float] = field(default_factory=dict)
    asked_at: dict[str, float] = field(default_factory=dict)
    took: list[tuple[float, float]] = field(default_factory=list)
    """When each call was answered, and how long it took."""
    lost: str = ""
    """The answer to this text comes five seconds late, and those behind it do not."""
    rng: random.Random = field(default_factory=lambda: random.Random(1))

    def __post_init__(self) -> None:
        self.upstream = RecordingUpstream(latency_of=self._latency_s)

    def _latency_s(self, name: str, request: Request) -> float:
        if request.items == [PING]:
            return self.way_s
        work_s = self.batch_s + EACH_S * len(request.items)
        self.free_at[name] = max(now(), self.free_at.get(name, 0.0)) + work_s
        return self.free_at[name] + self.way_s - now() + (5 if self.lost in request.items else 0)

    async def ask(self, pool: Pool, text: str) -> None:
        self.asked_at[text] = since = now()
        await ask(pool, text)
        self.took.append((now(), now() - since))

    async def caller(self, pool: Pool, name: str, until: float, pause_s: float, jitter_s: float) -> None:
        """One who asks for the next a little after each answer."""
        for number in count():
            await asyncio.sleep(pause_s + jitter_s * self.rng.random())
            if now() >= until:
                return
            await self.ask(pool, f"{name} {number:05}")

    async def serve(
        self, until: float, callers: int = CALLERS, pause_s: float = COME_BACK_S, jitter_s: float = 0.001
    ) -> None:
        async with running(self.upstream, self.servers) as pool:
            await asyncio.gather(
                *(self.caller(pool, f"c{i}", until, pause_s, jitter_s) for i in range(callers))
            )

    def sizes(self, begin: float) -> list[int]:
        return [len(batch.items) for batch in self.upstream.batches if batch.at >= begin]

    def rate(self, begin: float, end: float) -> float:
        return sum(begin <= at < end for at, _ in self.took) / (end - begin)

    def held_s(self, begin: float) -> float:
        """For how long at most something waited for a server that had answered all it had."""
        longest, answered_at, free_at = 0.0, 0.0, 0.0
        for batch in self.upstream.batches:
            if batch.at >= max(begin, answered_at):
                arrived = min(self.asked_at[text] for text in batch.items)
                longest = max(longest, batch.at - max(arrived, answered_at))
            free_at = max(batch.at, free_at) + self.batch_s + EACH_S * len(batch.items)
            answered_at = free_at + self.way_s
        return longest


@fake_time
async def test_two_groups_are_made_one_where_a_batch_costs_more_than_the_way() -> None:
    stage = Stage(batch_s=0.02, way_s=0.005)

    await stage.serve(until=20)

    sizes = stage.sizes(10)
    assert sizes.count(CALLERS) * CALLERS >= 0.9 * sum(sizes)
    by_turns = CALLERS / (2 * 0.02 + CALLERS * EACH_S)
    assert stage.rate(10, 20) >= 1.2 * by_turns
    assert max(took for at, took in stage.took if at >= 10) <= 2.2 * CALLERS / by_turns


@fake_time
async def test_a_single_caller_never_waits() -> None:
    stage = Stage(batch_s=0.02, way_s=0.005)

    await stage.serve(until=20, callers=1)

    assert stage.held_s(0) == 0
    assert [took for _, took in stage.took] == pytest.approx([0.02 + EACH_S + 0.005] * len(stage.took))


@pytest.mark.parametrize("way_s", [0.019, 0.03])
@fake_time
async def test_where_the_way_is_as_long_groups_take_turns(way_s: float) -> None:
    stage = Stage(batch_s=0.02, way_s=way_s)

    await stage.serve(until=20)

    assert stage.held_s(5) <= MOMENT_S
    assert max(stage.sizes(5)) < CALLERS


@fake_time
async def test_for_callers_who_think_first_nobody_waits() -> None:
    stage = Stage(batch_s=0.02, way_s=0.005)

    await stage.serve(until=20, pause_s=0.004, jitter_s=0.02)

    assert stage.held_s(2) <= MOMENT_S


@pytest.mark.parametrize("rate", [20, 100, 200])
@fake_time
async def test_for_callers_who_come_by_chance_nobody_waits(rate: float) -> None:
    """A full batch takes 52 ms, so that 200 a second are a third of what the server can do."""
    stage = Stage(batch_s=0.02, way_s=0.005)

    async with running(stage.upstream) as pool, asyncio.TaskGroup() as calls:
        for number in range(2000):
            await asyncio.sleep(stage.rng.expovariate(rate))
            calls.create_task(stage.ask(pool, f"{number:05}"))

    assert stage.held_s(2) <= MOMENT_S


@fake_time
async def test_who_does_not_come_back_is_waited_for_a_quarter_of_a_batch_at_most() -> None:
    stage = Stage(batch_s=0.02, way_s=0.005)

    async with running(stage.upstream) as pool, asyncio.TaskGroup() as callers:
        for i in range(CALLERS):
            until = 10 + i % 2 * 10  # half of them leave
            callers.create_task(stage.caller(pool, f"c{i}", until, COME_BACK_S, 0.001))

    assert 0 < stage.held_s(10) <= (0.02 + CALLERS * EACH_S) / 4 + MOMENT_S
    assert stage.rate(15, 20) >= 1.2 * 4 / (2 * 0.02 + 4 * EACH_S)


@fake_time
async def test_a_server_whose_batches_get_cheap_is_noticed() -> None:
    """Though each meets it idle, which tells nothing of the cost apart from the way."""
    stage = Stage(batch_s=0.02, way_s=0.005)

    async with running(stage.upstream) as pool, asyncio.TaskGroup() as callers:
        for i in range(CALLERS):
            callers.create_task(stage.caller(pool, f"c{i}", 40, COME_BACK_S, 0.003))
        await asyncio.sleep(10)
        before_s = stage.held_s(5)
        stage.batch_s = 0.002

    assert before_s > 2 * MOMENT_S
    assert stage.held_s(25) <= MOMENT_S


@fake_time
async def test_who_comes_behind_an_answer_that_is_lost_does_not_wait_for_it() -> None:
    stage = Stage(batch_s=0.02, way_s=0.005, lost="lost")

    async with running(stage.upstream) as pool, asyncio.TaskGroup() as callers:
        for i in range(CALLERS):
            callers.create_task(stage.caller(pool, f"c{i}", 20, COME_BACK_S, 0.001))
        await asyncio.sleep(10)
        callers.create_task(stage.ask(pool, stage.lost))
        await asyncio.sleep(0.1)
        asked = now()
        await stage.ask(pool, "another")
        took_s = now() - asked

    assert took_s < 5 * (0.02 + CALLERS * EACH_S + 0.005)


@fake_time
async def test_full_batches_are_not_held() -> None:
    stage = Stage(batch_s=0.02, way_s=0.005)

    await stage.serve(until=20, callers=64)

    assert stage.held_s(5) <= MOMENT_S
    assert min(stage.sizes(5)[:-3]) >= 30


@fake_time
async def test_with_several_servers_nobody_waits() -> None:
    """A call had better go to another one."""
    stage = Stage(batch_s=0.02, way_s=0.005, servers="ab")

    await stage.serve(until=20, callers=2)

    assert max(took for at, took in stage.took if at > 5) <= 0.02 + EACH_S + 0.005 + MOMENT_S
