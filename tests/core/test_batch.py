"""Entries that have left together."""

from gateway.core.lanes import Lanes
from gateway.core.service_time import Shape
from tests.core.lanes import content, give_up, requeue, rerank, taken, ticket, whole


def test_a_batch_lists_its_calls_once_and_in_order() -> None:
    """A call with many items is still one caller."""
    lanes = Lanes()
    calls = [ticket(lanes, 3) for _ in range(4)]

    batch = taken(lanes)

    assert batch.tickets() == calls
    assert len(batch) == 12


def test_a_batch_is_halved_between_calls() -> None:
    """A call is answered or fails as a whole, so it is not cut."""
    lanes = Lanes()
    calls = [ticket(lanes, items) for items in (5, 1, 1, 4, 2)]
    batch = taken(lanes)
    batch.avoid = ("a",)

    left, right = batch.halves()

    assert content(left) == whole(*calls[:2])
    assert content(right) == whole(*calls[2:])
    assert left.avoid == right.avoid == ("a",)


def test_the_halves_of_a_batch_have_been_tried_as_often_as_it_was() -> None:
    """Being divided does not earn a batch more retries."""
    lanes = Lanes()
    ticket(lanes), ticket(lanes)
    batch = taken(lanes)
    batch.tries = 2

    assert [half.tries for half in batch.halves()] == [2, 2]


def test_a_batch_leaves_out_what_has_ended() -> None:
    """What nobody waits for is not sent again."""
    lanes = Lanes()
    calls = [ticket(lanes, 2) for _ in range(3)]
    batch = taken(lanes)

    give_up(calls[1])
    batch.drop_ended()

    assert content(batch) == whole(calls[0], calls[2])


def test_a_batch_may_be_left_with_nothing() -> None:
    """Then there is nothing to send."""
    lanes = Lanes()
    call = ticket(lanes)
    batch = taken(lanes)

    give_up(call)
    batch.drop_ended()

    assert len(batch) == 0
    assert batch.tickets() == []


def test_a_call_shared_with_another_is_halved_all_the_same() -> None:
    """Each item stands in one half, with all who ask for it."""
    lanes = Lanes()
    first = ticket(lanes, ["x", "y", "z"])
    second = ticket(lanes, ["z", "y"])
    batch = taken(lanes)

    left, right = batch.halves()

    assert sorted(entry.text for entry in left.entries + right.entries) == ["x", "y", "z"]
    assert len(left) >= 1
    assert len(right) >= 1
    assert set(content(left) + content(right)) == set(whole(first, second))


def test_an_item_stays_in_its_batch_while_anybody_waits_for_it() -> None:
    """Also one who joined it under way, though all who were there when it was sent have gone."""
    lanes = Lanes()
    gone = ticket(lanes, ["x", "y"])
    batch = taken(lanes)
    ticket(lanes, ["x"])

    give_up(gone)
    batch.drop_ended()

    assert [entry.text for entry in batch.entries] == ["x"]


def test_an_item_that_was_left_out_is_asked_for_anew() -> None:
    """Who joins it would wait for an answer that never comes."""
    lanes = Lanes()
    gone = ticket(lanes, ["x"])
    batch = taken(lanes)
    give_up(gone)
    batch.drop_ended()

    later = ticket(lanes, ["x"])

    assert content(taken(lanes)) == whole(later)


def test_what_comes_too_late_for_everybody_is_taken_out() -> None:
    """And what comes in time for one of those who ask is not."""
    lanes = Lanes()
    ticket(lanes, ["late"], deadline=4)
    ticket(lanes, ["shared", "in time"], deadline=8)
    ticket(lanes, ["shared"], deadline=4)
    batch = taken(lanes)

    assert [entry.text for entry in batch.drop_hopeless(answered_at=5)] == ["late"]
    assert sorted(entry.text for entry in batch.entries) == ["in time", "shared"]


def test_the_shape_of_a_batch_is_what_its_time_depends_on() -> None:
    """Its requests, its items, and what they are padded to."""
    lanes = Lanes()
    ticket(lanes, ["x" * 40, "y" * 44])

    assert taken(lanes).shape() == Shape(1, 2, 2 * 13)


def test_each_query_is_padded_for_itself() -> None:
    """It is a request of its own."""
    lanes = Lanes()
    ticket(lanes, ["x" * 40, "y" * 40], rerank("q"))
    ticket(lanes, ["z" * 400], rerank("r"))

    assert taken(lanes).shape() == Shape(2, 3, 2 * (12 + 2) + (102 + 2))


# Who joined under way, and whose batch timed out


def test_who_joined_an_item_under_way_waits_anew_when_it_times_out() -> None:
    """He has not had his time; those who were there when it was sent have."""
    lanes = Lanes()
    early = ticket(lanes, ["x"])
    batch = taken(lanes)
    late = [ticket(lanes, ["x"]), ticket(lanes, ["y", "x"])]

    requeue(lanes, batch.entries[0])

    assert early.error is not None
    assert (lanes.waiting, lanes.items) == (2, 3)
    assert [call.queued for call in late] == [1, 2]
    again = taken(lanes)
    assert set(content(again)) == set(whole(*late))
    assert early not in again.tickets()
    assert (lanes.waiting, lanes.items) == (0, 0)


def test_who_waits_anew_joins_whoever_asks_already() -> None:
    """There are never two of one item."""
    lanes = Lanes()
    ticket(lanes, ["x"])
    batch = taken(lanes)
    late = ticket(lanes, ["x"])
    entry = batch.entries[0]
    del entry.claims[entry.early :]
    entry.done()
    newer = ticket(lanes, ["x"])

    lanes.again(entry, [(late, 0)])

    assert (lanes.waiting, lanes.items) == (1, 2)
    assert content(taken(lanes)) == whole(newer, late)


def test_who_waits_anew_and_leaves_is_not_sent() -> None:
    """As anybody."""
    lanes = Lanes()
    ticket(lanes, ["x"])
    batch = taken(lanes)
    late = ticket(lanes, ["x"])
    requeue(lanes, batch.entries[0])

    give_up(late)

    assert (lanes.waiting, lanes.items, len(lanes)) == (0, 0, 0)
