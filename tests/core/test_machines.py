"""Core: the breaker and the permits, through any order of what can happen to them."""

import math
import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.core.balancer import BREAKER_STATES, Balancer, Deployment, Permit
from gateway.core.health import Health, State
from gateway.core.service_time import Shape
from gateway.core.settings import HealthSettings

SETTINGS = HealthSettings(probe_interval_s=0.5, silent_s_max=10, failures_max=3)
seconds = st.sampled_from([0.0, 0.1, 0.5, 1.0, 11.0])


class Breaker(RuleBasedStateMachine):
    """The model: failures since the last answer, and whether it is on hold."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.health = Health(SETTINGS, self.now)
        self.state = State.STARTING
        self.failures = 0
        self.failed_at = -math.inf
        self.held = False
        self.heard_at = self.now
        self.ejected = self.full = False

    @rule(passed_s=seconds)
    def time_passes(self, passed_s: float) -> None:
        self.now += passed_s

    @rule()
    def a_probe_is_answered(self) -> None:
        news = self.health.on_probe_answer(self.now)
        assert news == (self.state is not State.UP)
        lately = self.state is State.UP and self.now < self.failed_at + SETTINGS.silent_s_max
        failures = self.failures if lately else 0
        self.state = State.UP
        self.answered()
        self.failures = failures

    @rule()
    def a_batch_is_answered(self) -> None:
        self.health.on_answer(self.now)
        self.answered()

    def answered(self) -> None:
        self.failures = 0
        self.heard_at = self.now
        self.held &= self.state is not State.UP

    @rule(refused=st.booleans(), may_eject=st.booleans(), full=st.booleans())
    def something_fails(self, refused: bool, may_eject: bool, full: bool) -> None:
        was = self.state
        self.health.on_failure(self.now, "why", refused=refused, may_eject=may_eject, full=full)
        self.failures += 1
        self.heard_at = self.failed_at = self.now
        enough = self.failures >= SETTINGS.failures_max and may_eject
        if was is State.UP and (refused or enough):
            self.state = State.DOWN
            self.ejected = not refused
        self.full = full

    @rule()
    def what_was_asked_before_the_last_outage_fails(self) -> None:
        if self.state is State.UP:
            before = self.health.state, self.health.probe_at()
            assert not self.health.on_failure(self.now, "old", refused=True, asked=-1.0)
            assert (self.health.state, self.health.probe_at()) == before

    @rule()
    def it_is_put_on_hold(self) -> None:
        self.health.hold()
        self.held = True

    @rule()
    def it_is_suspected(self) -> None:
        self.health.suspect()

    @invariant()
    def it_is_where_the_model_is(self) -> None:
        health = self.health
        assert health.state is self.state
        assert health.is_up == (self.state is State.UP)
        if self.state is State.UP:
            assert health.takes_work == (not self.held)
            self.ejected = self.full = False
        else:
            self.held = False  # Coming up ends it.
            assert not health.takes_work
            assert health.is_ejected == (self.state is State.DOWN and self.ejected)
            assert health.is_full == self.full

    @invariant()
    def it_is_asked_again_in_time(self) -> None:
        """Whatever has happened: nothing else would take it back."""
        most = SETTINGS.silent_s_max if self.state is State.UP else SETTINGS.probe_interval_s
        assert self.health.probe_at() <= self.heard_at + most
        if self.held:
            assert self.health.probe_at() <= self.heard_at + SETTINGS.probe_interval_s


class Permits(RuleBasedStateMachine):
    """The model: the permits that are open, by deployment."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.balancer = Balancer(random.Random(0))
        self.open: list[Permit] = []
        self.all: dict[str, Deployment] = {}
        self.came_up: dict[str, float] = {}
        self.ended: dict[str, float] = {}
        """When each ended a batch last."""
        self.spent_s: dict[str, float] = {}
        """What each has told of last."""

    @initialize(count=st.integers(1, 5), in_flight_max=st.sampled_from([1, 2, None]), known=st.booleans())
    def begin(self, count: int, in_flight_max: int | None, known: bool) -> None:
        for name in "abcde"[:count]:
            deployment = Deployment(name, Health(SETTINGS, self.now), in_flight_max=in_flight_max)
            self.all[name] = deployment
            self.balancer.add(deployment)
            self.comes_up(deployment)
            for items in (1, 2, 4, 8) if known else ():
                deployment.service.learn(Shape(1, items, items), True, 0.01 + 0.001 * items)

    def comes_up(self, deployment: Deployment) -> None:
        if deployment.health.on_probe_answer(self.now):
            deployment.restart(self.now)
            self.came_up[deployment.name] = self.now

    def one(self, data: st.DataObject) -> Deployment:
        return self.all[data.draw(st.sampled_from(sorted(self.all)))]

    @rule(passed_s=st.sampled_from([0.0, 0.001, 0.005, 0.05, 2.0, 100.0]))
    def time_passes(self, passed_s: float) -> None:
        self.now += passed_s

    @rule(items=st.integers(1, 32), tokens=st.integers(1, 512), full=st.booleans(), suspect=st.booleans())
    def a_batch_leaves(self, items: int, tokens: int, full: bool, suspect: bool) -> None:
        rooms = self.balancer.rooms(self.now, full)
        assert all(d.health.takes_work for d in rooms)
        for deployment in rooms:
            self.keeps_to_its_limit(deployment, full)
        able = [d for d in rooms if not (suspect and d.has_suspect)]
        if not able:
            return
        shape = Shape(1, items, items * tokens)
        picked = self.balancer.pick(able, shape, self.now, shape)
        if picked is None:
            return
        assert picked in able
        self.open.append(Permit(picked, shape, self.now, suspect=suspect))
        assert picked.has_suspect >= suspect

    def keeps_to_its_limit(self, deployment: Deployment, full: bool) -> None:
        """The last that was sent is done but for the way there, as far as can be known, or it is the only one
        and a full batch stands behind it. Just one goes to a server that is new, or not ours alone.
        """
        ours = [permit for permit in self.open if permit.deployment is deployment]
        assert len(ours) < deployment.in_flight_max
        if not ours:
            return
        if deployment.is_new:
            assert all(permit.sent < self.came_up[deployment.name] for permit in ours)
            return
        assert not deployment.sharing.is_shared
        if not (full and len(ours) == 1):
            last, latency_s = ours[-1], deployment.service.latency_s
            begun = min(last.sent, self.ended.get(deployment.name, math.inf) - latency_s)
            assert begun + last.work_s <= self.now + latency_s / 2 + 1e-6

    @precondition(lambda self: self.open)
    @rule(data=st.data(), tells=st.booleans())
    def a_batch_ends(self, data: st.DataObject, tells: bool) -> None:
        permit = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        if tells:
            permit.deployment.health.on_answer(self.now)
        permit.finish(self.now, tells=tells)
        self.ended[permit.deployment.name] = self.now
        with pytest.raises(AssertionError):
            permit.finish(self.now)

    @rule(data=st.data(), refused=st.booleans())
    def a_server_fails(self, data: st.DataObject, refused: bool) -> None:
        may_eject = self.balancer.may_eject()
        self.one(data).health.on_failure(self.now, "why", refused=refused, may_eject=may_eject)

    @rule(data=st.data())
    def a_server_is_put_on_hold(self, data: st.DataObject) -> None:
        self.one(data).health.hold()

    @rule(data=st.data())
    def a_probe_is_answered(self, data: st.DataObject) -> None:
        self.comes_up(self.one(data))

    @rule(data=st.data(), spent_s=st.one_of(st.just(0.0), st.floats(0, 10), st.floats(-1e6, 1e6)))
    def a_server_tells_of_others(self, data: st.DataObject, spent_s: float) -> None:
        deployment = self.one(data)
        told_s = max(0.0, self.spent_s.get(deployment.name, 0.0) + spent_s)
        self.spent_s[deployment.name] = told_s
        latency_s = deployment.service.latency_s
        deployment.on_sum(told_s, self.now)
        if deployment.service.latency_s != latency_s:  # by which it was known when it would be idle
            self.ended[deployment.name] = -math.inf
        self.balancer.settle()

    @invariant()
    def what_is_counted_is_what_is_open(self) -> None:
        for deployment in self.all.values():
            permits = [permit for permit in self.open if permit.deployment is deployment]
            assert deployment.batches == len(permits)
            assert deployment.items == sum(permit.shape.items for permit in permits)
            assert deployment.batches <= deployment.in_flight_max

    @invariant()
    def every_figure_is_one_that_can_be_used(self) -> None:
        shape = Shape(1, 8, 200)
        for deployment in self.all.values():
            assert 0 <= deployment.answer_s(shape, self.now) < math.inf
            assert 0 <= deployment.remaining_s(self.now) < math.inf
            assert 0 <= deployment.busy_ratio(self.now) <= 1
            assert deployment.room_at(self.now) > self.now
            assert 4 <= deployment.canary_s(10.0) <= 30
            assert deployment.breaker in BREAKER_STATES
            assert 1 <= deployment.limit <= deployment.in_flight_max
            assert not deployment.is_stalled(self.now) or deployment.batches

    @invariant()
    def errors_take_out_half_at_most(self) -> None:
        assert 2 * sum(d.health.is_ejected for d in self.all.values()) <= len(self.all)

    @invariant()
    def one_suspect_is_gone_when_its_batch_has_ended(self) -> None:
        for deployment in self.all.values():
            if not deployment.batches:
                assert not deployment.has_suspect


TestBreaker = Breaker.TestCase
TestPermits = Permits.TestCase
TestBreaker.settings = TestPermits.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
