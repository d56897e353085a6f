"""Core: the end of a call, which happens once."""

import pytest

from gateway.core.lanes import Ticket
from gateway.errors import GatewayError, ServerFailed
from tests.core.lanes import EMBED


def counted(items: int = 2) -> tuple[Ticket, list[Ticket]]:
    """A ticket, and the list that it enters each time it ends."""
    ends: list[Ticket] = []
    made = Ticket(EMBED, ["x"] * items, arrived=0)
    made.on_end = ends.append
    return made, ends


def test_the_last_answer_ends_it() -> None:
    """Answers come in any order and are kept in the caller's."""
    call, ends = counted(items=3)

    call.put(2, b"two", tokens=3)
    call.put(0, b"zero", tokens=4)
    assert not call.ended
    call.put(1, b"one", tokens=5)

    assert ends == [call]
    assert call.ended
    assert call.answers == [b"zero", b"one", b"two"]
    assert call.tokens == 12
    assert call.error is None


def test_a_failure_ends_it() -> None:
    """Its error says why."""
    call, ends = counted()
    error = ServerFailed("broken")

    call.fail(error)

    assert ends == [call]
    assert call.error is error


def test_its_caller_leaving_ends_it_without_an_error() -> None:
    """Nobody is there to be told."""
    call, ends = counted()

    call.leave()

    assert ends == [call]
    assert call.error is None


def test_it_ends_once() -> None:
    """What comes after its end changes nothing: the first error stays, and late answers are dropped."""
    call, ends = counted()
    first: GatewayError = ServerFailed("first")
    call.fail(first)

    call.fail(ServerFailed("second"))
    call.leave()
    call.put(0, b"late", tokens=1)
    call.put(1, b"late", tokens=1)

    assert ends == [call]
    assert call.error is first
    assert call.answers == [None, None]
    assert call.tokens == 0


def test_an_item_is_answered_once() -> None:
    """A second answer to the same item is a bug of ours."""
    call, _ = counted()
    call.put(0, b"one", tokens=1)

    with pytest.raises(AssertionError, match="once"):
        call.put(0, b"two", tokens=1)


def test_a_call_has_items() -> None:
    """One without would never end."""
    with pytest.raises(AssertionError):
        Ticket(EMBED, [], arrived=0)


def test_its_repr_says_how_far_it_is() -> None:
    """What it still lacks, and what of that has not left yet."""
    call, _ = counted(items=3)
    call.put(0, b"zero", tokens=1)
    assert repr(call) == "<Ticket embed of 3: 2 missing, 0 queued>"

    call.leave()
    assert repr(call) == "<Ticket embed of 3: ended>"


def test_a_ticket_that_nobody_waits_for_may_end_too() -> None:
    """Ending does not need a listener."""
    call = Ticket(EMBED, ["x"], arrived=0)

    call.put(0, b"x", tokens=1)

    assert call.ended
