"""Decides when a server that has ended is started again, and when that is pointless.

Plain numbers in, plain numbers out: no clock, no process.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SupervisionSettings:
    stop_s: float = 5.0
    """How long a server may take to end what is under way before it is killed."""
    wait_s_min: float = 1.0
    wait_s_max: float = 30.0
    settled_s: float = 60.0
    """A server that lived so long has started well: what ended it is a new matter."""
    failed_starts_max: int = 3
    """So many in a row, without the port ever having opened, cannot be bad luck."""


class Restarts:
    """The record of one server's starts."""

    def __init__(self, settings: SupervisionSettings) -> None:
        self._settings = settings
        self._wait_s = settings.wait_s_min
        self._ever_opened = False
        self.failed_starts = 0

    def opened(self) -> None:
        """The server's port opened. From then on it is never given up: it worked, so it can work again."""
        self._ever_opened = True

    def ended(self, lived_s: float) -> float | None:
        """How long to wait before the next start, or None to give up."""
        if lived_s >= self._settings.settled_s:
            self.failed_starts = 0
            self._wait_s = self._settings.wait_s_min
        elif not self._ever_opened:
            self.failed_starts += 1
            if self.failed_starts >= self._settings.failed_starts_max:
                return None
        wait_s = self._wait_s
        self._wait_s = min(2 * wait_s, self._settings.wait_s_max)
        return wait_s
