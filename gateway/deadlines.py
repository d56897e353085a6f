"""Many deadlines with few timers: to set and cancel one for each call costs more than to batch it."""

import asyncio
import math
from collections.abc import Callable
from typing import Generic, TypeVar

_Item = TypeVar("_Item")

_SOON_S = 1.0
_STEP_S, _LONG_STEP_S = 0.01, 0.1


class Deadlines(Generic[_Item]):
    """Many deadlines with few timers: one for all within a hundredth of a second, or a tenth when they are
    far away, which fires at the end of that.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_due: Callable[[_Item], None]) -> None:
        self._loop = loop
        self._on_due = on_due
        self._items: dict[float, dict[_Item, None]] = {}
        self._timers: dict[float, asyncio.TimerHandle] = {}

    def add(self, item: _Item, at: float, now: float) -> float:
        """Have `on_due` called with `item` at that time, unless it is discarded; when that will really be."""
        step_s = _STEP_S if at - now < _SOON_S else _LONG_STEP_S
        due = math.ceil(at / step_s - 1e-6) * step_s
        items = self._items.get(due)
        if items is None:
            items = self._items[due] = {}
            self._timers[due] = self._loop.call_at(due, self._fire, due)
        items[item] = None
        return due

    def discard(self, item: _Item, due: float) -> None:
        """Nothing is due any more for `item`, for which that was told."""
        if items := self._items.get(due):
            items.pop(item, None)

    def clear(self) -> None:
        """Discard all."""
        for timer in self._timers.values():
            timer.cancel()
        self._items.clear()
        self._timers.clear()

    def _fire(self, due: float) -> None:
        del self._timers[due]
        items = self._items[due]
        while items:
            self._on_due(items.popitem()[0])
        self._items.pop(due, None)
