import pytest

from gateway.core.fairness import BULK, CLASSES, INTERACTIVE, call_class


@pytest.mark.parametrize(("items", "expected"), [(1, INTERACTIVE), (8, INTERACTIVE), (9, BULK), (2048, BULK)])
def test_a_call_of_more_than_eight_items_is_bulk(items: int, expected: str) -> None:
    """A person waits for a question and a few texts; more is indexing."""
    assert call_class(items) == expected


def test_every_class_is_listed() -> None:
    """Counts by class start from this list."""
    assert {call_class(items) for items in range(1, 100)} == set(CLASSES)
