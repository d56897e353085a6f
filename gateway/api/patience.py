"""How long callers may take to send and to read. All connections are looked at together, now and then: that
costs a call no timer, and no look at the clock."""

import asyncio
from collections.abc import Collection
from typing import Protocol

_INTERVAL_S_MAX = 1.0
_A_TURN = 1000
"""Connections looked at in one turn of the event loop."""


class Watched(Protocol):
    def look(self, now: float) -> None:
        """What is so by now may end the connection."""


class Patience:
    """Looks at connections for as long as there are any. `shortest_s` is the least time that any of them
    counts."""

    def __init__(self, shortest_s: float) -> None:
        self.become(shortest_s)
        self._timer: asyncio.TimerHandle | None = None

    def become(self, shortest_s: float) -> None:
        self._interval_s = min(_INTERVAL_S_MAX, shortest_s / 4)

    def watch(self, connections: Collection[Watched], loop: asyncio.AbstractEventLoop) -> None:
        """`connections` is asked each time for those that are there by then."""
        if self._timer is None:
            self._timer = loop.call_later(self._interval_s, self._begin, connections, loop)

    def _begin(self, connections: Collection[Watched], loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if connections:
            self.watch(connections, loop)
            self._look(list(connections), loop)

    def _look(self, rest: list[Watched], loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for connection in rest[-_A_TURN:]:
            connection.look(now)
        del rest[-_A_TURN:]
        if rest:
            loop.call_soon(self._look, rest, loop)
