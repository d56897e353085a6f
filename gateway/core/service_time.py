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

from typing import NamedTuple

_MEMORY = 0.97
"""What is kept, for each new answer, of what is known along its direction: it forgets within some 30."""

_SCALE = (1.0, 1.0, 8.0, 512.0)
"""Brings the four features to one size, for the sake of the arithmetic."""

_PRIOR = (0.006, 0.002, 0.0005, 0.00002)
"""l, o, a, b in seconds of a server of which nothing is known: a small model on a CPU."""

_PRIOR_WEIGHT = 0.5
"""What the prior is worth, in answers."""

_SURPRISE_MAX = 4.0
"""An answer counts as at most so many times what was expected: one hiccup is no new server. A server that has
become slow gets there in a few answers."""

_UNSURPRISING_S = 0.001
"""Nor does anybody get lost below: from an answer in no time at all there would be no way up."""


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

    __slots__ = ("_known", "answers", "deviation_s", "theta")

    def __init__(self) -> None:
        self.theta = [p * s for p, s in zip(_PRIOR, _SCALE, strict=True)]
        """The coefficients, each for its scaled feature."""
        # The information matrix, on which the prior has a diagonal.
        weight = _PRIOR_WEIGHT
        self._known = [[weight if i == j else 0.0 for j in range(4)] for i in range(4)]
        self.answers = 0
        self.deviation_s = 0.0
        """How far predictions are off, in the mean: an exponential average of the absolute error."""

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
        theta = self.theta
        x = (
            1.0 if idle else 0.0,
            float(shape.requests),
            shape.items / _SCALE[2],
            shape.padded / _SCALE[3],
        )
        expected = sum(map(_times, x, theta))
        if self.answers:
            took_s = min(took_s, max(_SURPRISE_MAX * expected, _UNSURPRISING_S))
        elif expected > 0:
            # Of the prior only the proportions mean anything.
            theta[:] = [value * took_s / expected for value in theta]
            expected = took_s
        error = took_s - expected
        self.answers += 1
        rate = max(0.1, 1 / self.answers)
        self.deviation_s += rate * (abs(error) - self.deviation_s)
        # Forget along x, then add x.
        known = self._known
        kx = [sum(map(_times, row, x)) for row in known]
        size = sum(map(_times, kx, x))
        # (Never below the prior's weight, or a direction seen rarely would swing with each answer.)
        forget = (1 - _MEMORY) / size if size > _PRIOR_WEIGHT else 0.0
        for i, row in enumerate(known):
            xi, ki = x[i], forget * kx[i]
            for j in range(4):
                row[j] += xi * x[j] - ki * kx[j]
        # known · step = x · error, solved with theta + step >= 0.
        step = [0.0, 0.0, 0.0, 0.0]
        for _ in range(8):
            for i in range(4):
                row = known[i]
                if row[i] > 0:
                    rest = x[i] * error - sum(map(_times, row, step)) + row[i] * step[i]
                    step[i] = max(rest / row[i], -theta[i])
        for i in range(4):
            theta[i] += step[i]


def _times(a: float, b: float) -> float:
    return a * b
