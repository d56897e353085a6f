"""What waits, and which of it leaves next."""

import random

import pytest

from gateway.core.fairness import BULK, INTERACTIVE
from gateway.core.lanes import Lanes, Ticket
from gateway.core.packing import CLASS_OF, LONGEST
from gateway.errors import ServerFailed
from gateway.messages import Task
from tests.core.lanes import EMBED, content, give_up, image, rerank, take, taken, texts, ticket, whole

CLASSIFY = EMBED._replace(task=Task.CLASSIFY)


def test_nothing_waits_at_first() -> None:
    """There is no batch to take, and no time at which there will be one."""
    lanes = Lanes()

    assert take(lanes) is None
    assert lanes.ripe_at() is None
    assert lanes.items == lanes.waiting == 0
    assert lanes.queued == {INTERACTIVE: 0, BULK: 0}


def test_calls_with_equal_keys_share_a_batch() -> None:
    """That is what a batch is for. Of equal length they leave in order of arrival."""
    lanes = Lanes()
    calls = [ticket(lanes, 2) for _ in range(3)]

    assert content(take(lanes)) == whole(*calls)
    assert take(lanes) is None


def test_calls_with_different_keys_never_share_a_request() -> None:
    """Each set of parameters and each task has batches of its own."""
    lanes = Lanes()
    keys = [EMBED, EMBED._replace(params=b'{"a":1}'), rerank("q"), CLASSIFY, rerank("q", b'{"a":1}')]
    calls = [ticket(lanes, key=key) for key in keys]

    batches = [taken(lanes) for _ in keys]

    assert [content(batch) for batch in batches] == [whole(call) for call in calls]
    assert [[key for key, _ in batch.requests()] for batch in batches] == [[key] for key in keys]


def test_the_lane_whose_head_arrived_first_goes_first() -> None:
    """A lane that was opened early does not go first for ever."""
    lanes = Lanes()
    first = ticket(lanes, 2, EMBED)
    second = ticket(lanes, 1, rerank("q"))
    third = ticket(lanes, 2, EMBED)

    assert content(take(lanes, 2)) == whole(first)
    assert content(take(lanes, 2)) == whole(second)
    assert content(take(lanes, 2)) == whole(third)


def test_a_call_that_is_partly_taken_keeps_its_place() -> None:
    """Its rest is still the oldest that waits."""
    lanes = Lanes()
    large = ticket(lanes, 5)
    ticket(lanes, 1, rerank("q"))

    assert content(take(lanes, 2)) == whole(large)[:2]
    assert content(take(lanes, 2)) == whole(large)[2:4]


def test_a_lane_gives_up_its_turn_when_its_head_ends() -> None:
    """The turn belongs to the call and not to the lane."""
    lanes = Lanes()
    first = ticket(lanes, key=EMBED)
    second = ticket(lanes, key=CLASSIFY)
    third = ticket(lanes, key=EMBED)

    give_up(first)

    assert content(take(lanes)) == whole(second)
    assert content(take(lanes)) == whole(third)


def test_a_lane_that_was_empty_has_the_turn_of_its_new_head() -> None:
    """A key that was used before has no older turn than one that was not."""
    lanes = Lanes()
    give_up(ticket(lanes, key=EMBED))
    second = ticket(lanes, key=CLASSIFY)
    third = ticket(lanes, key=EMBED)

    assert content(take(lanes)) == whole(second)
    assert content(take(lanes)) == whole(third)


@pytest.mark.parametrize("staying", [5, 40, 100, 200])
def test_the_order_of_lanes_outlives_the_end_of_most_of_them(staying: int) -> None:
    """Whoever is left is taken in order of arrival."""
    lanes = Lanes()
    calls = [ticket(lanes, key=rerank(str(i))) for i in range(500)]
    left = set(random.Random(0).sample(range(500), staying))
    for i, call in enumerate(calls):
        if i not in left:
            give_up(call)

    order = [content(take(lanes, 1)) for _ in left]

    assert order == [whole(calls[i]) for i in sorted(left)]


@pytest.mark.parametrize(("share", "items_max", "expected"), [(3, 32, 3), (100, 4, 4), (1, 1, 1), (0, 4, 1)])
def test_a_batch_is_no_larger_than_the_share_and_the_limit(share: int, items_max: int, expected: int) -> None:
    """A large call spreads over several batches."""
    lanes = Lanes(items_max=items_max)
    ticket(lanes, 10)

    assert len(taken(lanes, share)) == expected


def test_a_call_that_stands_alone_goes_whole_and_unshared() -> None:
    """An image call is neither merged nor divided, whatever the share."""
    lanes = Lanes(items_max=4)
    calls = [ticket(lanes, 10, image(number)) for number in (1, 2, 3)]

    assert [content(take(lanes, 1)) for _ in calls] == [whole(call) for call in calls]


def test_what_has_ended_is_not_taken() -> None:
    """Its caller has gone, and its neighbours move up."""
    lanes = Lanes()
    first, second, third = (ticket(lanes, 3) for _ in range(3))

    give_up(second)

    assert lanes.items == lanes.waiting == 6
    assert content(take(lanes, 4)) == [*whole(first), (third, 0)]


def test_what_has_ended_in_part_is_not_taken_further() -> None:
    """Its second batch would be wasted."""
    lanes = Lanes()
    large, next_one = ticket(lanes, 5), ticket(lanes, 1)
    take(lanes, 2)

    give_up(large)

    assert lanes.items == lanes.waiting == 1
    assert content(take(lanes)) == whole(next_one)


def test_items_are_counted_by_the_class_of_their_call() -> None:
    """More than eight items are bulk, and stay so while they leave."""
    lanes = Lanes()
    large = ticket(lanes, 10)
    small = ticket(lanes, 3)
    assert lanes.queued == {INTERACTIVE: 3, BULK: 10}

    left = content(take(lanes, 4))
    assert lanes.queued == {
        INTERACTIVE: 3 - sum(call is small for call, _ in left),
        BULK: 10 - sum(call is large for call, _ in left),
    }

    give_up(small)
    assert lanes.queued[INTERACTIVE] == 0

    give_up(large)
    assert lanes.queued == {INTERACTIVE: 0, BULK: 0}


def test_a_ticket_knows_what_of_it_waits_and_when_it_left() -> None:
    """The wait of a call ends when its last item leaves."""
    lanes = Lanes()
    call = ticket(lanes, 3, arrived=1.0)
    assert (call.queued, call.left) == (3, 1.0)

    take(lanes, 2, now=5.0)
    assert (call.queued, call.left) == (1, 5.0)

    take(lanes, 2, now=7.0)
    assert (call.queued, call.left) == (0, 7.0)


# Company by length


def test_long_and_short_texts_leave_apart() -> None:
    """A batch is padded to its longest text: short ones beside a long one would each cost as much as that."""
    lanes = Lanes()
    short, long = ([ticket(lanes, 1, tokens=tokens) for _ in range(6)] for tokens in (5, 400))

    assert set(content(take(lanes))) == set(whole(*short))
    assert set(content(take(lanes))) == set(whole(*long))


def test_where_one_batch_more_costs_most_all_lengths_leave_together() -> None:
    """The same, for a server whose batches cost little but their number."""
    lanes = Lanes()
    calls = [ticket(lanes, 1, tokens=tokens) for tokens in (5, 400) * 6]

    assert set(content(take(lanes, ratio=1e6))) == set(whole(*calls))


@pytest.mark.parametrize("head", [5, 60, 400])
def test_the_head_is_always_in_the_next_batch(head: int) -> None:
    """However much there is of other lengths; so nothing starves."""
    lanes = Lanes(items_max=8)
    first = ticket(lanes, 1, tokens=head)
    for tokens in (5, 20, 60, 100, 400):
        for _ in range(30):
            ticket(lanes, 1, tokens=tokens)

    assert (first, 0) in content(take(lanes))


def test_a_run_of_several_batches_is_divided_from_its_longest_down() -> None:
    """The short rest of a run pays the shorter padding; the head leaves with the part that it falls into."""
    lanes = Lanes(items_max=4)
    short = [ticket(lanes, 1, tokens=19) for _ in range(3)]
    long = [ticket(lanes, 1, tokens=22) for _ in range(5)]

    assert content(take(lanes)) == [*whole(short[0], long[0]), *whole(*short[1:])]
    assert content(take(lanes)) == whole(*long[1:])


def test_within_a_length_the_oldest_leaves_first() -> None:
    """Also when the batch is full before all of it is in."""
    lanes = Lanes(items_max=4)
    calls = [ticket(lanes, 1, caller=caller) for caller in "abbbbbbc"]

    assert content(take(lanes)) == whole(*calls[:4])


# Equal items


def test_equal_items_that_wait_are_one_entry() -> None:
    """Whoever asks for it, and however often: it is sent once, and each has his answer."""
    lanes = Lanes()
    twice = ticket(lanes, ["x", "y", "x"])
    other = ticket(lanes, ["y", "z"])

    batch = taken(lanes)

    assert sorted(entry.text for entry in batch.entries) == ["x", "y", "z"]
    for entry in batch.entries:
        entry.put(entry.text.encode(), 7, 0.5)
    assert twice.answers == [b"x", b"y", b"x"]
    assert other.answers == [b"y", b"z"]


def test_each_who_asks_for_an_item_is_charged_as_if_alone() -> None:
    """What a call costs does not depend on who else asks."""
    lanes = Lanes()
    calls = [ticket(lanes, ["x", "x"]), ticket(lanes, ["x"])]

    taken(lanes).entries[0].put(b"x", 7, 0.5)

    assert [call.tokens for call in calls] == [14, 7]


def test_shared_items_are_counted() -> None:
    """It is how metrics know what was not sent."""
    lanes = Lanes()
    asked = [["x", "y"], ["x", "z", "z"], ["y"]]

    assert [lanes.add(Ticket(EMBED, items, arrived=0)) for items in asked] == [0, 2, 1]


def test_shared_items_count_once_for_the_servers_and_once_for_each_call() -> None:
    """A batch is as large as what is sent; what callers are told is what they wait for."""
    lanes = Lanes()
    first, second = ticket(lanes, ["x", "y"]), ticket(lanes, ["x"])

    assert (lanes.waiting, lanes.items) == (2, 3)
    assert (first.queued, second.queued) == (2, 1)
    assert len(taken(lanes)) == 2
    assert (lanes.waiting, lanes.items) == (0, 0)
    assert (first.queued, second.queued) == (0, 0)


def test_items_of_different_keys_are_not_the_same_however_equal_their_text() -> None:
    """Parameters, the query, and the task change the answer."""
    lanes = Lanes()
    keys = [EMBED, EMBED._replace(params=b'{"a":1}'), rerank("q"), rerank("r"), CLASSIFY, image(1), image(2)]

    for key in keys:
        ticket(lanes, ["x"], key)

    assert lanes.waiting == len(keys)


def test_an_item_under_way_is_joined() -> None:
    """It is not sent again, and whoever comes waits for nothing of his own."""
    lanes = Lanes()
    first = ticket(lanes, ["x"])
    batch = taken(lanes)
    second = ticket(lanes, ["x"])
    assert (second.queued, lanes.waiting, lanes.items) == (0, 0, 0)

    batch.entries[0].put(b"x", 1, 0.5)

    assert first.answers == second.answers == [b"x"]


def test_an_item_that_was_answered_is_asked_for_anew() -> None:
    """Keeping answers is the cache's affair."""
    lanes = Lanes()
    ticket(lanes, ["x"])
    taken(lanes).entries[0].put(b"x", 1, 0.5)

    late = ticket(lanes, ["x"])

    assert content(take(lanes)) == whole(late)


def test_a_shared_item_stays_while_anybody_waits_for_it() -> None:
    """One who leaves does not take it along; the last does."""
    lanes = Lanes()
    calls = [ticket(lanes, ["x"]) for _ in range(3)]

    calls[0].leave()
    assert (lanes.waiting, lanes.items) == (1, 2)
    calls[1].leave()
    assert (lanes.waiting, lanes.items) == (1, 1)
    calls[2].leave()
    assert (lanes.waiting, lanes.items) == (0, 0)
    assert take(lanes) is None


def test_a_shared_item_fails_for_all_who_ask() -> None:
    """They asked for the same, and get the same error."""
    lanes = Lanes()
    calls = [ticket(lanes, ["x"]) for _ in range(2)]
    batch = taken(lanes)
    calls.append(ticket(lanes, ["x"]))

    batch.entries[0].fail(error := ServerFailed("broken"))

    assert [call.error for call in calls] == [error] * 3


def test_a_shared_item_has_the_time_of_the_most_patient_who_still_waits() -> None:
    """The others time out alone."""
    lanes = Lanes()
    hasty = ticket(lanes, ["x"], deadline=5)
    patient = ticket(lanes, ["x"], deadline=50)
    batch = taken(lanes)

    assert batch.deadline == 50
    patient.leave()
    assert batch.deadline == 5
    assert not hasty.ended


# Rerank


def test_whole_lists_of_several_queries_leave_together() -> None:
    """Infinity works on several requests at once, and takes one query a request."""
    lanes = Lanes()
    calls = [ticket(lanes, 5, rerank(query)) for query in "qrs"]

    batch = taken(lanes)

    assert content(batch) == whole(*calls)
    assert [(key.query, len(entries)) for key, entries in batch.requests()] == [("q", 5), ("r", 5), ("s", 5)]
    assert (lanes.waiting, lanes.items) == (0, 0)


def test_a_list_that_does_not_fit_in_whole_waits_for_the_next_batch() -> None:
    """Cut in two it would cost its query twice."""
    lanes = Lanes()
    calls = [ticket(lanes, 8, rerank(query)) for query in "qrs"]

    assert content(take(lanes, 20)) == whole(*calls[:2])
    assert content(take(lanes, 20)) == whole(calls[2])


def test_a_list_longer_than_a_batch_is_divided() -> None:
    """What stands alone in its lane is cut as any other."""
    lanes = Lanes(items_max=4)
    call = ticket(lanes, 6, rerank("q"))

    assert [len(taken(lanes)), len(taken(lanes))] == [4, 2]
    assert call.queued == 0


def test_queries_with_different_parameters_or_tasks_leave_apart() -> None:
    """A batch goes to one server as one piece of work."""
    lanes = Lanes()
    calls = [ticket(lanes, key=key) for key in (rerank("q"), rerank("r", b"1"), EMBED, rerank("s"))]

    assert [content(take(lanes)) for _ in calls] == [whole(call) for call in calls]


def test_equal_queries_share_a_request() -> None:
    """Callers who ask the same question of different documents."""
    lanes = Lanes()
    calls = [ticket(lanes, 2, rerank("q")), ticket(lanes, 2, rerank("r")), ticket(lanes, 2, rerank("q"))]

    batch = taken(lanes)

    assert set(content(batch)) == set(whole(*calls))
    assert [(key.query, len(entries)) for key, entries in batch.requests()] == [("q", 4), ("r", 2)]


def test_the_query_counts_as_part_of_each_documents_length() -> None:
    """The model sees both."""
    lanes = Lanes()
    ticket(lanes, texts(1, tokens=5), rerank("x" * 40))

    assert taken(lanes).entries[0].tokens == 5 + 12


# Waiting for company


def test_with_a_wait_nothing_leaves_before_the_oldest_has_waited() -> None:
    """`ripe_at` says when to ask again."""
    lanes = Lanes(wait_s_max=2.0)
    calls = [ticket(lanes, arrived=10.0), ticket(lanes, arrived=11.0)]

    assert take(lanes, now=11.9) is None
    assert lanes.ripe_at() == 12.0
    assert content(take(lanes, now=12.0)) == whole(*calls)


def test_a_full_batch_does_not_wait() -> None:
    """It cannot get any better company; what is left over goes on waiting."""
    lanes = Lanes(items_max=4, wait_s_max=2.0)
    ticket(lanes, 1, rerank("q"), arrived=10.0)
    large = ticket(lanes, 5, EMBED, arrived=10.5)

    assert content(take(lanes, now=11.0)) == whole(large)[:4]
    assert take(lanes, now=11.0) is None
    assert lanes.ripe_at() == 12.0


@pytest.mark.parametrize(("items", "left"), [(3, 0), (4, 4)])
def test_a_batch_is_full_when_there_is_enough_for_one(items: int, left: int) -> None:
    """Not one item earlier or later."""
    lanes = Lanes(items_max=4, wait_s_max=2.0)
    ticket(lanes, items, arrived=10.0)

    batch = take(lanes, now=10.0)

    assert (len(batch) if batch else 0) == left


def test_what_has_waited_goes_before_what_is_full() -> None:
    """A stream of full batches must not starve a single item."""
    lanes = Lanes(items_max=4, wait_s_max=2.0)
    lonely = ticket(lanes, 1, rerank("q"), arrived=10.0)
    ticket(lanes, 5, EMBED, arrived=10.5)

    assert content(take(lanes, now=12.0)) == whole(lonely)


def test_the_wait_is_of_the_oldest_whoever_is_next() -> None:
    """The turn may be of one who came later, and has his wait before him."""
    lanes = Lanes(wait_s_max=2.0)
    bulk = ticket(lanes, 9, arrived=10.0)
    ticket(lanes, 1, CLASSIFY, arrived=11.0)

    assert take(lanes, now=11.9) is None
    assert lanes.ripe_at() == 12.0
    taken(lanes, now=12.0), taken(lanes, now=12.0)
    assert bulk.queued == 0


def test_a_call_that_stands_alone_does_not_wait_for_company() -> None:
    """None can come."""
    lanes = Lanes(wait_s_max=2.0)
    call = ticket(lanes, 1, image(1), arrived=10.0)

    assert content(take(lanes, now=10.0)) == whole(call)


# Company by class and caller


def test_all_of_an_interactive_call_goes_before_bulk_of_its_length() -> None:
    """Company is of the head's class first: bulk is older, and a person would wait for a batch a text."""
    lanes = Lanes(items_max=8)
    ticket(lanes, 100)
    take(lanes)
    calls = [ticket(lanes, 3) for _ in range(2)]

    left = content(take(lanes))

    assert set(left) > set(whole(*calls))
    assert len(left) == 8


def test_all_of_a_callers_calls_go_before_those_of_one_who_floods() -> None:
    """Else each of them would have to wait until it is first."""
    lanes = Lanes(items_max=8)
    for _ in range(100):
        ticket(lanes, 1, caller="floods")
    take(lanes)
    calls = [ticket(lanes, 1, caller="modest") for _ in range(5)]

    first, second = content(take(lanes)), content(take(lanes))

    assert set(whole(*calls)) < set(first) or set(whole(*calls)) < set(second)


def test_a_flood_does_not_keep_two_questions_of_unlike_length_apart() -> None:
    """Its many lengths would have each of them in a batch of its own."""
    lanes = Lanes()
    for tokens in range(5, 60):
        ticket(lanes, 40, tokens=tokens)
    take(lanes)
    short, long = ticket(lanes, 1, tokens=5), ticket(lanes, 1, tokens=50)

    while short.queued:
        batch = content(take(lanes))

    assert set(whole(short, long)) <= set(batch)


@pytest.mark.parametrize("ratio", [20.0, 400.0])
def test_bulk_fills_the_batch_of_a_person_until_it_costs_twice(ratio: float) -> None:
    """Counted as the cut does it: in padded tokens, with `ratio` for the batch itself."""
    lanes = Lanes(items_max=100)
    ticket(lanes, 500, tokens=20)
    take(lanes, ratio=ratio)
    call = ticket(lanes, 3, tokens=20)

    while call.queued:
        batch = taken(lanes, 100, ratio=ratio)

    longest = LONGEST[CLASS_OF[20]]
    assert len(batch) == 6 + int(ratio / longest)


def test_bulk_stands_in_a_server_only_where_no_person_asks() -> None:
    """What stands there cannot be overtaken."""
    lanes = Lanes()
    ticket(lanes, 100, arrived=0.0)
    assert lanes.full(0.0)

    ticket(lanes, 1, arrived=5.0)
    assert not lanes.full(5.9)
    assert lanes.full(6.1)

    for _ in range(31):
        ticket(lanes, 1, arrived=7.0)
    assert lanes.full(7.5)
