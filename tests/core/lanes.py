"""What the tests of lanes share."""

import weakref
from collections.abc import Sequence
from itertools import count

from gateway.core.lanes import Batch, BatchKey, Entry, Lanes, Ticket
from gateway.errors import ServerFailed
from gateway.messages import Modality, Task

EMBED = BatchKey(Task.EMBED)
RATIO = 400.0
"""What one batch more costs, in padded tokens."""

_numbers = count()


class Text(str):
    """A text that can be watched: a plain string takes no weak reference."""


def rerank(query: str, params: bytes = b"") -> BatchKey:
    return BatchKey(Task.RERANK, params, query)


def image(call: int, params: bytes = b"") -> BatchKey:
    return BatchKey(Task.EMBED, params, None, Modality.IMAGE, call)


def texts(count: int, tokens: int = 5) -> list[str]:
    """Different texts of one length, in tokens as a batch is cut by them."""
    return [f"{next(_numbers):08}".ljust(4 * (tokens - 2), "x") for _ in range(count)]


def ticket(
    lanes: Lanes,
    items: int | Sequence[str] = 1,
    key: BatchKey = EMBED,
    arrived: float = 0.0,
    *,
    tokens: int = 5,
    caller: str = "",
    deadline: float = 1000.0,
) -> Ticket:
    """A call that waits in `lanes` and is taken out of them when it ends, as the pool does it. A number of
    items is of texts that nobody else asks for.
    """
    made = Ticket(key, texts(items, tokens) if isinstance(items, int) else items, arrived, deadline, caller)
    lanes.add(made)
    made.on_end = lanes.forget
    return made


def take(lanes: Lanes, share: int = 32, now: float = 0.0, ratio: float = RATIO) -> Batch | None:
    return lanes.take(share, ratio, now)


def taken(lanes: Lanes, share: int = 32, now: float = 0.0, ratio: float = RATIO) -> Batch:
    """The next batch, which there must be."""
    batch = lanes.take(share, ratio, now)
    assert batch is not None
    return batch


def give_up(ended: Ticket) -> None:
    ended.fail(ServerFailed("gone"))


def content(batch: Batch | None) -> list[tuple[Ticket, int]]:
    """Who asked for what is in the batch."""
    assert batch is not None
    return [claim for entry in batch.entries for claim in entry.claims]


def whole(*tickets: Ticket) -> list[tuple[Ticket, int]]:
    """The content of a batch that holds all of `tickets`, one after the other."""
    return [(each, position) for each in tickets for position in range(len(each.items))]


def answer(batch: Batch) -> None:
    """To each item the answer that `value_of` tells."""
    for entry in batch.entries:
        entry.put(value_of(entry.lane.key, entry.text), 1, 0.5)


def value_of(key: BatchKey, text: str) -> bytes:
    return f"{key}: {text}".encode()


def requeue(lanes: Lanes, entry: Entry) -> None:
    """The batch of `entry` has timed out: who joined it under way waits anew, the others are told, as the
    pool does it.
    """
    late = [claim for claim in entry.claims[entry.early :] if not claim[0].ended]
    if late:
        del entry.claims[entry.early :]
    entry.fail(ServerFailed("timed out"))
    if late:
        lanes.again(entry, late)


def watched(count: int) -> tuple[list[Text], "list[weakref.ref[Text]]"]:
    """Texts, and a way to see which of them somebody still holds."""
    texts = [Text(f"text {i}") for i in range(count)]
    return texts, [weakref.ref(text) for text in texts]
