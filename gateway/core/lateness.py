"""How much longer than expected a server's answers take: quantiles of a ratio, which forget."""

import math

_STEPS = 4
"""Classes of ratios to a doubling, so that a quantile is right within a fifth."""
_LEAST = -2 * _STEPS
_CLASSES = 10 * _STEPS
_ENOUGH = 40
_MEMORY = 400
"""Answers after which all before count for half."""


class Lateness:
    """Ratios of times taken to times expected."""

    __slots__ = ("_counts", "_total")

    def __init__(self) -> None:
        self._counts = [0.0] * _CLASSES
        self._total = 0.0

    def add(self, ratio: float) -> None:
        index = round(_STEPS * math.log2(ratio)) - _LEAST if ratio > 0 else 0
        self._counts[min(max(index, 0), _CLASSES - 1)] += 1
        self._total += 1
        if self._total >= _MEMORY:
            self._counts = [count / 2 for count in self._counts]
            self._total /= 2

    def quantile(self, part: float) -> float | None:
        """The ratio that so many of the answers stay below; None when too few are known."""
        if self._total < _ENOUGH:
            return None
        left = part * self._total
        index = -1
        while left > 0 and index < _CLASSES - 1:
            index += 1
            left -= self._counts[index]
        return float(2 ** ((index + _LEAST + 0.5) / _STEPS))
