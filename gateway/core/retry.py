"""What may be tried again, and how often.

Infinity never cancels: a batch that timed out is still being worked on, and the same batch sent to
another server is the double of the load just when there is too much of it. So slowness alone is never
retried, and all retries together share a budget.
"""

from collections import deque
from enum import StrEnum

from gateway.core.settings import RetrySettings


class Failure(StrEnum):
    """How sending a batch can fail."""

    REFUSED = "refused"
    """Nothing listens there: the server has not seen the batch."""
    DISCONNECTED = "disconnected"
    TIMEOUT = "timeout"
    HUNG = "hung"
    """Not answered, and a single short item sent after it was not answered either."""
    OVERLOADED = "overloaded"
    """429."""
    SERVER_ERROR = "server_error"
    BAD_ANSWER = "bad_answer"
    REJECTED = "rejected"
    """A 4xx about the input."""
    UNAUTHORIZED = "unauthorized"
    """The server does not take our key."""


FREE = frozenset({Failure.REFUSED})
"""Cost no server any work, and so nothing from the budget. They end when no server is left to refuse."""

KILLS = frozenset({Failure.DISCONNECTED, Failure.HUNG})
"""What it looks like when an input kills its server."""

_NEVER = frozenset({Failure.TIMEOUT, Failure.REJECTED})


class RetryBudget:
    """Retries may be a share of the batches of the last seconds, and a few more."""

    def __init__(self, settings: RetrySettings) -> None:
        self._settings = settings
        self._sent: deque[float] = deque()
        self._retried: deque[float] = deque()

    def become(self, settings: RetrySettings) -> None:
        """Another budget from now on; what was taken stays so."""
        self._settings = settings

    def on_batch(self, now: float) -> None:
        self._sent.append(now)
        self._forget(self._sent, now)

    def allows(self, failure: Failure, tries: int, now: float) -> bool:
        """Whether a batch that failed so at its `tries`-th try may be tried again; takes from the budget."""
        if failure in FREE:
            return self._settings.retries_max > 0
        if failure in _NEVER or tries > self._settings.retries_max:
            return False
        self._forget(self._sent, now)
        self._forget(self._retried, now)
        settings = self._settings
        most = settings.budget_ratio * len(self._sent) + settings.budget_per_s * settings.budget_window_s
        if len(self._retried) >= most:
            return False
        self._retried.append(now)
        return True

    def _forget(self, times: deque[float], now: float) -> None:
        oldest = now - self._settings.budget_window_s
        while times and times[0] < oldest:
            times.popleft()


class HedgeBudget:
    """Batches sent to a second deployment as well may be a small share of all."""

    _SAVED_MAX = 10.0

    def __init__(self, settings: RetrySettings) -> None:
        self._ratio = settings.hedge_ratio
        self._saved = 0.0

    def become(self, settings: RetrySettings) -> None:
        self._ratio = settings.hedge_ratio

    def on_batch(self) -> None:
        self._saved = min(self._saved + self._ratio, self._SAVED_MAX)

    def take(self) -> bool:
        """Whether one more may be sent; takes from the budget."""
        if self._saved < 1:
            return False
        self._saved -= 1
        return True
