from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.usage import share_out

lengths = st.lists(st.integers(0, 5000), min_size=1, max_size=40)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(lengths)
def test_a_server_that_counts_characters_charges_each_item_its_own(texts: list[int]) -> None:
    """Each item is charged what it would have been charged alone."""
    assert share_out(sum(texts), texts) == texts


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.integers(0, 10**7), lengths)
def test_the_parts_add_up_to_what_the_server_counted(total: int, texts: list[int]) -> None:
    """No token is lost or invented by rounding."""
    parts = share_out(total, texts)

    assert sum(parts) == total
    assert len(parts) == len(texts)
    assert all(part >= 0 for part in parts)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.integers(0, 10**7), lengths.filter(any))
def test_no_part_is_a_whole_token_off_its_due(total: int, texts: list[int]) -> None:
    """A part is the item's share by length, rounded down or up."""
    whole = sum(texts)

    for part, length in zip(share_out(total, texts), texts, strict=True):
        assert abs(part * whole - total * length) < whole


def test_what_is_left_over_goes_to_the_largest_remainders() -> None:
    """The largest-remainder method: the fairest whole numbers with the right sum."""
    assert share_out(10, [1, 1, 4, 3]) == [1, 1, 5, 3]


def test_empty_texts_share_equally() -> None:
    """A server may count special tokens for texts of no length."""
    assert share_out(7, [0, 0, 0]) == [3, 2, 2]
