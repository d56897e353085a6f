"""How long a text is, and which of what waits shares a batch."""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.lanes import Lanes
from gateway.core.packing import CLASS_OF, LONGEST, TOKENS_MAX, cut, tokens_of
from tests.core.lanes import texts, ticket

PROPERTY = settings(deadline=None, derandomize=True, max_examples=150)


# The length of a text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 2),
        ("a", 2),
        ("four", 3),
        ("a" * 40, 12),
        ("你好世界", 6),
        ("hello 世界", 2 + (6 + 2 * 4) // 4),
        ("🦊" * 10, 12),
        ("é", 3),
        ("a" * 100_000, TOKENS_MAX),
        ("世" * 100_000, TOKENS_MAX),
        ("a" * 2048 + "世" * 100_000, TOKENS_MAX),
        ("\ud800", 3),
        ("ab\udfff\ud800cd", 5),
        ("\0\0\0\0", 3),
    ],
)
def test_a_text_has_a_token_for_four_ascii_characters_or_for_one_other(text: str, expected: int) -> None:
    """And two around them; what a model cuts off does not count."""
    assert tokens_of(text) == expected


@PROPERTY
@given(st.text(st.characters(), max_size=60), st.integers(1, 8192))
def test_the_length_of_any_text_is_within_bounds(text: str, most: int) -> None:
    """Half a surrogate pair too comes out of JSON. A longer text is never shorter."""
    tokens = tokens_of(text, most)

    assert 1 <= tokens <= most
    assert tokens <= tokens_of(text + "x", most)
    assert 0 <= CLASS_OF[tokens] < len(LONGEST)


def test_a_length_is_in_the_class_that_holds_it() -> None:
    """Whose longest is no more than a fifth longer."""
    assert len(CLASS_OF) == LONGEST[-1] + 1
    for tokens, index in enumerate(CLASS_OF):
        assert tokens <= LONGEST[index]
        assert index == 0 or LONGEST[index - 1] < tokens
        assert LONGEST[index] <= max(tokens + 1, 1.2 * tokens)


def test_classes_grow() -> None:
    """Or a search through them would not end."""
    assert all(shorter < longer for shorter, longer in pairwise(LONGEST))


# The cut


def runs(counts: list[int], longest: list[int], most: int, ratio: float) -> list[tuple[int, int]]:
    """The whole partition: the run of each class, each once."""
    return sorted({cut(counts, longest, head, most, ratio) for head in range(len(counts))})


def cost_of(
    partition: list[tuple[int, int]], counts: list[int], longest: list[int], most: int, ratio: float
) -> float:
    cost = 0.0
    for first, last in partition:
        items = sum(counts[first : last + 1])
        cost += -(-items // most) * ratio + items * longest[last]
    return cost


def least_cost(counts: list[int], longest: list[int], most: int, ratio: float) -> float:
    """Of all partitions, tried one by one."""
    count = len(counts)
    least = float("inf")
    for cuts in range(2 ** (count - 1)):
        edges = [0, *(i + 1 for i in range(count - 1) if cuts >> i & 1), count]
        partition = [(first, after - 1) for first, after in pairwise(edges)]
        least = min(least, cost_of(partition, counts, longest, most, ratio))
    return least


classes = st.integers(1, 7).flatmap(
    lambda count: st.tuples(
        st.lists(st.integers(1, 50), min_size=count, max_size=count),
        st.lists(st.integers(1, 512), min_size=count, max_size=count, unique=True).map(sorted),
    )
)


@PROPERTY
@given(classes, st.sampled_from([1, 4, 32]), st.sampled_from([0.0, 16.0, 100.0, 400.0, 3000.0, 1e6]))
def test_of_all_cuts_between_classes_the_cheapest_is_made(
    window: tuple[list[int], list[int]], most: int, ratio: float
) -> None:
    """Its runs hold each class once, and the head's is the one it is in."""
    counts, longest = window

    partition = runs(counts, longest, most, ratio)

    assert [index for first, last in partition for index in range(first, last + 1)] == list(
        range(len(counts))
    )
    assert all(
        first <= head <= last
        for head in range(len(counts))
        for first, last in [cut(counts, longest, head, most, ratio)]
    )
    assert cost_of(partition, counts, longest, most, ratio) == least_cost(counts, longest, most, ratio)


@PROPERTY
@given(classes, st.sampled_from([1, 4, 32]), st.sampled_from([0.0, 16.0, 400.0, 3000.0]))
def test_a_run_of_more_than_a_batch_saves_one_wherever_it_could_be_cut(
    window: tuple[list[int], list[int]], most: int, ratio: float
) -> None:
    """Otherwise what is short in it would be padded for nothing."""
    counts, longest = window

    for first, last in runs(counts, longest, most, ratio):
        for middle in range(first, last):
            left, right = sum(counts[first : middle + 1]), sum(counts[middle + 1 : last + 1])
            saved = -(-left // most) + -(-right // most) - -(-(left + right) // most)
            assert saved * ratio >= left * (longest[last] - longest[middle])


def exact(lengths: list[int], most: int, ratio: float) -> float:
    """The least cost of sending `lengths` in batches, over every text and not over classes."""
    ordered = sorted(lengths)
    best = [0.0]
    for end, longest in enumerate(ordered, 1):
        starts = range(max(0, end - most), end)
        best.append(min(best[start] + ratio + (end - start) * longest for start in starts))
    return best[-1]


def sent(lengths: list[int], most: int, ratio: float) -> float:
    """What the same costs as lanes send it."""
    lanes = Lanes(items_max=most)
    for tokens in lengths:
        ticket(lanes, texts(1, tokens))
    cost = 0.0
    while batch := lanes.take(most, ratio, 0.0):
        cost += ratio + batch.shape().padded
    return cost


@pytest.mark.parametrize(
    ("ratio", "most_above"), [(16.0, 1.05), (100.0, 1.05), (400.0, 1.05), (1200.0, 1.05), (8192.0, 1.1)]
)
@pytest.mark.parametrize("median", [8, 30, 120])
def test_what_is_sent_costs_little_more_than_the_least_possible(
    median: int, ratio: float, most_above: float
) -> None:
    """For long-tailed lengths, as texts have them, in the mean over windows of 256. (Where only the number of
    batches counts, the last is not full: heads are in order of arrival.)
    """
    rng = random.Random(median + ratio)
    made = needed = 0.0
    for _ in range(8):
        lengths = [int(min(512, max(5, rng.lognormvariate(0, 1) * median))) for _ in range(256)]
        made += sent(lengths, 32, ratio)
        needed += exact(lengths, 32, ratio)

    assert needed <= made <= most_above * needed
