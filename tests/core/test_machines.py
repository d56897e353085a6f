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

    @initialize(count=st.integers(1, 5), in_flight_max=st.sampled_from([1, 2, None]))
    def begin(self, count: int, in_flight_max: int | None) -> None:
        for name in "abcde"[:count]:
            deployment = Deployment(name, Health(SETTINGS, self.now), in_flight_max=in_flight_max)
            self.all[name] = deployment
            self.balancer.add(deployment)
            self.comes_up(deployment)

    def comes_up(self, deployment: Deployment) -> None:
        if deployment.health.on_probe_answer(self.now):
            deployment.restart(self.now)

    def one(self, data: st.DataObject) -> Deployment:
        return self.all[data.draw(st.sampled_from(sorted(self.all)))]

    @rule(passed_s=st.sampled_from([0.0, 0.001, 0.05, 2.0, 100.0]))
    def time_passes(self, passed_s: float) -> None:
        self.now += passed_s

    @rule(items=st.integers(1, 32), tokens=st.integers(1, 512), full=st.booleans(), suspect=st.booleans())
    def a_batch_leaves(self, items: int, tokens: int, full: bool, suspect: bool) -> None:
        rooms = self.balancer.rooms(self.now, full)
        assert all(d.health.takes_work for d in rooms)
        able = [d for d in rooms if not (suspect and d.has_suspect)]
        if not able:
            return
        shape = Shape(1, items, items * tokens)
        deployment = self.balancer.pick(able, shape, self.now, shape)
        if deployment is None:
            return
        assert deployment in able
        assert deployment.batches < deployment.in_flight_max
        self.open.append(Permit(deployment, shape, self.now, suspect=suspect))
        assert deployment.has_suspect >= suspect

    @precondition(lambda self: self.open)
    @rule(data=st.data(), tells=st.booleans())
    def a_batch_ends(self, data: st.DataObject, tells: bool) -> None:
        permit = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        if tells:
            permit.deployment.health.on_answer(self.now)
        permit.finish(self.now, tells=tells)
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

    @rule(data=st.data(), spent_s=st.floats(0, 1e6))
    def a_server_tells_of_others(self, data: st.DataObject, spent_s: float) -> None:
        self.one(data).on_sum(spent_s, self.now)
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
