import gc
import random

import pytest

from gateway.core.fairness import BULK, INTERACTIVE
from gateway.core.lanes import Batch, Lane, Lanes
from gateway.errors import BadRequest
from tests.core.lanes import EMBED, content, give_up, image, rerank, ticket, watched, whole


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


def test_the_order_of_lanes_outlives_the_end_of_most_of_them() -> None:
    """Whoever is left is taken in order of arrival."""
    lanes = Lanes()
    calls = [ticket(lanes, key=rerank(str(i))) for i in range(500)]
    left = set(random.Random(0).sample(range(500), 40))
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


def test_lanes_that_are_empty_are_gone() -> None:
    """Each query makes a lane: they must not stay."""
    lanes = Lanes()
    for i in range(100):
        ticket(lanes, key=rerank(str(i)))
    assert len(lanes) == 100

    while lanes.take(32, now=0):
        pass

    assert len(lanes) == 0
    assert repr(lanes) == "<Lanes: 0 items in 0 lanes>"


@pytest.mark.parametrize("leaves_first", [True, False])
def test_what_has_ended_is_let_go_of_although_no_turn_comes(leaves_first: bool) -> None:
    """While every server is full, callers that come and leave take no memory."""
    lanes = Lanes()
    if leaves_first:
        ticket(lanes, ["waits"])
    refs = []
    for _ in range(20):
        texts, watching = watched(100)
        refs += watching
        for text in texts:
            give_up(ticket(lanes, [text]))
    if not leaves_first:
        ticket(lanes, ["waits"])

    del texts, text
    gc.collect()

    assert sum(ref() is not None for ref in refs) <= 2 * lanes.items + 64


def test_lanes_that_have_ended_are_let_go_of_although_no_turn_comes() -> None:
    """The same for callers whose calls each have a lane of their own."""
    lanes = Lanes()
    ticket(lanes, key=rerank("waits"))
    texts, refs = watched(2000)
    for i, text in enumerate(texts):
        give_up(ticket(lanes, [text], rerank(str(i))))

    del texts, text
    gc.collect()

    assert sum(ref() is not None for ref in refs) <= 2 * len(lanes) + 64
    assert sum(isinstance(held, Lane) for held in gc.get_objects()) <= 2 * len(lanes) + 64


def test_when_nothing_waits_no_text_is_held() -> None:
    """A pool whose servers are down does not look at its lanes for as long as that lasts."""
    lanes = Lanes()
    texts, refs = watched(100)
    calls = [ticket(lanes, [text], rerank(str(i % 10))) for i, text in enumerate(texts)]
    for call in calls:
        give_up(call)

    del texts, calls, call
    gc.collect()

    assert lanes.items == 0
    assert not [ref for ref in refs if ref() is not None]


# Sets of parameters


def test_only_so_many_sets_of_parameters_may_wait() -> None:
    """Each set makes batches of its own: a caller who varies them would undo batching for all."""
    lanes = Lanes(param_sets_max=2)
    ticket(lanes, key=EMBED._replace(params=b"1"))
    ticket(lanes, key=EMBED._replace(params=b"2"))

    with pytest.raises(BadRequest, match="2 different sets"):
        ticket(lanes, key=EMBED._replace(params=b"3"))

    assert lanes.items == 2
    assert len(lanes) == 2


def test_a_set_of_parameters_that_waits_already_is_always_taken() -> None:
    """With any query, and for any task; and so is a call without any."""
    lanes = Lanes(param_sets_max=1)
    ticket(lanes, key=rerank("q", b"1"))

    ticket(lanes, key=rerank("r", b"1"))
    ticket(lanes, key=EMBED._replace(params=b"1"))
    ticket(lanes, key=image(1, b"1"))
    ticket(lanes, key=EMBED)

    assert len(lanes) == 5


def test_a_set_of_parameters_makes_room_when_the_last_of_it_is_gone() -> None:
    """Whether it was taken or has ended."""
    lanes = Lanes(param_sets_max=1)
    ended, taken = ticket(lanes, key=rerank("q", b"1")), ticket(lanes, key=rerank("r", b"1"))

    give_up(ended)
    with pytest.raises(BadRequest):
        ticket(lanes, key=EMBED._replace(params=b"2"))
    assert content(lanes.take(32, now=0)) == whole(taken)
    ticket(lanes, key=EMBED._replace(params=b"2"))

    assert len(lanes) == 1


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


# Batches


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
