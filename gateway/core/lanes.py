"""What waits, and which of it leaves together.

A call becomes a `Ticket` with one `Entry` for each of its items. Entries that may share a batch (equal
`BatchKey`) wait in one `Lane`; a batch is cut from the lane whose head arrived first, in order of arrival.
So a batch mixes calls, a large call spreads over several batches, and nothing overtakes within a lane.
"""

import heapq
import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gateway.core.fairness import CLASSES, call_class
from gateway.errors import BadRequest, GatewayError
from gateway.messages import Modality, Task

Value = bytes | float
"""The answer to one item: a JSON fragment, or a score."""


class BatchKey(NamedTuple):
    """What must be equal for two items to share a batch."""

    task: Task
    params: bytes = b""
    """Passed on to the server: a JSON object sorted by name, so that equal parameters make equal keys. (As
    Python values `1`, `1.0` and `true` would be equal, and to a server they are not.)"""
    query: str | None = None
    """Infinity takes one query a request."""
    modality: Modality = Modality.TEXT
    alone: int = 0
    """Not 0: the number of a call that shares its batch with no other and is not divided."""


class Ticket:
    """One call in a pool: its items, the answers as they come, and its end, which happens once."""

    __slots__ = (
        "answers", "arrived", "call_class", "deadline", "ended", "error", "items", "key", "left", "missing",
        "on_end", "order", "queued", "tokens", "upstream_s",
    )  # fmt: skip

    def __init__(
        self, key: BatchKey, items: Sequence[str], arrived: float, deadline: float = math.inf
    ) -> None:
        assert items
        self.key = key
        self.items = items
        self.arrived = arrived
        self.deadline = deadline
        self.call_class = call_class(len(items))
        self.answers: list[Value | None] = [None] * len(items)
        self.missing = len(items)
        self.order = 0
        """Its place among all arrivals."""
        self.queued = 0
        """Entries that still wait in a lane."""
        self.left = arrived
        """When the last of its entries so far left the lane."""
        self.upstream_s = 0.0
        """How long the batch took that was answered last."""
        self.tokens = 0
        self.ended = False
        self.error: GatewayError | None = None
        self.on_end: Callable[[Ticket], None] = _ignore

    def put(self, position: int, value: Value, tokens: int) -> None:
        """The answer to one item. The last one ends the ticket; what comes after its end is dropped."""
        if self.ended:
            return
        assert self.answers[position] is None, "an item is answered once"
        self.answers[position] = value
        self.tokens += tokens
        self.missing -= 1
        if not self.missing:
            self._end()

    def fail(self, error: GatewayError) -> None:
        """End it without an answer, unless it has ended."""
        if not self.ended:
            self.error = error
            self._end()

    def leave(self) -> None:
        """Its caller has gone: nobody wants an answer any more."""
        if not self.ended:
            self._end()

    def _end(self) -> None:
        self.ended = True
        self.on_end(self)

    def __repr__(self) -> str:
        state = "ended" if self.ended else f"{self.missing} missing, {self.queued} queued"
        return f"<Ticket {self.key.task} of {len(self.items)}: {state}>"


def _ignore(_: Ticket) -> None:
    pass


class Entry(NamedTuple):
    ticket: Ticket
    position: int

    @property
    def text(self) -> str:
        return self.ticket.items[self.position]


class Batch:
    """Entries that go to a server in one request. A retry is the same batch again."""

    __slots__ = ("avoid", "entries", "key", "tries")

    def __init__(self, key: BatchKey, entries: list[Entry], avoid: tuple[str, ...] = ()) -> None:
        self.key = key
        self.entries = entries
        self.avoid = avoid
        """Deployments that have failed on it."""
        self.tries = 0

    def __len__(self) -> int:
        return len(self.entries)

    def tickets(self) -> list[Ticket]:
        """The calls in it, each once, in order."""
        return list(dict.fromkeys(entry.ticket for entry in self.entries))

    def drop_ended(self) -> None:
        """Leave out what nobody waits for any more."""
        self.entries = [entry for entry in self.entries if not entry.ticket.ended]

    def halves(self) -> tuple["Batch", "Batch"]:
        """The batch cut in two between calls; of a single call the first half is empty."""
        tickets = self.tickets()
        first = set(tickets[: len(tickets) // 2])
        halves = (
            Batch(self.key, [e for e in self.entries if e.ticket in first], self.avoid),
            Batch(self.key, [e for e in self.entries if e.ticket not in first], self.avoid),
        )
        for half in halves:
            half.tries = self.tries
        return halves


class Lane:
    """Entries with one batch key, in order of arrival. Entries whose ticket has ended are skipped."""

    __slots__ = ("_entries", "key", "live")

    def __init__(self, key: BatchKey) -> None:
        self.key = key
        self.live = 0
        self._entries: deque[Entry] = deque()

    def add(self, ticket: Ticket) -> None:
        self._entries.extend([Entry(ticket, position) for position in range(len(ticket.items))])
        self.live += len(ticket.items)

    def head(self) -> Ticket | None:
        entries = self._entries
        while entries and entries[0].ticket.ended:
            entries.popleft()
        return entries[0].ticket if entries else None

    def take(self, most: int, now: float) -> list[Entry]:
        taken: list[Entry] = []
        entries = self._entries
        while entries and len(taken) < most:
            entry = entries.popleft()
            ticket = entry.ticket
            if not ticket.ended:
                ticket.queued -= 1
                ticket.left = now
                taken.append(entry)
        self.live -= len(taken)
        return taken

    def clear(self) -> None:
        """Hold on to nothing: what is left has ended."""
        self._entries.clear()

    def forget(self, ticket: Ticket) -> None:
        self.live -= ticket.queued
        ticket.queued = 0
        # What has ended is skipped when its turn comes; in the majority it goes at once, so that memory
        # stays in proportion to what waits even if no turn ever comes.
        if len(self._entries) > 2 * self.live + 64:
            self._entries = deque(entry for entry in self._entries if not entry.ticket.ended)


class Lanes:
    """All that waits in one pool."""

    def __init__(self, *, items_max: int = 32, wait_s_max: float = 0.0, param_sets_max: int = 64) -> None:
        self.items_max = items_max
        """Most items in a batch."""
        self.queued: Counter[str] = Counter(dict.fromkeys(CLASSES, 0))
        """Items that wait, by class."""
        self._wait_s_max = wait_s_max
        self._param_sets_max = param_sets_max
        self._lanes: dict[BatchKey, Lane] = {}
        # (arrival of the lane's head, lane), once for each lane; found stale when it comes to the top.
        self._heads: list[tuple[int, Lane]] = []
        self._param_sets: Counter[bytes] = Counter()
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._lanes)

    @property
    def items(self) -> int:
        """Items that wait."""
        return sum(self.queued.values())

    def __repr__(self) -> str:
        return f"<Lanes: {self.items} items in {len(self._lanes)} lanes>"

    def add(self, ticket: Ticket) -> None:
        """Queue the items of `ticket`. Raises BadRequest when too many different parameters wait already."""
        lane = self._lanes.get(ticket.key) or self._open(ticket.key)
        self._arrivals += 1
        ticket.order = self._arrivals
        if not lane.live:
            heapq.heappush(self._heads, (ticket.order, lane))
        lane.add(ticket)
        ticket.queued = len(ticket.items)
        self.queued[ticket.call_class] += len(ticket.items)

    def take(self, share: int, now: float) -> Batch | None:
        """The next batch, of at most `share` items; None when nothing waits, or nothing is ripe yet."""
        lane = self._next(now)
        if lane is None:
            return None
        entries = lane.take(lane.live if lane.key.alone else min(share, self.items_max), now)
        for entry in entries:
            self.queued[entry.ticket.call_class] -= 1
        if not lane.live:
            self._close(lane)
        return Batch(lane.key, entries)

    def forget(self, ticket: Ticket) -> None:
        """`ticket` has ended; what of it still waits is not sent."""
        assert ticket.ended
        if ticket.queued:
            lane = self._lanes[ticket.key]
            self.queued[ticket.call_class] -= ticket.queued
            lane.forget(ticket)
            if not lane.live:
                self._close(lane)

    def ripe_at(self) -> float | None:
        """When the oldest item will have waited long enough; None when nothing waits."""
        head = self._oldest()
        return None if head is None else head[1].arrived + self._wait_s_max

    def _next(self, now: float) -> Lane | None:
        head = self._oldest()
        if head is None:
            return None
        lane, ticket = head
        if not self._wait_s_max or ticket.arrived + self._wait_s_max <= now:
            return lane
        # What is full, or never has company, gains nothing by waiting for it.
        full = (lane for lane in self._lanes.values() if lane.live >= self.items_max or lane.key.alone)
        return next(full, None)

    def _oldest(self) -> tuple[Lane, Ticket] | None:
        heads = self._heads
        while heads:
            order, lane = heads[0]
            ticket = lane.head() if lane.live else None
            if ticket is None:
                heapq.heappop(heads)
            elif ticket.order != order:
                heapq.heapreplace(heads, (ticket.order, lane))
            else:
                return lane, ticket
        return None

    def _open(self, key: BatchKey) -> Lane:
        if (
            key.params
            and key.params not in self._param_sets
            and len(self._param_sets) >= self._param_sets_max
        ):
            raise BadRequest(
                f"{self._param_sets_max} different sets of provider parameters are waiting already; "
                "calls are batched by their parameters, so send the same ones with all of them"
            )
        if key.params:
            self._param_sets[key.params] += 1
        lane = self._lanes[key] = Lane(key)
        return lane

    def _close(self, lane: Lane) -> None:
        del self._lanes[lane.key]
        lane.clear()
        if lane.key.params:
            self._param_sets[lane.key.params] -= 1
            if not self._param_sets[lane.key.params]:
                del self._param_sets[lane.key.params]
        if len(self._heads) > 2 * len(self._lanes) + 64:
            self._heads = [head for head in self._heads if head[1].live]
            heapq.heapify(self._heads)
