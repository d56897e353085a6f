"""What lanes may hold, and when they let go of it."""

import gc

import pytest

from gateway.core.lanes import Lane, Lanes
from gateway.errors import BadRequest
from tests.core.lanes import (
    EMBED,
    answer,
    content,
    give_up,
    image,
    rerank,
    take,
    taken,
    ticket,
    watched,
    whole,
)


def test_lanes_that_are_empty_are_gone() -> None:
    """Each query makes a lane: they must not stay."""
    lanes = Lanes()
    for i in range(100):
        ticket(lanes, key=rerank(str(i)))
    assert len(lanes) == 100

    while batch := take(lanes):
        answer(batch)

    assert len(lanes) == 0
    assert repr(lanes) == "<Lanes: 0 entries wait, 0 lanes>"


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
    """Whether it was answered or has ended."""
    lanes = Lanes(param_sets_max=1)
    ended, sent = ticket(lanes, key=rerank("q", b"1")), ticket(lanes, key=rerank("r", b"1"))

    give_up(ended)
    with pytest.raises(BadRequest):
        ticket(lanes, key=EMBED._replace(params=b"2"))
    batch = taken(lanes)
    assert content(batch) == whole(sent)
    answer(batch)
    ticket(lanes, key=EMBED._replace(params=b"2"))

    assert len(lanes) == 1


def test_callers_who_come_and_leave_for_one_item_take_no_memory() -> None:
    """While one waits for it, or it is under way at a server that hangs."""
    lanes = Lanes()
    ticket(lanes, ["waits", "hangs"])
    batch = lanes.take(1, 1.0, 0)
    assert batch is not None
    refs = []
    for _ in range(500):
        texts, watching = watched(2)
        refs += watching
        give_up(ticket(lanes, ["waits", "hangs"], caller=texts[0]))

    del texts
    gc.collect()

    assert sum(ref() is not None for ref in refs) <= 2 * lanes.items + 64
