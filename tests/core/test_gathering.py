"""Who waits a moment for company, and for how long."""

import random

import pytest

from gateway.core.gathering import Gathering

MOMENT_S = 0.001
APART_S = 0.0002


def group(subject: Gathering, at: float, calls: int) -> list[bool]:
    """So many calls come to an idle pool, one shortly after the other; whether each has to wait."""
    waits = []
    for number in range(calls):
        now = at + number * APART_S
        subject.on_call(now, idle=number == 0)
        waits.append(subject.until(now) > now)
    return waits


def test_who_always_comes_alone_never_waits() -> None:
    subject = Gathering()

    assert not any(wait for at in range(100) for wait in group(subject, at, 1))


@pytest.mark.parametrize("calls", [2, 3, 5])
def test_those_who_come_together_again_and_again_wait_for_the_last(calls: int) -> None:
    subject = Gathering()
    for at in range(20):
        group(subject, at, calls)

    assert group(subject, 20, calls) == [True] * (calls - 1) + [False]


def test_nobody_waits_longer_than_a_moment_for_those_who_do_not_come() -> None:
    subject = Gathering()
    for at in range(20):
        group(subject, at, 4)
    subject.on_call(20.0, idle=True)

    until = subject.until(20.0)

    assert 20.0 < until <= 20.0 + MOMENT_S
    assert subject.until(until) <= until


def test_company_that_stays_away_is_not_waited_for_any_more() -> None:
    subject = Gathering()
    for at in range(20):
        group(subject, at, 4)

    waited = [group(subject, at, 1) for at in range(20, 40)]

    assert waited[0] == [True]
    assert [False] in waited[:12]
    assert [True] not in waited[12:]


@pytest.mark.parametrize("rate", [10, 50, 200])
def test_who_comes_by_chance_is_not_waited_for(rate: int) -> None:
    """Each call to a pool that is idle again: some come within a moment of another all the same."""
    rng, subject, now, waited = random.Random(rate), Gathering(), 0.0, 0
    for _ in range(5000):
        now += rng.expovariate(rate)
        subject.on_call(now, idle=True)
        waited += subject.until(now) > now

    assert waited <= 0.05 * 5000


def test_what_comes_while_a_batch_is_under_way_is_no_company() -> None:
    """It has been waiting for the server in any case."""
    subject = Gathering()
    for at in range(20):
        group(subject, at, 1)
        for late in range(10):
            subject.on_call(at + 0.01 + late * APART_S, idle=False)

    assert group(subject, 20, 1) == [False]


def test_who_is_quick_to_ask_again_is_no_company() -> None:
    """Two by turns at a server that needs no time: each is counted until the first answer, not again."""
    subject = Gathering()
    for turn in range(200):
        at = turn * 0.00025
        subject.on_call(at, idle=True)
        assert subject.until(at) <= at
        subject.on_answer()
        subject.on_call(at + 0.0001, idle=False)
