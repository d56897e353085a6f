"""Whether a deployment answers as its pool does: vectors of two models must never end up in one index.

A server tells neither its revision nor its dtype nor how it pools. So whoever joins a pool, or comes back, is
first asked about two fixed texts, and what it answers, its samples, is held against those of the pool.
"""

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

_SCORE_MIN = 2.0
"""Scores below count as so large: next to 0 any noise would be large."""
_NAMES_MAX = 3


class Sample(NamedTuple):
    """What a server answers to one fixed text."""

    form: str
    """What must be equal, in words: `384 numbers`."""
    numbers: Sequence[float]
    is_score: bool = False
    are_bits: bool = False
    """Each number is a byte of eight signs, as in Infinity's binary dtypes."""


Samples = Sequence[Sample]


def distance(ours: Samples, theirs: Samples) -> float:
    """How far apart two answers to the same texts are, in the length of the longer vector: 0 for equal ones,
    about √2 for those of unrelated models, infinity for those that cannot be compared.
    """
    if len(ours) != len(theirs):
        return math.inf
    return max(map(_distance, ours, theirs), default=0.0)


def _distance(one: Sample, other: Sample) -> float:
    if (
        one.form != other.form
        or one.are_bits != other.are_bits
        or not (_is_finite(one) and _is_finite(other))
    ):
        return math.inf
    if one.are_bits:
        # Of two vectors at a small angle, that part of π has another sign.
        differ = sum((int(a) ^ int(b)).bit_count() for a, b in zip(_bytes(one), _bytes(other), strict=True))
        return math.pi * differ / (8 * len(one.numbers))
    longer = max(math.hypot(*one.numbers), math.hypot(*other.numbers), _SCORE_MIN if one.is_score else 0.0)
    return math.dist(one.numbers, other.numbers) / longer if longer else 0.0


def _bytes(sample: Sample) -> list[int]:
    return [int(number) & 0xFF for number in sample.numbers]


def _is_finite(sample: Sample) -> bool:
    return all(map(math.isfinite, sample.numbers))


class Sameness:
    """The samples of a pool's deployments, and those that all are held against.

    The first deployment to answer sets the reference. It stays, whoever comes and goes, until all deployments
    of the pool agree on another: a pool whose model was changed on purpose. Until the pool has got work, it
    is what most of those have that have answered.
    """

    __slots__ = ("_reference", "_samples", "_tolerance")

    def __init__(self, tolerance: float) -> None:
        self.become(tolerance)
        self._samples: dict[str, Samples] = {}
        """The last of each deployment."""
        self._reference: Samples = ()

    def become(self, tolerance: float) -> None:
        """Another tolerance from now on, of which the next comparisons know."""
        self._tolerance = tolerance

    def add(self, name: str, samples: Samples, members: Collection[str], *, worked: bool) -> bool:
        """`name`, one of the `members`, has answered so; whether what all are held against is another now.

        `worked`: the pool has got work.
        """
        self._samples[name] = samples
        if not all(map(_is_finite, samples)) or self._agree(samples, self._reference):
            return False
        if not self._reference:
            self._reference = samples
            return False
        agreed = {other for other, theirs in self._samples.items() if self._agree(samples, theirs)}
        outvoted = not worked and len(agreed) > len(self._holders())
        if not outvoted and not agreed.issuperset(members):
            return False
        self._reference = samples
        return True

    def forget(self, name: str) -> None:
        """It has left the pool."""
        self._samples.pop(name, None)

    def differs(self, name: str) -> str:
        """Why it must get no work; empty when it may."""
        samples = self._samples.get(name, ())
        if not all(map(_is_finite, samples)):
            return "answers a fixed text with what is not finite"
        if not samples or self._agree(samples, self._reference):
            return ""
        return f"does not answer a fixed text as {self._named()}: {self._gap(samples)}"

    def _agree(self, ours: Samples, theirs: Samples) -> bool:
        return distance(ours, theirs) <= self._tolerance

    def _holders(self) -> list[str]:
        """Who answers as the reference."""
        return [name for name, samples in self._samples.items() if self._agree(samples, self._reference)]

    def _named(self) -> str:
        holders = sorted(self._holders())
        more = len(holders) - _NAMES_MAX
        named = ", ".join(holders[:_NAMES_MAX]) + (f" and {more} more" if more > 0 else "")
        return f"{named} do" if len(holders) > 1 else f"{named} does" if named else "the pool did before"

    def _gap(self, samples: Samples) -> str:
        for sample, expected in zip(samples, self._reference, strict=False):
            if sample.form != expected.form:
                return f"{sample.form}, not {expected.form}"
        apart = distance(samples, self._reference)
        return f"apart by {apart:.2g} of their length, where {self._tolerance:g} is tolerated"
