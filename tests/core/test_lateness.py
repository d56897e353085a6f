import random

import pytest

from gateway.core.lateness import Lateness


def test_nothing_is_said_before_enough_is_known() -> None:
    """A quantile of a few answers is noise."""
    lateness = Lateness()
    for _ in range(20):
        lateness.add(1.0)

    assert lateness.quantile(0.95) is None


@pytest.mark.parametrize("part", [0.5, 0.95, 0.99])
def test_a_quantile_is_right_within_a_fifth(part: float) -> None:
    """Against the exact one of what was added."""
    rng = random.Random(1)
    lateness = Lateness()
    ratios = [rng.lognormvariate(0.3, 0.6) for _ in range(390)]
    for ratio in ratios:
        lateness.add(ratio)

    told = lateness.quantile(part)
    assert told is not None
    assert told / sorted(ratios)[int(part * len(ratios))] == pytest.approx(1, abs=0.25)


def test_it_forgets() -> None:
    """A server that has become slow is not late for ever."""
    lateness = Lateness()
    for _ in range(1000):
        lateness.add(1.0)
    for _ in range(2000):
        lateness.add(4.0)

    assert lateness.quantile(0.5) == pytest.approx(4, rel=0.25)


@pytest.mark.parametrize("ratio", [0.0, 1e-9, 1e9])
def test_what_is_out_of_all_bounds_is_counted_at_the_bound(ratio: float) -> None:
    """A clock may stand still, and a server may hang."""
    lateness = Lateness()
    for _ in range(100):
        lateness.add(ratio)

    told = lateness.quantile(0.5)
    assert told is not None
    assert 0.1 < told < 1000
