"""Who comes together: calls that arrive at an idle pool within a moment of each other, time after time.

Some callers ask for several things at once, and those whose calls were answered together often ask again
together. The first of them to arrive would leave alone, and all others wait until it is answered. So where
company has come before, the first call waits for as many as usual, for a moment at most. Where none has, as
with a single caller or with calls that come by chance, nothing waits.
"""

import math

_MOMENT_S = 0.001
"""Also the least that uvloop's timers can tell apart."""
_CLOSE_S = 0.0001
"""A timer that comes so little too soon has come."""
_NEW = 0.2
"""The weight of the last time among all before it."""
_COMPANY = 1.5
"""From so many calls in a moment on, on average, company is expected."""


class Gathering:
    """Decides for one pool. Times are those of the caller's clock, in seconds."""

    __slots__ = ("_count", "_ends_at", "_usual")

    def __init__(self) -> None:
        self._ends_at = -math.inf
        """When the moment is over that the last call to find the pool idle began."""
        self._count = 0
        """How many came in it, that one included."""
        self._usual = 1.0

    def on_call(self, now: float, *, idle: bool) -> None:
        """A call has come; `idle`: nothing else waits or is under way."""
        if idle:
            if self._count:
                self._usual += _NEW * (self._count - self._usual)
            self._ends_at, self._count = now + _MOMENT_S, 1
        elif now < self._ends_at:
            self._count += 1

    def on_answer(self) -> None:
        """A batch was answered. Who comes now may be one of those again who have been counted."""
        self._ends_at = -math.inf

    def until(self, now: float) -> float:
        """When what waits may leave; not after `now`, if it may already."""
        usual = self._usual
        if usual < _COMPANY or self._count + 0.5 >= usual:
            return now
        return self._ends_at if self._ends_at - now > _CLOSE_S else now
