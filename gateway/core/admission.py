"""May this call come in? Hard bounds on what one pool holds: what waits and what is under way."""

from gateway.core.settings import AdmissionSettings
from gateway.errors import Overloaded


class Admission:
    """Counts what is held, from `admit` to `release`."""

    __slots__ = ("_settings", "held_bytes", "held_items")

    def __init__(self, settings: AdmissionSettings) -> None:
        self._settings = settings
        self.held_items = 0
        self.held_bytes = 0

    def admit(self, items: int, size: int) -> None:
        """Count `items` items of `size` bytes together as held.

        Raises Overloaded, and counts nothing, when that would pass a bound.
        """
        settings = self._settings
        if self.held_items + items > settings.queued_items_max:
            raise Overloaded(f"{self.held_items} items are waiting for this model already; try again later")
        if self.held_bytes + size > settings.queued_bytes_max:
            raise Overloaded("too much text is waiting for this model already; try again later")
        self.held_items += items
        self.held_bytes += size

    def release(self, items: int, size: int) -> None:
        self.held_items -= items
        self.held_bytes -= size
        assert self.held_items >= 0 <= self.held_bytes
