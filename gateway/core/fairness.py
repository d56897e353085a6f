"""Who is served before whom: classes of calls, and callers within a class, by what they have cost.

Start-time fair queueing (Goyal, Vin and Cheng, 1996), twice: each flow has a virtual time that grows with
what was sent for it, and the flow that is furthest behind is next. A flow that had nothing waiting starts at
the present, so that nobody saves up turns. Interactive calls weigh four times as much as bulk: whoever asks
little goes first, and under any load bulk keeps its fifth.
"""

import heapq
from collections import deque
from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.core.lanes import Ticket

INTERACTIVE = "interactive"
BULK = "bulk"
CLASSES = (INTERACTIVE, BULK)
_WEIGHTS = {INTERACTIVE: 4.0, BULK: 1.0}
SHARES = {name: weight / sum(_WEIGHTS.values()) for name, weight in _WEIGHTS.items()}
"""What each class gets of the servers while something waits in all of them."""

_INTERACTIVE_ITEMS_MAX = 8  # a person waits for a question and a few texts; more is indexing

_OLDEST_EVERY = 8
"""Every so many turns of a class are its oldest's. Whoever is served as company of others as fast as his
share allows is never behind, and what he has that suits nobody's company would wait for ever."""


def call_class(items: int) -> str:
    """The class of a call of `items` items."""
    return INTERACTIVE if items <= _INTERACTIVE_ITEMS_MAX else BULK


class _Flow:
    """What waits of one caller in one class, in order of arrival, and its virtual time."""

    __slots__ = ("gone", "name", "tickets", "time")

    def __init__(self, name: str, time: float) -> None:
        self.name = name
        self.time = time
        self.tickets: deque[Ticket] = deque()
        self.gone = 0
        """How many of them may have ended since they were looked through."""

    def head(self) -> "Ticket | None":
        tickets = self.tickets
        while tickets and not tickets[0].queued:
            tickets.popleft()
        return tickets[0] if tickets else None


class _Class:
    __slots__ = ("arrivals", "flows", "gone", "heap", "now", "time", "turn", "weight")

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.time = 0.0
        self.now = 0.0
        """The virtual time of the flow served last."""
        self.turn = 0
        self.arrivals: deque[Ticket] = deque()
        """All that waits, the oldest first, and some that does not any more."""
        self.gone = 0
        """How many of them may have ended since they were looked through."""
        self.flows: dict[str, _Flow] = {}
        # (virtual time, a number to keep the order, flow), once a flow; what is stale is put right on top.
        self.heap: list[tuple[float, int, _Flow]] = []

    def clear(self) -> None:
        """Nothing waits in it."""
        if not self.flows and not self.arrivals:
            return
        self.flows.clear()
        self.heap.clear()
        self.arrivals.clear()
        self.gone = 0

    def head(self, flow: _Flow) -> "Ticket | None":
        """The ticket that is next, if `flow` is: its first, or out of turn the oldest."""
        if self.turn % _OLDEST_EVERY != _OLDEST_EVERY - 1:
            return flow.head()
        while not self.arrivals[0].queued:
            self.arrivals.popleft()
        return self.arrivals[0]

    def first(self, order: "count[int]") -> _Flow | None:
        """The flow that is furthest behind; those with nothing waiting are forgotten."""
        heap = self.heap
        while heap:
            time, _, flow = heap[0]
            if not flow.head():
                heapq.heappop(heap)
                del self.flows[flow.name]
            elif flow.time > time:
                heapq.heapreplace(heap, (flow.time, next(order), flow))
            else:
                return flow
        return None


class Turns:
    """Whose turn it is among all that waits."""

    def __init__(self) -> None:
        self._classes = {name: _Class(weight) for name, weight in _WEIGHTS.items()}
        self._now = 0.0
        self._order = count()
        self._alone: Ticket | None = None
        """All that waits, if that is one call of one item. It needs no order."""
        self._is_empty = True
        """The classes hold nothing."""

    def add(self, ticket: "Ticket", *, first: bool) -> None:
        """`ticket` waits, behind what its caller has waiting in its class already; `first`: nothing else
        waits in its class.
        """
        if alone := self._alone:
            self._alone = None
            self._enter(alone, first=True)
        elif self._is_empty and ticket.queued == 1:
            self._alone = ticket
            return
        self._enter(ticket, first=first)

    def _enter(self, ticket: "Ticket", *, first: bool) -> None:
        self._is_empty = False
        in_class = self._classes[ticket.call_class]
        if first:
            in_class.clear()
            in_class.time = max(in_class.time, self._now)
        flow = in_class.flows.get(ticket.caller)
        if flow is None:
            flow = in_class.flows[ticket.caller] = _Flow(ticket.caller, in_class.now)
            heapq.heappush(in_class.heap, (flow.time, next(self._order), flow))
        elif flow.head() is None:
            flow.time = max(flow.time, in_class.now)
        flow.tickets.append(ticket)
        in_class.arrivals.append(ticket)

    def head(self) -> "Ticket | None":
        """The ticket that is next; None when nothing waits."""
        if alone := self._alone:
            return alone if alone.queued else None
        waiting = [
            (in_class, flow) for in_class in self._classes.values() if (flow := in_class.first(self._order))
        ]
        if not waiting:
            return None
        in_class, flow = min(waiting, key=_time)
        return in_class.head(flow)

    def company(self, head: "Ticket") -> "Iterator[Ticket]":
        """Who has the first places beside `head`'s item: its other items, and unless its caller is the only
        one, what else he has in its class, then what others have there.
        """
        yield head
        if sum(len(in_class.flows) for in_class in self._classes.values()) > 1:
            in_class = self._classes[head.call_class]
            if own := in_class.flows.get(head.caller):
                yield from own.tickets
            for _, _, flow in in_class.heap:
                if flow is not own:
                    yield from flow.tickets

    def oldest(self) -> float | None:
        """When what waits longest arrived; None when nothing waits."""
        if alone := self._alone:
            return alone.arrived if alone.queued else None
        flows = (flow for in_class in self._classes.values() for flow in in_class.flows.values())
        return min((head.arrived for flow in flows if (head := flow.head())), default=None)

    def forget(self, ticket: "Ticket") -> None:
        """`ticket` has ended. What has ended is swept out before it is most of what is held."""
        in_class = self._classes[ticket.call_class]
        if not in_class.arrivals:
            return
        if flow := in_class.flows.get(ticket.caller):
            flow.gone += 1
            if 2 * flow.gone > len(flow.tickets) + 32:
                flow.tickets = deque(each for each in flow.tickets if each.queued)
                flow.gone = 0
        in_class.gone += 1
        if 2 * in_class.gone > len(in_class.arrivals) + 32:
            in_class.arrivals = deque(each for each in in_class.arrivals if each.queued)
            in_class.gone = 0

    def clear(self) -> None:
        """Nothing waits: hold on to nothing, and start from nothing."""
        self._alone = None
        if self._is_empty:
            return
        self._is_empty = True
        for in_class in self._classes.values():
            in_class.clear()

    def begin(self, head: "Ticket") -> None:
        """`head` has its turn: this is the present, which nobody who comes new is behind."""
        in_class = self._classes[head.call_class]
        self._now = max(self._now, in_class.time)
        in_class.turn += 1
        if in_class.turn % _OLDEST_EVERY == 0:
            return  # It was the oldest's, out of turn, and may be ahead of all others in its class.
        if flow := in_class.flows.get(head.caller):
            in_class.now = max(in_class.now, flow.time)

    def charge_turn(self, head: "Ticket", tokens: int) -> None:
        """A batch of so many tokens is sent because it was the turn of `head`, whose class pays for it all:
        who only travels along spends no turn of his class with that.
        """
        in_class = self._classes[head.call_class]
        in_class.time += tokens / in_class.weight

    def charge(self, ticket: "Ticket", tokens: int, in_all: int) -> None:
        """Something of `ticket` is sent that costs so many tokens, in its turn or as company in another's, in
        a batch of so many `in_all`: who travels along again and again owes no more than the last batch.
        """
        in_class = self._classes[ticket.call_class]
        if flow := in_class.flows.get(ticket.caller):
            flow.time = max(flow.time, min(flow.time + tokens, in_class.now + in_all))


def _time(waiting: tuple[_Class, _Flow]) -> float:
    return waiting[0].time
