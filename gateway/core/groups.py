"""Whether callers who ask again once they are answered are served in one group or in two.

Two groups take turns: while the batch of one is under way the other one gathers, and the server is hardly
ever idle, but pays for each group what a batch costs. One group costs that once, and the server is idle while
the answers are on their way and the callers come back. Left to chance neither comes about: those who have
come together stay together, and of two groups one has six callers and the other two.

Which is faster depends on the server, the way and the callers, and how much of the way is the server's own
work cannot be told from outside. So each is tried for some turns now and then, and what answered most is
kept. It takes callers who come back at once: for those who come by chance or think first nobody waits.
"""

import math
from enum import Enum

_NEW = 0.2
"""The weight of the last time among all before it."""
_COME_BACK, _STAY_AWAY = 0.95, 0.8
"""From such a share on, callers are expected back, and below the other not any more."""
_TURNS = 24
"""So long is counted what is answered, in times of all callers, behind one in which they find together."""
_BETTER = 1.03
"""What another mode has to bring to be kept."""
_TURNS_MIN, _WORSE = 4, 0.85
"""And what is so much worse after so long is not tried to the end."""
_OTHERWISE = 1.5
"""By so much fewer or more are answered when times have changed."""
_LOOK_S_MIN, _LOOK_S_MAX = 1.0, 60.0
"""So often the other modes are tried: half as often each time, until one of them is kept."""
_LOOK_TRIALS = 8
"""But no sooner than after so many times of what a trial takes."""
_WAIT, _WAIT_S_MIN = 0.25, 0.002
"""So much of the work on a batch the callers of the one before are waited for."""
_CLOSE_S = 0.0001
"""A timer that comes so little too soon has come."""


class Mode(Enum):
    ANY = 0
    """Nobody is waited for, and a batch takes what there is."""
    ONE = 1
    """What waits is held until the batch under way is answered and its callers are back."""
    TWO = 2
    """A batch takes half of all, and leaves when as many as were answered are back."""


class Groups:
    """Decides for the one server of a pool. Times are those of the caller's clock, in seconds."""

    __slots__ = (
        "_answered", "_answered_at", "_arrived", "_arrived_before", "_came", "_come_back", "_count",
        "_counted_from", "_items", "_kept", "_look_s", "_looks_at", "_rate", "_share", "_untried",
        "_wait_s", "mode",
    )  # fmt: skip

    def __init__(self) -> None:
        self.mode = Mode.ANY
        self._arrived = 0
        """Items that have ever come."""
        self._items = 0.0
        """All that waits or is under way when an answer comes."""
        # Who comes back: the last answer, and who has come since.
        self._share = 0.0
        """Of the items that are answered, in whose place others come soon."""
        self._come_back = False
        self._answered = 0
        self._answered_at = -math.inf
        self._arrived_before = 0
        self._came = 0
        """So many have come soon."""
        self._wait_s = 0.0
        # What is tried:
        self._kept = Mode.ANY
        """The fastest mode so far."""
        self._untried: list[Mode] = []
        """What is to be tried next."""
        self._rate = 0.0
        """Items a second in it."""
        self._look_s = _LOOK_S_MIN
        self._looks_at = 0.0
        self._count = 0
        """Items answered in this mode, since callers have found together"""
        self._counted_from: float | None = None
        """at this time."""

    def on_call(self, now: float, items: int) -> None:
        """A call of so many items comes."""
        self._arrived += items
        if now < self._answered_at + self._wait_s:
            self._came += items

    def on_answer(self, now: float, items: int, in_all: int, work_s: float) -> None:
        """So many items are answered, on which the server worked for `work_s`; `in_all` waited or were under
        way until then, these too. 0: they are more than a batch, or cannot share one.
        """
        self._items += _NEW * (in_all - self._items)
        self._look_who_came(now, items, work_s)
        if in_all and self._come_back and self._items >= 1.5:
            self._compare(now, items)
        else:
            self.mode = self._kept = Mode.ANY
            self._rate, self._untried = 0.0, []
            self._look_s, self._looks_at = _LOOK_S_MIN, now + _LOOK_S_MIN
            self._begin()

    def _look_who_came(self, now: float, items: int, work_s: float) -> None:
        passed_s, soon_s = now - self._answered_at, self._wait_s
        if passed_s <= soon_s:  # It belongs to the last answer.
            self._answered += items
            return
        if self._answered:
            # Less those who come by chance: as many as later.
            later = self._arrived - self._arrived_before - self._came
            came = self._came - later * soon_s / (passed_s - soon_s)
            share = min(max(came / self._answered, 0.0), 1.0)
            self._share += _NEW * (share - self._share)
            self._come_back = self._share >= (_STAY_AWAY if self._come_back else _COME_BACK)
        self._wait_s = max(_WAIT * work_s, _WAIT_S_MIN)
        self._answered, self._answered_at = items, now
        self._arrived_before, self._came = self._arrived, 0

    def _begin(self) -> None:
        self._count, self._counted_from = 0, None

    def _compare(self, now: float, items: int) -> None:
        """Count what is answered in this mode; once that is enough, go on with the next, or the fastest."""
        self._count += items
        if self._counted_from is None:
            if self._count >= self._items:
                self._count, self._counted_from = 0, now
            return
        if self._count < _TURNS_MIN * self._items or now <= self._counted_from:
            return
        passed_s = now - self._counted_from
        rate = self._count / passed_s
        if self._count < _TURNS * self._items and (self.mode is self._kept or rate > _WORSE * self._rate):
            return
        if self.mode is not self._kept:
            if rate > _BETTER * self._rate:
                self._kept, self._rate, self._look_s = self.mode, rate, _LOOK_S_MIN
        else:
            if not self._rate / _OTHERWISE < rate < self._rate * _OTHERWISE:
                self._look_s = _LOOK_S_MIN
                self._looks_at = min(self._looks_at, now + _LOOK_S_MIN)
            self._rate = rate
            if now >= self._looks_at:
                self._untried = [mode for mode in Mode if mode is not self._kept]
                self._looks_at = now + max(self._look_s, _LOOK_TRIALS * passed_s)
                self._look_s = min(2 * self._look_s, _LOOK_S_MAX)
        self.mode = self._untried.pop() if self._untried else self._kept
        self._begin()

    def items_max(self, in_all: int) -> int | None:
        """Most items of a batch, with so many that wait or are under way; None: any number."""
        return math.ceil(max(self._items, in_all) / 2 - 0.25) if self.mode is Mode.TWO else None

    def until(self, now: float, under_way: int, late_at: float) -> float:
        """When what waits may leave, with so many batches under way, of which the first is late from
        `late_at` on; not after `now` if it may already.
        """
        if self.mode is Mode.ANY:
            return now
        if self.mode is Mode.ONE and under_way:
            return late_at if under_way == 1 else now
        until = self._answered_at + self._wait_s
        if self._arrived >= self._arrived_before + self._answered or until - now <= _CLOSE_S:
            return now
        return until
