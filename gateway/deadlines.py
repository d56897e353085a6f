"""Many deadlines with few timers: to set and cancel one for each call costs more than to batch it."""

import asyncio
import math
from collections.abc import Callable
from typing import Generic, TypeVar

_Item = TypeVar("_Item")

_STEPS_PER_S = 100


class Deadlines(Generic[_Item]):
    """Many deadlines with few timers: one for all within a hundredth of a second, which fires at its end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_due: Callable[[_Item], None]) -> None:
        self._loop = loop
        self._on_due = on_due
        self._items: dict[int, dict[_Item, None]] = {}
        self._timers: dict[int, asyncio.TimerHandle] = {}

    def add(self, item: _Item, at: float) -> int:
        """Have `on_due` called with `item` at that time, unless it is discarded; the step that it is in."""
        step = math.ceil(at * _STEPS_PER_S - 1e-6)
        items = self._items.get(step)
        if items is None:
            items = self._items[step] = {}
            self._timers[step] = self._loop.call_at(step / _STEPS_PER_S, self._fire, step)
        items[item] = None
        return step

    def discard(self, item: _Item, step: int) -> None:
        """Nothing is due any more for `item`, which is in `step`."""
        if items := self._items.get(step):
            items.pop(item, None)

    def clear(self) -> None:
        """Discard all."""
        for timer in self._timers.values():
            timer.cancel()
        self._items.clear()
        self._timers.clear()

    def _fire(self, step: int) -> None:
        del self._timers[step]
        items = self._items[step]
        while items:
            self._on_due(items.popitem()[0])
        self._items.pop(step, None)
