"""How long a server takes for a batch, learned from its answers.

    T = l + (k·o + a·n + b·n·longest)

for n items in k requests, the longest of L tokens: l is latency that does not occupy the server, o what each
request costs it, a each item and b each padded token. Response times contain the server's own queue, so what
is fitted is the time *between* the ends of batches while the server had more to do, which is work alone, and
the whole time of batches that met it idle, which is work and latency.

Recursive least squares with non-negative coefficients. What is new is weighed against what is known only
along the direction that it speaks of (directional forgetting, Kulhavý 1987; Cao and Schwartz 2000): a day of
full batches of one size says much about T at that size and does not wash out what was known of o and a.
"""

from collections.abc import Mapping
from typing import NamedTuple

_MEMORY = 0.97
"""What is kept, for each new answer, of what is known along its direction: it forgets within some 30."""

_SCALE = (1.0, 1.0, 8.0, 512.0)
"""Brings the four features to one size, for the sake of the arithmetic."""

_PRIOR = (0.006, 0.002, 0.0005, 0.00002)
"""l, o, a, b in seconds of a server of which nothing is known: a small model on a CPU."""

_PRIOR_WEIGHT = 0.5
"""What the prior is worth, in answers."""

_W = _PRIOR_WEIGHT
_KNOWN_OF_PRIOR = (_W, 0.0, 0.0, 0.0, _W, 0.0, 0.0, _W, 0.0, _W)
"""The information matrix, on which the prior has a diagonal: its upper half, row by row."""

_SURPRISE_MAX = 4.0
"""An answer counts as at most so many times what was expected: one hiccup is no new server. A server that has
become slow gets there in a few answers."""

_UNSURPRISING_S = 0.001
"""Nor does anybody get lost below: from an answer in no time at all there would be no way up."""


_SWEEPS_MAX = 8
_EXACT_S = 1e-6

_BATCH_WORTH = 2.0
"""A batch more costs o, and a turn in which others wait: twice o cuts the 99th percentile of short texts by a
tenth, and costs under two per cent of the throughput."""

_RATIO_MIN, _RATIO_MAX = 16.0, 8192.0
"""Bounds on o / b: past them all batches would look alike, and nothing more be learned."""


class Shape(NamedTuple):
    """What the work of a batch depends on."""

    requests: int
    items: int
    padded: int
    """Items times the tokens of the longest, summed over the requests."""


class ServiceTime:
    """The model of one server. All times are in seconds."""

    __slots__ = ("_known", "answers", "theta")

    def __init__(self) -> None:
        self.theta = [p * s for p, s in zip(_PRIOR, _SCALE, strict=True)]
        """The coefficients, each for its scaled feature."""
        self._known = _KNOWN_OF_PRIOR
        self.answers = 0

    @property
    def latency_s(self) -> float:
        """l"""
        return self.theta[0]

    @property
    def parameters(self) -> dict[str, float]:
        """l, o, a and b, in seconds (b for each padded token)."""
        return {n: t / s for n, t, s in zip(("l", "o", "a", "b"), self.theta, _SCALE, strict=True)}

    @property
    def ratio(self) -> float:
        """o / b: how many padded tokens cost as much as one batch more."""
        once, padded = self.theta[1] / _SCALE[1], self.theta[3] / _SCALE[3]
        return (
            min(max(_BATCH_WORTH * once, _RATIO_MIN * padded) / padded, _RATIO_MAX)
            if padded > 0
            else _RATIO_MAX
        )

    def restart(self) -> None:
        """The server was gone, and who comes back may be another: only the proportions are kept."""
        self.answers = 0

    def begin_anew(self, parameters: Mapping[str, float] | None, others: float = 0.0) -> None:
        """From `parameters` as they were known once. Without them: from the proportions of a server of which
        nothing is known, by the cost of a padded token, which shows even where something else adds to each
        answer. Of that it is one part where so many `others` were served as well.
        """
        if parameters is None:
            scale = self.theta[3] / _SCALE[3] / _PRIOR[3] / (1 + others) or 1.0
            self.theta = [p * s * scale for p, s in zip(_PRIOR, _SCALE, strict=True)]
        else:
            self.theta = [parameters[name] * s for name, s in zip("loab", _SCALE, strict=True)]
        self._known = _KNOWN_OF_PRIOR

    def bound_latency(self, took_s: float) -> None:
        """A batch alone took so long: its latency was no longer."""
        self.theta[0] = min(self.theta[0], took_s)

    def work_s(self, shape: Shape) -> float:
        """How long a batch occupies the server."""
        _, once, each, padded = self.theta
        return (
            once * shape.requests
            + each * shape.items * (1 / _SCALE[2])
            + padded * shape.padded * (1 / _SCALE[3])
        )

    def learn(self, shape: Shape, idle: bool, took_s: float) -> None:
        """A batch was answered: `took_s` after it was sent if that found the server `idle`, else after the
        answer before it.
        """
        t0, t1, t2, t3 = theta = self.theta
        x0, x1 = (1.0 if idle else 0.0), float(shape.requests)
        x2, x3 = shape.items / _SCALE[2], shape.padded / _SCALE[3]
        expected = x0 * t0 + x1 * t1 + x2 * t2 + x3 * t3
        if self.answers:
            took_s = min(took_s, max(_SURPRISE_MAX * expected, _UNSURPRISING_S))
        elif expected > 0:
            # Of the prior only the proportions mean anything.
            t0, t1, t2, t3 = theta[:] = [value * took_s / expected for value in theta]
            expected = took_s
        error = took_s - expected
        self.answers += 1
        # (Written out: this runs once for each batch, and loops over four would take three times as long.)
        k00, k01, k02, k03, k11, k12, k13, k22, k23, k33 = self._known
        y0 = k00 * x0 + k01 * x1 + k02 * x2 + k03 * x3
        y1 = k01 * x0 + k11 * x1 + k12 * x2 + k13 * x3
        y2 = k02 * x0 + k12 * x1 + k22 * x2 + k23 * x3
        y3 = k03 * x0 + k13 * x1 + k23 * x2 + k33 * x3
        size = y0 * x0 + y1 * x1 + y2 * x2 + y3 * x3
        # Forget along x, then add x. (Never below the prior's weight, or a direction seen rarely would swing
        # with each answer.)
        forget = (1 - _MEMORY) / size if size > _PRIOR_WEIGHT else 0.0
        k00 += x0 * x0 - forget * y0 * y0
        k01 += x0 * x1 - forget * y0 * y1
        k02 += x0 * x2 - forget * y0 * y2
        k03 += x0 * x3 - forget * y0 * y3
        k11 += x1 * x1 - forget * y1 * y1
        k12 += x1 * x2 - forget * y1 * y2
        k13 += x1 * x3 - forget * y1 * y3
        k22 += x2 * x2 - forget * y2 * y2
        k23 += x2 * x3 - forget * y2 * y3
        k33 += x3 * x3 - forget * y3 * y3
        self._known = (k00, k01, k02, k03, k11, k12, k13, k22, k23, k33)
        # known · step = x · error, solved with theta + step >= 0, one coordinate after the other.
        e0, e1, e2, e3 = x0 * error, x1 * error, x2 * error, x3 * error
        s0 = s1 = s2 = s3 = 0.0
        for _ in range(_SWEEPS_MAX):
            before = s0 + s1 + s2 + s3
            s0 = max((e0 - k01 * s1 - k02 * s2 - k03 * s3) / k00, -t0)
            s1 = max((e1 - k01 * s0 - k12 * s2 - k13 * s3) / k11, -t1)
            s2 = max((e2 - k02 * s0 - k12 * s1 - k23 * s3) / k22, -t2)
            s3 = max((e3 - k03 * s0 - k13 * s1 - k23 * s2) / k33, -t3)
            if abs(s0 + s1 + s2 + s3 - before) < _EXACT_S:
                break
        theta[:] = t0 + s0, t1 + s1, t2 + s2, t3 + s3
