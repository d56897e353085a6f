"""Inputs that kill and servers that die of other things, at once and for long."""

import pytest

from tests.fakes.time import run
from tests.pool.mortality import KINDS, Kind, Setting, Tally, live


@pytest.mark.parametrize("kind", KINDS)
def test_two_servers_die_of_one_input_at_most_and_nobody_else_is_failed(kind: Kind) -> None:
    """Whatever else they die of, and however often its callers ask for it with little time."""
    tally = Tally()

    run(live(Setting(lasts_s=40.0, kinds=(kind,)), seed=20_26, tally=tally))

    assert max(tally.died) == 2
    assert tally.faults
    assert {name for name in tally.calls if "less than two" not in name} == {"answered"}
