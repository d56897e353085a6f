"""What waits, and which of it leaves next."""

import random

import pytest

from gateway.core.fairness import BULK, INTERACTIVE
from gateway.core.lanes import Lanes
from tests.core.lanes import EMBED, content, give_up, image, rerank, ticket, whole


def test_nothing_waits_at_first() -> None:
    """There is no batch to take, and no time at which there will be one."""
    lanes = Lanes()

    assert lanes.take(32, now=0) is None
    assert lanes.ripe_at() is None
    assert lanes.items == 0
    assert lanes.queued == {INTERACTIVE: 0, BULK: 0}


def test_calls_with_equal_keys_share_a_batch_in_order_of_arrival() -> None:
    """That is what a batch is for."""
    lanes = Lanes()
    calls = [ticket(lanes, 2) for _ in range(3)]

    assert content(lanes.take(32, now=0)) == whole(*calls)
    assert lanes.take(32, now=0) is None


def test_calls_with_different_keys_never_share_a_batch() -> None:
    """Each query, each set of parameters and each task has batches of its own."""
    lanes = Lanes()
    keys = [EMBED, EMBED._replace(params=b'{"a":1}'), rerank("q"), rerank("r"), rerank("q", b'{"a":1}')]
    calls = [ticket(lanes, key=key) for key in keys]

    batches = [lanes.take(32, now=0) for _ in keys]

    assert [content(batch) for batch in batches] == [whole(call) for call in calls]
    assert [batch.key for batch in batches if batch] == keys


def test_the_lane_whose_head_arrived_first_goes_first() -> None:
    """A lane that was opened early does not go first for ever."""
    lanes = Lanes()
    first = ticket(lanes, 2, EMBED)
    second = ticket(lanes, 1, rerank("q"))
    third = ticket(lanes, 2, EMBED)

    assert content(lanes.take(2, now=0)) == whole(first)
    assert content(lanes.take(2, now=0)) == whole(second)
    assert content(lanes.take(2, now=0)) == whole(third)


def test_a_call_that_is_partly_taken_keeps_its_place() -> None:
    """Its rest is still the oldest that waits."""
    lanes = Lanes()
    large = ticket(lanes, 5)
    ticket(lanes, 1, rerank("q"))

    assert content(lanes.take(2, now=0)) == whole(large)[:2]
    assert content(lanes.take(2, now=0)) == whole(large)[2:4]


def test_a_lane_gives_up_its_turn_when_its_head_ends() -> None:
    """The turn belongs to the call and not to the lane."""
    lanes = Lanes()
    first = ticket(lanes, key=EMBED)
    second = ticket(lanes, key=rerank("q"))
    third = ticket(lanes, key=EMBED)

    give_up(first)

    assert content(lanes.take(32, now=0)) == whole(second)
    assert content(lanes.take(32, now=0)) == whole(third)


def test_a_lane_that_was_empty_has_the_turn_of_its_new_head() -> None:
    """A key that was used before has no older turn than one that was not."""
    lanes = Lanes()
    give_up(ticket(lanes, key=EMBED))
    second = ticket(lanes, key=rerank("q"))
    third = ticket(lanes, key=EMBED)

    assert content(lanes.take(32, now=0)) == whole(second)
    assert content(lanes.take(32, now=0)) == whole(third)


@pytest.mark.parametrize("staying", [5, 40, 100, 200])
def test_the_order_of_lanes_outlives_the_end_of_most_of_them(staying: int) -> None:
    """Whoever is left is taken in order of arrival."""
    lanes = Lanes()
    calls = [ticket(lanes, key=rerank(str(i))) for i in range(500)]
    left = set(random.Random(0).sample(range(500), staying))
    for i, call in enumerate(calls):
        if i not in left:
            give_up(call)

    taken = [content(lanes.take(32, now=0)) for _ in left]

    assert taken == [whole(calls[i]) for i in sorted(left)]


@pytest.mark.parametrize(("share", "items_max", "expected"), [(3, 32, 3), (100, 4, 4), (1, 1, 1)])
def test_a_batch_is_no_larger_than_the_share_and_the_limit(share: int, items_max: int, expected: int) -> None:
    """A large call spreads over several batches."""
    lanes = Lanes(items_max=items_max)
    ticket(lanes, 10)

    batch = lanes.take(share, now=0)

    assert batch is not None
    assert len(batch) == expected


def test_a_call_that_stands_alone_goes_whole_and_unshared() -> None:
    """An image call is neither merged nor divided, whatever the share."""
    lanes = Lanes(items_max=4)
    calls = [ticket(lanes, 10, image(number)) for number in (1, 2, 3)]

    assert [content(lanes.take(1, now=0)) for _ in calls] == [whole(call) for call in calls]


def test_what_has_ended_is_not_taken() -> None:
    """Its caller has gone, and its neighbours move up."""
    lanes = Lanes()
    first, second, third = (ticket(lanes, 3) for _ in range(3))

    give_up(second)

    assert lanes.items == 6
    assert content(lanes.take(4, now=0)) == [*whole(first), (third, 0)]


def test_what_has_ended_in_part_is_not_taken_further() -> None:
    """Its second batch would be wasted."""
    lanes = Lanes()
    large, next_one = ticket(lanes, 5), ticket(lanes, 1)
    lanes.take(2, now=0)

    give_up(large)

    assert lanes.items == 1
    assert content(lanes.take(32, now=0)) == whole(next_one)


def test_items_are_counted_by_the_class_of_their_call() -> None:
    """More than eight items are bulk, and stay so while they leave."""
    lanes = Lanes()
    large = ticket(lanes, 10)
    ticket(lanes, 3)
    assert lanes.queued == {INTERACTIVE: 3, BULK: 10}

    lanes.take(4, now=0)
    assert lanes.queued == {INTERACTIVE: 3, BULK: 6}

    give_up(large)
    assert lanes.queued == {INTERACTIVE: 3, BULK: 0}


def test_a_ticket_knows_what_of_it_waits_and_when_it_left() -> None:
    """The wait of a call ends when its last item leaves."""
    lanes = Lanes()
    call = ticket(lanes, 3, arrived=1.0)
    assert (call.queued, call.left) == (3, 1.0)

    lanes.take(2, now=5.0)
    assert (call.queued, call.left) == (1, 5.0)

    lanes.take(2, now=7.0)
    assert (call.queued, call.left) == (0, 7.0)


# Waiting for company


def test_with_a_wait_nothing_leaves_before_the_oldest_has_waited() -> None:
    """`ripe_at` says when to ask again."""
    lanes = Lanes(wait_s_max=2.0)
    calls = [ticket(lanes, arrived=10.0), ticket(lanes, arrived=11.0)]

    assert lanes.take(32, now=11.9) is None
    assert lanes.ripe_at() == 12.0
    assert content(lanes.take(32, now=12.0)) == whole(*calls)


def test_a_full_batch_does_not_wait() -> None:
    """It cannot get any better company; what is left over goes on waiting."""
    lanes = Lanes(items_max=4, wait_s_max=2.0)
    ticket(lanes, 1, rerank("q"), arrived=10.0)
    large = ticket(lanes, 5, EMBED, arrived=10.5)

    assert content(lanes.take(32, now=11.0)) == whole(large)[:4]
    assert lanes.take(32, now=11.0) is None
    assert lanes.ripe_at() == 12.0


def test_what_has_waited_goes_before_what_is_full() -> None:
    """A stream of full batches must not starve a single item."""
    lanes = Lanes(items_max=4, wait_s_max=2.0)
    lonely = ticket(lanes, 1, rerank("q"), arrived=10.0)
    ticket(lanes, 5, EMBED, arrived=10.5)

    assert content(lanes.take(32, now=12.0)) == whole(lonely)


def test_a_call_that_stands_alone_does_not_wait_for_company() -> None:
    """None can come."""
    lanes = Lanes(wait_s_max=2.0)
    call = ticket(lanes, 1, image(1), arrived=10.0)

    batch = lanes.take(32, now=10.0)

    assert batch is not None
    assert content(batch) == whole(call)
