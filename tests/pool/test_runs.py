"""Whole runs at random: calls, servers, failures of all kinds, and callers who leave."""

from collections import Counter

from hypothesis import given, settings

from tests.pool.runs import ITEMS_BOUND, PATIENT_S, RETRIES_MAX, Plan, plans, played, sends

PROPERTY = settings(deadline=None, derandomize=True, max_examples=40)


@PROPERTY
@given(plans())
def test_every_call_is_answered_and_every_item_sent_once(plan: Plan) -> None:
    """While nothing fails and nobody leaves."""
    seen = played(plan)

    if sum(caller.items for caller in plan.callers) <= ITEMS_BOUND:
        assert set(seen.outcomes) == {"answered"}
    assert set(sends(seen).values()) == {1}


@PROPERTY
@given(plans(leaving=True))
def test_callers_who_leave_or_time_out_harm_nobody(plan: Plan) -> None:
    """All others are answered, and nothing is sent twice."""
    seen = played(plan)

    for caller, result in zip(plan.callers, seen.outcomes, strict=True):
        if caller.within_s == PATIENT_S and caller.leaves_after_s is None:
            assert result in ("answered", "Overloaded")
    assert set(sends(seen).values()) <= {1}


@PROPERTY
@given(plans(failing=True))
def test_failures_end_calls_and_nothing_else(plan: Plan) -> None:
    """Every try of a batch is on another server, and there are not too many."""
    seen = played(plan)

    assert max(sends(seen).values()) <= 1 + RETRIES_MAX
    tried = Counter((item, batch.deployment) for batch in seen.upstream.batches for item in batch.items)
    assert set(tried.values()) == {1}


@PROPERTY
@given(plans(poison=True))
def test_rejected_inputs_fail_their_own_calls_and_no_other(plan: Plan) -> None:
    """Whatever they shared a batch with."""
    seen = played(plan)

    for caller, result in zip(plan.callers, seen.outcomes, strict=True):
        assert result in ("BadRequest" if caller.bad else "answered", "Overloaded")


@PROPERTY
@given(plans(changing=True, leaving=True, failing=True))
def test_every_call_ends_whatever_the_servers_and_the_callers_do(plan: Plan) -> None:
    """In time, with its own answers or with an error; and nothing is left behind."""
    played(plan)


@PROPERTY
@given(plans(changing=True, leaving=True, failing=True, poison=True))
def test_every_call_ends_whatever_its_neighbours_are(plan: Plan) -> None:
    """The same with inputs that are rejected."""
    played(plan)
