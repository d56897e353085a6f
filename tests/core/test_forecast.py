"""When a call would be answered, from sums over what waits and the speeds of the servers."""

import math

import pytest

from gateway.core.admission import Forecast
from gateway.core.backlog import Backlog
from gateway.core.balancer import Deployment, Permit
from gateway.core.fairness import BULK, INTERACTIVE
from gateway.core.health import Health
from gateway.core.service_time import Shape
from gateway.core.settings import AdmissionSettings, BatchingSettings, HealthSettings

FULL = Shape(1, 32, 32 * 10)
"""Of items of 10 tokens: what leaves all the time."""


def server(name: str, batch_s: float = 1.0) -> Deployment:
    """One that is known to do a FULL batch in that time."""
    deployment = new(name)
    for number in range(200):
        shape = Shape(1, 1 + number % 32, (1 + number % 32) * 10)
        Permit(deployment, shape, number * 1000.0).finish(
            number * 1000.0 + batch_s * shape.items / 32, tells=True
        )
    return deployment


def new(name: str) -> Deployment:
    deployment = Deployment(name, Health(HealthSettings(), 0.0))
    deployment.health.on_probe_answer(0.0)
    return deployment


def forecast(*servers: Deployment, backlog: Backlog | None = None) -> Forecast:
    subject = Forecast(AdmissionSettings(), BatchingSettings(), backlog or Backlog(), servers)
    for _ in range(100):
        subject.on_batch(FULL, 320)
    return subject


def expected(subject: Forecast, items: int, caller: str = "me", call_class: str = INTERACTIVE) -> float:
    return subject.answer_s(call_class, caller, items, items * 40, 0.0)


def waiting(**items: int) -> Backlog:
    """So many of each caller, interactive but for those whose name begins with `bulk`."""
    backlog = Backlog()
    for caller, count in items.items():
        account = backlog.account(BULK if caller.startswith("bulk") else INTERACTIVE, caller)
        account.add(count, 10 * count)
    return backlog


def test_what_waits_is_done_at_the_speed_of_all_servers_together() -> None:
    """Two do it in half the time, and a slow one helps as much as it can."""
    backlog = waiting(me=320)

    assert expected(forecast(server("a"), backlog=backlog), 0) == pytest.approx(10, rel=0.1)
    assert expected(forecast(server("a"), server("b"), backlog=backlog), 0) == pytest.approx(5, rel=0.1)
    slow = forecast(server("a"), server("b", 4.0), backlog=backlog)
    assert expected(slow, 0) == pytest.approx(8, rel=0.15)


def test_a_calls_own_items_count() -> None:
    """A large call takes longer."""
    subject = forecast(server("a"), backlog=waiting(me=32))

    assert expected(subject, 320) - expected(subject, 0) == pytest.approx(10, rel=0.1)


def test_of_unknown_servers_nothing_is_forecast() -> None:
    """And beside known ones they count as these do."""
    backlog = waiting(me=320)

    assert expected(forecast(new("a"), backlog=backlog), 10_000) == 0
    assert expected(forecast(backlog=backlog), 10_000) == 0
    assert expected(forecast(server("a"), new("b"), backlog=backlog), 0) == pytest.approx(5, rel=0.1)


def test_servers_that_get_no_work_do_none() -> None:
    """Whether they are down or on hold; what is known of one lasts over an outage."""
    backlog, a, b = waiting(me=320), server("a"), server("b", 3.0)
    subject = forecast(a, b, backlog=backlog)
    subject.answer_s(INTERACTIVE, "me", 0, 0, 0.0)
    a.health.on_failure(1.0, "gone", refused=True)
    b.health.on_failure(1.0, "gone", refused=True)
    b.health.on_probe_answer(2.0)
    b.restart(2.0)

    assert b.is_new
    assert subject.answer_s(INTERACTIVE, "me", 0, 0, 3.0) == pytest.approx(30, rel=0.15)
    b.health.hold()
    assert subject.answer_s(INTERACTIVE, "me", 0, 0, 4.0) == 0


def test_an_interactive_call_does_not_wait_for_all_bulk() -> None:
    """It has four fifths of the servers."""
    subject = forecast(server("a"), backlog=waiting(bulk=32_000, me=32))

    assert expected(subject, 0) == pytest.approx(1 / 0.8, rel=0.2)
    assert expected(subject, 1, "another") < 1
    assert expected(subject, 0, "bulk", BULK) > 900


def test_a_caller_who_asks_little_does_not_wait_for_those_who_ask_much() -> None:
    """They have equal parts."""
    subject = forecast(server("a"), backlog=waiting(flood=3200, me=16))

    assert expected(subject, 0) == pytest.approx(1, rel=0.2)
    assert expected(subject, 16, "new") == pytest.approx(1.5, rel=0.2)
    assert expected(subject, 0, "flood") > 90


def test_who_has_the_most_waits_for_twice_what_there_is_at_most() -> None:
    """The others do not have so much as their part would be."""
    callers = {f"caller{i}": 1 for i in range(100)}
    subject = forecast(server("a"), backlog=waiting(me=320, **callers))

    assert expected(subject, 0) == pytest.approx(2 * 420 / 32, rel=0.1)


def test_padding_costs_time() -> None:
    """As much as the batches that left had of it."""
    backlog = waiting(me=320)
    plain, padded = forecast(server("a"), backlog=backlog), forecast(server("a"), backlog=backlog)
    for _ in range(200):
        padded.on_batch(Shape(1, 32, 32 * 40), 320)

    assert expected(padded, 0) > 1.1 * expected(plain, 0)


def test_forecasts_that_were_too_good_get_worse_and_better_again() -> None:
    """Within bounds."""
    subject = forecast(server("a"), backlog=waiting(me=320))
    first = expected(subject, 0)
    subject.on_end(late=False)
    assert expected(subject, 0) == first

    for _ in range(1000):
        subject.on_end(late=True)
    assert expected(subject, 0) == pytest.approx(3 * first, rel=0.05)
    for _ in range(2000):
        subject.on_end(late=False)
    assert expected(subject, 0) == first


def test_which_calls_are_too_late_and_which_tell_how_good_forecasts_are() -> None:
    """By the share of its time that an answer would take."""
    subject = forecast(server("a"))

    assert [subject.is_too_late(s, 10.0) for s in (0, 7.9, 8.1)] == [False, False, True]
    assert [subject.is_doubtful(s, 10.0) for s in (0, 3.9, 4.1)] == [False, False, True]
    assert not subject.is_too_late(1e9, math.inf)
    assert not subject.is_too_late(1.0, -1.0)


def test_the_sums_are_those_of_what_waits() -> None:
    """A caller of whom nothing waits is forgotten."""
    backlog = waiting(me=2, other=1)
    in_class = backlog.classes[INTERACTIVE]

    assert (in_class.items, in_class.tokens, set(in_class.accounts)) == (3, 30, {"me", "other"})
    mine = backlog.account(INTERACTIVE, "me")
    mine.take(10)
    assert (mine.items, in_class.items, in_class.tokens) == (1, 2, 20)
    mine.take(10)
    assert (in_class.items, in_class.tokens, set(in_class.accounts)) == (1, 10, {"other"})
    assert backlog.account(INTERACTIVE, "unheard of").items == 0
    assert set(in_class.accounts) == {"other"}
