"""Answers kept for those who ask the same again: bounded in bytes and age, least recently used go first."""

from collections import OrderedDict
from sys import getsizeof
from typing import NamedTuple

from gateway.core.lanes import BatchKey, Value
from gateway.core.settings import CacheSettings

_OVERHEAD_BYTES = 400
"""Of one entry, beside its texts and its answer: the tuples, the links."""


class Cached(NamedTuple):
    value: Value
    tokens: int
    """What the item was charged."""
    until: float
    size: int


class Cache:
    """The key holds everything that changes an answer: task, parameters, query, modality and text."""

    __slots__ = ("_kept", "_settings", "held_bytes")

    def __init__(self, settings: CacheSettings) -> None:
        self._settings = settings
        self._kept: OrderedDict[tuple[BatchKey, str], Cached] = OrderedDict()
        self.held_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: BatchKey, text: str, now: float) -> Cached | None:
        """The answer to `text`, unless it is not there or too old."""
        found = self._kept.get((key, text))
        if found is None:
            return None
        if found.until <= now:
            self._drop((key, text))
            return None
        self._kept.move_to_end((key, text))
        return found

    def put(self, key: BatchKey, text: str, value: Value, tokens: int, now: float) -> None:
        """Keep an answer; the oldest go for it where there is no more room."""
        size = sum(map(getsizeof, (text, value, key.params, key.query))) + _OVERHEAD_BYTES
        if size > self._settings.bytes_max:
            return
        if (key, text) in self._kept:
            self._drop((key, text))
        self._kept[key, text] = Cached(value, tokens, now + self._settings.ttl_s, size)
        self.held_bytes += size
        while self.held_bytes > self._settings.bytes_max:
            self._drop(next(iter(self._kept)))

    def clear(self) -> None:
        """Forget all: the servers do not answer so any more."""
        self._kept.clear()
        self.held_bytes = 0

    def _drop(self, key: tuple[BatchKey, str]) -> None:
        self.held_bytes -= self._kept.pop(key).size
