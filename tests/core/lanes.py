"""What the tests of lanes share."""

import weakref
from collections.abc import Sequence

from gateway.core.lanes import Batch, BatchKey, Lanes, Ticket
from gateway.errors import ServerFailed
from gateway.messages import Modality, Task

EMBED = BatchKey(Task.EMBED)


class Text(str):
    """A text that can be watched: a plain string takes no weak reference."""


def rerank(query: str, params: bytes = b"") -> BatchKey:
    return BatchKey(Task.RERANK, params, query)


def image(call: int, params: bytes = b"") -> BatchKey:
    return BatchKey(Task.EMBED, params, None, Modality.IMAGE, call)


def ticket(
    lanes: Lanes, items: int | Sequence[str] = 1, key: BatchKey = EMBED, arrived: float = 0.0
) -> Ticket:
    """A call that waits in `lanes` and is taken out of them when it ends, as the pool does it."""
    texts = [str(i) for i in range(items)] if isinstance(items, int) else items
    made = Ticket(key, texts, arrived)
    lanes.add(made)
    made.on_end = lanes.forget
    return made


def give_up(ended: Ticket) -> None:
    ended.fail(ServerFailed("gone"))


def content(batch: Batch | None) -> list[tuple[Ticket, int]]:
    assert batch is not None
    return [(entry.ticket, entry.position) for entry in batch.entries]


def whole(*tickets: Ticket) -> list[tuple[Ticket, int]]:
    """The content of a batch that holds all of `tickets`, one after the other."""
    return [(each, position) for each in tickets for position in range(len(each.items))]


def watched(count: int) -> tuple[list[Text], "list[weakref.ref[Text]]"]:
    """Texts, and a way to see which of them somebody still holds."""
    texts = [Text(f"text {i}") for i in range(count)]
    return texts, [weakref.ref(text) for text in texts]
