"""Whether a server works for others as well: for other gateways, or for clients that call it directly.

A server tells how long requests have been with it, summed up over all that it has answered. Less what ours
were there, that is how many of others it had at any moment, on average (Little's law).
"""

_SHARED, _ALONE = 0.25, 0.05
_GONE = 0.25
_GAP_S_MAX = 5.0
_BACKWARDS_MAX = 3
_OTHERS_MAX = 3.0
"""More than so many are not counted on to be served one after the other: a server mixes what waits."""


class Sharing:
    """What is known of the others in one server."""

    __slots__ = ("_backwards", "_counted", "_spent_s", "_were_few", "is_known", "others", "own")

    def __init__(self) -> None:
        self.others = 0.0
        """Requests of others in it at any moment, on average; 0 as long as that is not known."""
        self.own = 0.0
        """Ours, likewise."""
        self.is_known = False
        self._spent_s = 0.0
        self._were_few = False
        """Last time there were far fewer of them than on average."""
        self._backwards = 0
        self._counted: tuple[float, float, float] | None = None
        """When its sum was asked last, that sum, and `_spent_s` then."""

    @property
    def is_shared(self) -> bool:
        """Whether others use it so much that what we send does not tell when it will be idle."""
        return self.others > _SHARED

    @property
    def is_alone(self) -> bool:
        """Whether it is ours, as far as is known."""
        return self.is_known and self.others < _ALONE

    @property
    def ahead(self) -> float:
        """How many requests of others stand before one of ours."""
        return min(self.others, _OTHERS_MAX)

    def on_answered(self, spent_s: float) -> None:
        self._spent_s += spent_s

    def look(self, now: float) -> None:
        """What was known of others when it was asked last is forgotten in time: they come and go."""
        if self._counted and now >= self._counted[0] + _GAP_S_MAX:
            self.others, self.own, self.is_known, self._counted = 0.0, 0.0, False, None

    def on_sum(self, spent_s: float, now: float) -> None:
        """Requests have been with the server for `spent_s` in all."""
        self.look(now)
        before, self._counted = self._counted, (now, spent_s, self._spent_s)
        if before is None or now <= before[0]:
            return
        if spent_s < before[1]:
            # Started anew; or, seen again and again, not one server but several behind one address.
            self._backwards += 1
            self.others, self.own, self.is_known = 0.0, 0.0, False
            return
        if self._backwards >= _BACKWARDS_MAX:
            return
        at, all_before, own_before = before
        passed_s, own_s = now - at, self._spent_s - own_before
        others = max(0.0, spent_s - all_before - own_s) / passed_s
        # An average; but most of fifty who have gone are not there for ten seconds more. Missed once
        # is not gone: who was elsewhere for a moment would find two batches of ours in its place.
        are_few = others < _GONE * self.others
        gone = are_few and self._were_few
        self._were_few = are_few
        self.others += (others - self.others) / (2 if self.is_known and not gone else 1)
        self.own += (own_s / passed_s - self.own) / (2 if self.is_known else 1)
        self.is_known = True
