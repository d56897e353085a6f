"""Who is served before whom: the classes of calls."""

INTERACTIVE = "interactive"
BULK = "bulk"
CLASSES = (INTERACTIVE, BULK)

_INTERACTIVE_ITEMS_MAX = 8  # a person waits for a question and a few texts; more is indexing


def call_class(items: int) -> str:
    """The class of a call of `items` items."""
    return INTERACTIVE if items <= _INTERACTIVE_ITEMS_MAX else BULK
