import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.retry import FREE, Failure, RetryBudget
from gateway.core.settings import RetrySettings

AMPLE = RetrySettings(retries_max=2, budget_ratio=0, budget_per_s=1000, budget_window_s=10)


@pytest.mark.parametrize("failure", [Failure.TIMEOUT, Failure.REJECTED])
def test_slowness_and_bad_input_are_never_tried_again(failure: Failure) -> None:
    """A server works on after a timeout, and a bad input is bad everywhere."""
    assert not RetryBudget(AMPLE).allows(failure, 1, now=0)


@pytest.mark.parametrize("failure", sorted(set(Failure) - {Failure.TIMEOUT, Failure.REJECTED}))
def test_other_failures_are_tried_again(failure: Failure) -> None:
    """Another server may do better."""
    assert RetryBudget(AMPLE).allows(failure, 1, now=0)


@pytest.mark.parametrize(
    ("failure", "allowed"),
    [(Failure.DISCONNECTED, [True, True, False, False]), (Failure.REFUSED, [True, True, True, True])],
)
def test_a_batch_is_retried_at_most_so_often(failure: Failure, allowed: list[bool]) -> None:
    """A batch that kills servers must not walk through all of them; one that nobody has seen, kills none."""
    budget = RetryBudget(AMPLE)

    assert [budget.allows(failure, tries, now=0) for tries in (1, 2, 3, 4)] == allowed


def test_with_no_retries_nothing_is_tried_again() -> None:
    """`num_retries: 0` means it."""
    budget = RetryBudget(RetrySettings(retries_max=0))

    assert not budget.allows(Failure.REFUSED, 1, now=0)


def test_all_retries_share_the_budget_of_a_window() -> None:
    """So many a second, whatever the batches."""
    budget = RetryBudget(RetrySettings(budget_ratio=0, budget_per_s=1, budget_window_s=10))

    allowed = [budget.allows(Failure.SERVER_ERROR, 1, now=i / 100) for i in range(100)]

    assert sum(allowed) == 10
    assert all(allowed[:10])


def test_retries_may_be_a_share_of_the_batches() -> None:
    """20 % of a hundred batches are twenty."""
    budget = RetryBudget(RetrySettings(budget_ratio=0.2, budget_per_s=0, budget_window_s=10))
    for i in range(100):
        budget.on_batch(i / 100)

    assert sum(budget.allows(Failure.SERVER_ERROR, 1, now=1) for _ in range(100)) == 20


def test_the_budget_comes_back_as_the_window_moves_on() -> None:
    """Retries of long ago are forgotten."""
    budget = RetryBudget(RetrySettings(budget_ratio=0, budget_per_s=0.1, budget_window_s=10))
    assert budget.allows(Failure.SERVER_ERROR, 1, now=0)
    assert not budget.allows(Failure.SERVER_ERROR, 1, now=10)

    assert budget.allows(Failure.SERVER_ERROR, 1, now=10.1)


def test_batches_of_long_ago_earn_no_retries() -> None:
    """A quiet hour after a busy one has the budget of a quiet hour."""
    budget = RetryBudget(RetrySettings(budget_ratio=0.5, budget_per_s=0, budget_window_s=10))
    for _ in range(100):
        budget.on_batch(0)

    assert not budget.allows(Failure.SERVER_ERROR, 1, now=11)


def test_what_no_server_has_seen_costs_nothing_from_the_budget() -> None:
    """A refused connection is no work for anybody."""
    budget = RetryBudget(RetrySettings(budget_ratio=0, budget_per_s=0.1, budget_window_s=10))

    assert all(budget.allows(failure, 1, now=0) for failure in FREE for _ in range(100))
    assert budget.allows(Failure.SERVER_ERROR, 1, now=0)


def test_a_retry_that_may_not_be_takes_nothing_from_the_budget() -> None:
    """Only what is really sent again counts."""
    budget = RetryBudget(RetrySettings(retries_max=2, budget_ratio=0, budget_per_s=0.1, budget_window_s=10))

    assert not budget.allows(Failure.TIMEOUT, 1, now=0)
    assert not budget.allows(Failure.SERVER_ERROR, 3, now=0)

    assert budget.allows(Failure.SERVER_ERROR, 1, now=0)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.lists(st.tuples(st.floats(0, 2), st.booleans()), max_size=120))
def test_no_window_has_more_retries_than_its_budget(steps: list[tuple[float, bool]]) -> None:
    """At every moment: retries of the last seconds ≤ share of the batches of the last seconds + some."""
    budget = RetryBudget(RetrySettings(budget_ratio=0.5, budget_per_s=0.2, budget_window_s=5))
    now = 0.0
    batches: list[float] = []
    retries: list[float] = []

    for pause, is_batch in steps:
        now += pause
        recent = [at for at in batches if at >= now - 5]
        spent = [at for at in retries if at >= now - 5]
        if is_batch:
            budget.on_batch(now)
            batches.append(now)
        elif budget.allows(Failure.DISCONNECTED, 1, now):
            retries.append(now)
            assert len(spent) < 0.5 * len(recent) + 1
        else:
            assert len(spent) >= 0.5 * len(recent) + 1
