from hypothesis import assume, given, settings
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


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.integers(0, 10**7), lengths.filter(any))
def test_no_part_is_a_whole_token_off_its_due(extra: int, texts: list[int]) -> None:
    """Beyond the one of each text that is not empty, a part is the share by length, rounded down or up."""
    whole, own = sum(texts), [1 if length else 0 for length in texts]
    total = extra + sum(own)
    assume(total != whole)

    for part, least, length in zip(share_out(total, texts), own, texts, strict=True):
        assert abs((part - least) * whole - extra * length) < whole


def test_what_is_left_over_goes_to_the_largest_remainders() -> None:
    """The largest-remainder method: the fairest whole numbers with the right sum."""
    assert share_out(14, [1, 1, 4, 3]) == [2, 2, 6, 4]


def test_a_short_text_beside_one_of_few_tokens_is_not_free() -> None:
    """Seven hundred letters without a blank are one word to a tokenizer, and one token."""
    assert share_out(6, [700, 4]) == [5, 1]


def test_a_server_that_counts_less_than_a_token_each_charges_no_more() -> None:
    """Some report none at all."""
    assert share_out(0, [3, 9]) == [0, 0]
    assert share_out(1, [3, 9]) == [0, 1]


def test_an_empty_text_in_company_is_free() -> None:
    """Alone it has no tokens either."""
    assert share_out(6, [700, 0, 4]) == [5, 0, 1]


def test_empty_texts_share_equally() -> None:
    """A server may count special tokens for texts of no length."""
    assert share_out(7, [0, 0, 0]) == [3, 2, 2]
