"""Entries that have left together."""

from gateway.core.lanes import Batch, Lanes
from tests.core.lanes import content, give_up, ticket, whole


def test_a_batch_lists_its_calls_once_and_in_order() -> None:
    """A call with many items is still one caller."""
    lanes = Lanes()
    calls = [ticket(lanes, 3) for _ in range(4)]

    batch = lanes.take(32, now=0)

    assert batch is not None
    assert batch.tickets() == calls
    assert len(batch) == 12


def test_a_batch_is_halved_between_calls() -> None:
    """A call is answered or fails as a whole, so it is not cut."""
    lanes = Lanes()
    calls = [ticket(lanes, items) for items in (5, 1, 1, 4, 2)]
    batch = lanes.take(32, now=0)
    assert batch is not None
    batch.avoid = ("a",)

    left, right = batch.halves()

    assert content(left) == whole(*calls[:2])
    assert content(right) == whole(*calls[2:])
    assert left.key == right.key == batch.key
    assert left.avoid == right.avoid == ("a",)


def test_the_halves_of_a_batch_have_been_tried_as_often_as_it_was() -> None:
    """Being divided does not earn a batch more retries."""
    lanes = Lanes()
    ticket(lanes), ticket(lanes)
    batch = lanes.take(32, now=0)
    assert batch is not None
    batch.tries = 2

    assert [half.tries for half in batch.halves()] == [2, 2]


def test_a_batch_leaves_out_what_has_ended() -> None:
    """What nobody waits for is not sent again."""
    lanes = Lanes()
    calls = [ticket(lanes, 2) for _ in range(3)]
    batch = lanes.take(32, now=0)
    assert batch is not None

    give_up(calls[1])
    batch.drop_ended()

    assert content(batch) == whole(calls[0], calls[2])


def test_a_batch_may_be_left_with_nothing() -> None:
    """Then there is nothing to send."""
    lanes = Lanes()
    call = ticket(lanes)
    batch = lanes.take(32, now=0)
    assert batch is not None

    give_up(call)
    batch.drop_ended()

    assert len(batch) == 0
    assert Batch.tickets(batch) == []
