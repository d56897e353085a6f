"""Random plans of calls, servers and failures; and what holds for every run of one."""

import asyncio
import gc
import math
import random
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import strategies as st

from gateway.core.events import BatchEnded, Event
from gateway.core.lanes import BatchKey, Ticket
from gateway.core.retry import Failure
from gateway.core.settings import (
    AdmissionSettings,
    BatchingSettings,
    EngineSettings,
    HealthSettings,
    RetrySettings,
)
from gateway.messages import Task
from gateway.pool import Pool, Request, ServerFacts
from tests.fakes.time import run
from tests.fakes.upstream import Fault, RecordingUpstream
from tests.pool.pools import (
    EMBED,
    Text,
    ask,
    assert_answered,
    assert_at_rest,
    at,
    deployment,
    image,
    now,
    others,
    outcome,
    rerank,
    running,
    states,
    texts,
)

TIMEOUT_S = 8.0
RETRIES_MAX = 2
ITEMS_BOUND = 150
PATIENT_S = 1000.0
"""More time than all that is admitted can take."""
KEYS = [
    EMBED,
    EMBED._replace(params=b'{"p":1}'),
    rerank("q"),
    rerank("r"),
    EMBED._replace(task=Task.CLASSIFY),
]
FAILS = sorted(set(Failure) - {Failure.REJECTED, Failure.HUNG})
ERRORS = {"NoDeployment", "ServerFailed", "BadAnswer", "Overloaded", "DeadlineExceeded", "BadRequest"}
"""The last when two servers died of something that was there both times."""

LATE_S = 0.1 + 1e-6
"""How late the end of a deadline may be seen that is a second away or more."""

quarters = st.integers(0, 40).map(lambda quarter: quarter / 4)


@dataclass(frozen=True)
class Caller:
    arrives: float
    items: int
    key: int
    """Into KEYS; past its end, a call that stands alone."""
    within_s: float = PATIENT_S
    leaves_after_s: float | None = None
    bad: bool = False
    """One of its items is rejected by every server."""


@dataclass(frozen=True)
class Change:
    time: float
    what: str
    server: str


@dataclass(frozen=True)
class Plan:
    seed: int
    sizes: list[int]
    """The batch size of each server."""
    in_flight_max: int
    wait_s: float
    latency_s: float
    callers: list[Caller]
    fails: dict[Failure, float] = field(default_factory=dict)
    """How often a batch fails so."""
    changes: list[Change] = field(default_factory=list)

    @property
    def servers(self) -> str:
        return "abcd"[: len(self.sizes)]


def callers(*, leaving: bool, poison: bool) -> "st.SearchStrategy[list[Caller]]":
    return st.lists(
        st.builds(
            Caller,
            arrives=st.integers(0, 8).map(lambda quarter: quarter / 4),
            items=st.one_of(st.integers(1, 4), st.integers(1, 40)),
            key=st.one_of(st.just(0), st.integers(0, len(KEYS))),
            within_s=st.sampled_from([0.25, 0.75, 2.0, PATIENT_S]) if leaving else st.just(PATIENT_S),
            leaves_after_s=st.one_of(st.none(), st.sampled_from([0.0, 0.1, 0.25, 0.6, 2.0]))
            if leaving
            else st.none(),
            bad=st.sampled_from([False, False, False, True]) if poison else st.just(False),
        ),
        min_size=1,
        max_size=25,
    )


def plans(
    *, leaving: bool = False, poison: bool = False, failing: bool = False, changing: bool = False
) -> "st.SearchStrategy[Plan]":
    change = st.builds(
        Change,
        # Never in the very moment of another thing.
        quarters.map(lambda time: time + 0.1),
        st.sampled_from(["down", "up", "hang", "wake", "remove", "add"]),
        st.sampled_from("abcd"),
    )
    return st.builds(
        Plan,
        seed=st.integers(0, 2**32),
        sizes=st.lists(st.sampled_from([2, 5, 32]), min_size=1, max_size=4),
        in_flight_max=st.sampled_from([1, 2, 8]),
        wait_s=st.sampled_from([0.0, 0.0, 0.5]),
        latency_s=st.sampled_from([0.0, 0.25, 1.0]),
        callers=callers(leaving=leaving, poison=poison),
        fails=st.dictionaries(st.sampled_from(FAILS), st.sampled_from([0.1, 0.4]), max_size=3)
        if failing
        else st.just({}),
        changes=st.lists(change, max_size=8) if changing else st.just([]),
    )


class Run:
    """Plays a plan and keeps what it saw."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.rng = random.Random(plan.seed)
        self.upstream = RecordingUpstream(
            latency_of=lambda _, __: plan.latency_s * self.rng.choice((0.5, 1.0, 3.0)),
            facts={name: facts(size) for name, size in zip(plan.servers, plan.sizes, strict=True)},
        )
        self.upstream.faults = [
            Fault(Failure.REJECTED, on=lambda request: any("bad" in item for item in request.items)),
            *(Fault(failure, on=self.dice(often)) for failure, often in plan.fails.items()),
        ]
        self.events: list[Event] = []
        self.outcomes: list[str] = []
        self.ended_at: list[float] = []
        self.refs: list[weakref.ref[Text]] = []
        self.settings = EngineSettings(
            batching=BatchingSettings(in_flight_max=plan.in_flight_max, wait_s_max=plan.wait_s),
            admission=AdmissionSettings(queued_items_max=ITEMS_BOUND),
            health=HealthSettings(probe_timeout_s=4),
            retry=RetrySettings(retries_max=RETRIES_MAX),
        )

    def dice(self, often: float) -> Callable[[Request], bool]:
        return lambda _: self.rng.random() < often

    async def play(self) -> None:
        members = [deployment(name, timeout_s=TIMEOUT_S) for name in self.plan.servers]
        async with running(self.upstream, members, self.settings, self.events, self.plan.seed) as pool:
            served = [asyncio.create_task(self.call(pool, i)) for i in range(len(self.plan.callers))]
            for change in sorted(self.plan.changes, key=lambda change: change.time):
                await asyncio.sleep(change.time - now())
                self.change(pool, change)
            await asyncio.gather(*served)
            self.in_time = [
                ended <= caller.arrives + min(caller.within_s, caller.leaves_after_s or math.inf) + LATE_S
                for ended, caller in zip(self.ended_at, self.plan.callers, strict=True)
            ]
            await self.recover(pool)
            assert_at_rest(pool)
            assert set(states(pool).values()) == {"up"}
            # All that was admitted has been released, so there is room for exactly the bound.
            assert_answered(await ask(pool, texts(ITEMS_BOUND, "after ")))
            assert_at_rest(pool)
            del served
            gc.collect()
            assert not [ref for ref in self.refs if ref() is not None], "a text is still held"
        assert not others()

    async def call(self, pool: Pool, number: int) -> None:
        """One caller, from its arrival to its end."""
        caller = self.plan.callers[number]
        self.outcomes.append("")
        self.ended_at.append(math.inf)
        await asyncio.sleep(caller.arrives)
        words = [Text(f"call {number} item {i}") for i in range(caller.items)]
        if caller.bad:
            words[-1] = Text(f"call {number} is bad")
        self.refs += map(weakref.ref, words)
        asked: asyncio.Task[Ticket] = ask(pool, words, key_of(number, caller), within_s=caller.within_s)
        del words
        if caller.leaves_after_s is not None:
            asyncio.get_running_loop().call_later(caller.leaves_after_s, asked.cancel)
        self.outcomes[number] = await outcome(asked)
        self.ended_at[number] = now()

    def change(self, pool: Pool, change: Change) -> None:
        upstream, name = self.upstream, change.server
        if name not in self.plan.servers:
            return
        match change.what:
            case "down":
                upstream.down.add(name)
            case "up":
                upstream.down.discard(name)
            case "hang":
                upstream.hung.add(name)
            case "wake":
                upstream.hung.discard(name)
            case "remove" if name in states(pool):
                pool.remove(name)
            case "add" if name not in states(pool):
                pool.add(deployment(name, timeout_s=TIMEOUT_S))

    async def recover(self, pool: Pool) -> None:
        """Everything is well again for long enough to be noticed."""
        self.upstream.down.clear()
        self.upstream.hung.clear()
        self.upstream.faults.clear()
        self.upstream.latency_of = None
        for name in self.plan.servers:
            if name not in states(pool):
                pool.add(deployment(name))
        await at(now() + 60)


def facts(size: int) -> ServerFacts:
    return ServerFacts(frozenset({"embed", "rerank", "classify"}), size)


def key_of(number: int, caller: Caller) -> BatchKey:
    return KEYS[caller.key] if caller.key < len(KEYS) else image(number + 1)


def played(plan: Plan) -> Run:
    """The plan, played, with what holds for every run checked."""
    seen = Run(plan)
    gc.freeze()  # Makes it quick to look for what this run has left.
    try:
        run(seen.play())
    finally:
        gc.unfreeze()
    upstream = seen.upstream

    for caller, result in zip(plan.callers, seen.outcomes, strict=True):
        allowed = {"answered"} if not caller.bad else {"BadRequest"}
        if plan.fails or plan.changes:
            allowed |= ERRORS
        if caller.within_s < PATIENT_S:
            allowed |= {"DeadlineExceeded", "Overloaded"}
        if sum(other.items for other in plan.callers) > ITEMS_BOUND:
            allowed |= {"Overloaded"}
        if caller.leaves_after_s is not None:
            allowed |= {"cancelled"}
        assert result in allowed
    assert all(seen.in_time), "a caller waited past its deadline"
    removed = any(change.what == "remove" for change in plan.changes)
    if not removed:  # What is removed and added again has old work and new work, each within the bound.
        assert all(most <= plan.in_flight_max for most in upstream.in_flight_most.values())
    for request in upstream.requests:
        if not request.key.alone:
            assert len(request.items) <= max(plan.sizes)
            if not plan.changes:
                assert len(request.items) <= min(plan.sizes)
        for item in request.items:
            if item.startswith("call"):
                number = int(item.split()[1])
                assert request.key == key_of(number, plan.callers[number])
    reported = sum(isinstance(event, BatchEnded) for event in seen.events)
    assert reported == len(upstream.batches) or (removed and reported < len(upstream.batches))
    return seen


def sends(seen: Run) -> Counter[str]:
    """How often each item was sent."""
    return Counter(item for batch in seen.upstream.batches for item in batch.items)
