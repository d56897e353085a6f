import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.admission import Admission
from gateway.core.settings import AdmissionSettings
from gateway.errors import Overloaded


def admission(items_max: int = 10, bytes_max: int = 100) -> Admission:
    return Admission(AdmissionSettings(queued_items_max=items_max, queued_bytes_max=bytes_max))


def test_admits_up_to_the_bounds() -> None:
    """The last item and the last byte that fit are taken."""
    subject = admission(items_max=10, bytes_max=100)

    subject.admit(4, 40)
    subject.admit(6, 60)

    assert (subject.held_items, subject.held_bytes) == (10, 100)


@pytest.mark.parametrize(("items", "size"), [(2, 0), (1, 11), (100, 1000)])
def test_a_call_that_passes_a_bound_is_refused_and_counts_nothing(items: int, size: int) -> None:
    """A refused call holds nothing, so it is never released."""
    subject = admission(items_max=10, bytes_max=100)
    subject.admit(9, 90)

    with pytest.raises(Overloaded):
        subject.admit(items, size)

    assert (subject.held_items, subject.held_bytes) == (9, 90)


def test_what_was_released_can_be_admitted_again() -> None:
    """The bounds are on what is held, not on what ever came."""
    subject = admission(items_max=2, bytes_max=2)

    for _ in range(10):
        subject.admit(2, 2)
        subject.release(2, 2)

    assert (subject.held_items, subject.held_bytes) == (0, 0)


@pytest.mark.parametrize(("items", "size"), [(3, 1), (1, 3)])
def test_releasing_more_than_is_held_is_an_error(items: int, size: int) -> None:
    """A call that is released twice would let in more than the bounds."""
    subject = admission()
    subject.admit(2, 2)

    with pytest.raises(AssertionError):
        subject.release(items, size)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.lists(st.tuples(st.integers(1, 8), st.integers(0, 60), st.booleans()), max_size=40))
def test_what_is_held_is_what_was_admitted_and_not_released(calls: list[tuple[int, int, bool]]) -> None:
    """Whatever comes and goes, the counts are exact and within the bounds."""
    subject = admission(items_max=20, bytes_max=150)
    held: list[tuple[int, int]] = []

    for items, size, ends_one in calls:
        if ends_one and held:
            subject.release(*held.pop(0))
        try:
            subject.admit(items, size)
        except Overloaded:
            assert sum(i for i, _ in held) + items > 20 or sum(s for _, s in held) + size > 150
        else:
            held.append((items, size))

        assert subject.held_items == sum(i for i, _ in held) <= 20
        assert subject.held_bytes == sum(s for _, s in held) <= 150
