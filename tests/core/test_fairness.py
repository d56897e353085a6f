"""Who is served before whom."""

from collections import Counter
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.fairness import BULK, CLASSES, INTERACTIVE, call_class
from gateway.core.lanes import Batch, BatchKey, Lanes, Ticket
from gateway.messages import Task
from tests.core.lanes import EMBED, answer, content, give_up, rerank, take, taken, ticket

PROPERTY = settings(deadline=None, derandomize=True, max_examples=60)
CLASSIFY = EMBED._replace(task=Task.CLASSIFY)


@pytest.mark.parametrize(("items", "expected"), [(1, INTERACTIVE), (8, INTERACTIVE), (9, BULK), (2048, BULK)])
def test_a_call_of_more_than_eight_items_is_bulk(items: int, expected: str) -> None:
    """A person waits for a question and a few texts; more is indexing."""
    assert call_class(items) == expected


def test_every_class_is_listed() -> None:
    """Counts by class start from this list."""
    assert {call_class(items) for items in range(1, 100)} == set(CLASSES)


def cost(batch: Batch, by: str = "caller") -> Counter[str]:
    """The tokens in a batch, by caller or by class."""
    spent: Counter[str] = Counter()
    for entry in batch.entries:
        spent[getattr(entry.claims[0][0], by)] += entry.tokens
    return spent


def flood(lanes: Lanes, caller: str, calls: int, items: int = 1, tokens: int = 20) -> list[Ticket]:
    return [ticket(lanes, items, caller=caller, tokens=tokens) for _ in range(calls)]


# Callers


@pytest.mark.parametrize("share", [1, 32])
@pytest.mark.parametrize("tokens", [(20, 20), (20, 200), (500, 5)])
def test_callers_get_equal_parts_by_cost(share: int, tokens: tuple[int, int]) -> None:
    """Not by calls: long texts take longer. Whether batches are of one text or full. (But for every eighth
    turn, which is the oldest's.)
    """
    lanes = Lanes()
    batches = 20 * 32 // share
    for caller, length in zip("ab", tokens, strict=True):
        flood(lanes, caller, 1 + batches * share * max(tokens) // length, tokens=length)

    spent: Counter[str] = Counter()
    for _ in range(batches):
        spent += cost(taken(lanes, share))

    assert spent["a"] == pytest.approx(spent["b"], rel=0.15, abs=(32 + batches * share / 8) * max(tokens))


def test_a_flood_of_one_caller_leaves_the_others_their_part() -> None:
    """Ten times the connections are no reason for ten times the answers. (An eighth is the oldest's.)"""
    lanes = Lanes()
    flood(lanes, "floods", 5000)
    for caller in "ab":
        flood(lanes, caller, 500)

    spent: Counter[str] = Counter()
    for _ in range(30):
        spent += cost(taken(lanes))

    assert [spent[caller] / spent.total() for caller in ("floods", "a", "b")] == pytest.approx(
        [1 / 3] * 3, abs=1 / 8
    )


def test_a_newcomer_is_served_at_once() -> None:
    """However long others have been at it, and however much of theirs waits."""
    lanes = Lanes()
    for caller in "abc":
        flood(lanes, caller, 2000)
    for _ in range(50):
        take(lanes)

    new = ticket(lanes, 1, caller="new", tokens=400)
    batches = [content(taken(lanes)) for _ in range(4)]

    assert any((new, 0) in batch for batch in batches)


def test_who_was_idle_has_saved_up_no_turns() -> None:
    """He starts at the present: else he would have the server to himself for as long as he was away. (Every
    eighth turn is the oldest's.)
    """
    lanes = Lanes()
    flood(lanes, "steady", 600)
    flood(lanes, "away", 1)
    for _ in range(300):
        take(lanes, 1)

    flood(lanes, "away", 200)
    spent: Counter[str] = Counter()
    for _ in range(100):
        spent += cost(taken(lanes, 1))

    assert spent["away"] / spent.total() == pytest.approx(0.5, abs=0.07)


def test_who_travels_with_others_pays_for_it() -> None:
    """Company that fills another's batch is charged to who asked for it."""
    lanes = Lanes()
    flood(lanes, "a", 1)
    travels = flood(lanes, "travels", 10)
    other = ticket(lanes, 1, CLASSIFY, caller="travels")
    patient = ticket(lanes, 1, rerank("q"), caller="a")
    assert len(taken(lanes)) == 11
    assert all(call.queued == 0 for call in travels)

    assert content(take(lanes)) == [(patient, 0)]
    assert content(take(lanes)) == [(other, 0)]


# Classes


@pytest.mark.parametrize("tokens", [(20, 20), (20, 200), (200, 20)])
def test_bulk_keeps_a_fifth_of_a_server_under_a_flood_of_interactive_calls(tokens: tuple[int, int]) -> None:
    """It must get done some day; and four fifths are not taken from people."""
    lanes = Lanes()
    flood(lanes, "people", 4000, tokens=tokens[0])
    flood(lanes, "indexer", 8, items=500, tokens=tokens[1])

    spent: Counter[str] = Counter()
    while spent.total() < 60_000:
        spent += cost(taken(lanes), "call_class")

    assert spent[BULK] / spent.total() == pytest.approx(0.2, abs=0.07)


@pytest.mark.parametrize("tokens", [(20, 20), (20, 200), (200, 20)])
def test_a_light_interactive_load_goes_first_under_a_flood_of_bulk(tokens: tuple[int, int]) -> None:
    """Whoever asks little is in the very next batch, but for the one that bulk may have in five."""
    lanes = Lanes()
    flood(lanes, "indexer", 20, items=2000, tokens=tokens[1])
    waits = []

    for number in range(200):
        calls = flood(lanes, f"person {number % 7}", 2, items=1 + number % 3, tokens=tokens[0])
        waited = 0
        while any(call.queued for call in calls):
            take(lanes)
            waited += 1
        waits.append(waited)
        take(lanes)

    assert sorted(waits)[100] == 1
    assert max(waits) <= 3


def test_bulk_that_people_fill_up_does_not_make_other_people_wait() -> None:
    """Interactive calls that travelled in bulk's batches were no burden to it."""
    lanes = Lanes()
    flood(lanes, "indexer", 20, items=2000, tokens=5)
    for _ in range(300):
        flood(lanes, "person", 40, tokens=5)
        take(lanes)
    other = ticket(lanes, 1, CLASSIFY, caller="other", tokens=100)

    waited = 0
    while other.queued:
        take(lanes)
        waited += 1

    assert waited <= 3


def test_bulk_that_fills_up_peoples_batches_does_not_make_other_bulk_wait() -> None:
    """Nor was it a burden to them: the fifth that bulk has is not spent with that."""
    lanes = Lanes()
    flood(lanes, "indexer", 20, items=2000, tokens=4)
    for _ in range(300):
        flood(lanes, "person", 2, tokens=4)
        take(lanes)
    other = ticket(lanes, 20, caller="other", tokens=50)

    waited = 0
    while other.queued:
        flood(lanes, "person", 2, tokens=4)
        take(lanes)
        waited += 1

    assert waited <= 40


# Nobody starves


@PROPERTY
@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcd"),
            st.sampled_from([1, 3, 8, 9, 40]),
            st.sampled_from([4, 20, 100, 512]),
            st.sampled_from([EMBED, CLASSIFY, rerank("q"), rerank("r")]),
        ),
        min_size=1,
        max_size=12,
    ),
    st.integers(0, 20),
    st.sampled_from([1, 5, 32]),
    st.sampled_from([1, 20]),
    st.sampled_from([16.0, 400.0, 8192.0]),
)
def test_nobody_starves(
    crowd: list[tuple[str, int, int, object]], before: int, share: int, items: int, ratio: float
) -> None:
    """Whatever keeps arriving faster than it is served: every eighth turn is the oldest's, so when all that
    came before a call has left, it is its turn.
    """
    lanes = Lanes()
    numbers = count()

    def arrive() -> None:
        caller, size, tokens, key = crowd[next(numbers) % len(crowd)]
        assert isinstance(key, BatchKey)
        ticket(lanes, size, key, caller=caller, tokens=tokens)

    for _ in range(before):
        arrive()
        take(lanes, share, ratio=ratio)
    most = 8 * (lanes.waiting + items + 1)
    victim = ticket(lanes, items, caller="victim", tokens=50)
    turns = 0
    while victim.queued:
        for _ in range(3):
            arrive()
        answer(taken(lanes, share, ratio=ratio))
        turns += 1
        assert turns <= most


def test_calls_that_have_ended_take_no_turn() -> None:
    """Nor does it cost the others anything that they came and went."""
    lanes = Lanes()
    first = ticket(lanes, 1, caller="a")
    for call in flood(lanes, "b", 500):
        give_up(call)
    last = ticket(lanes, 1, CLASSIFY, caller="b")

    assert [content(take(lanes)), content(take(lanes))] == [[(first, 0)], [(last, 0)]]
