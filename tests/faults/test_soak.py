"""A short soak; `make soak` runs the long one."""

from pathlib import Path

import pytest

from tests.faults.soak import soak

SECONDS = 15.0


@pytest.mark.timeout(90)
@pytest.mark.proves(
    "Random faults of all these kinds, under callers who ask little and much, leave, hurry and send poison",
    caller="each accepted call gets its own vectors, once; afterwards nothing is left, and memory is flat",
)
async def test_nothing_is_lost_under_random_faults(tmp_path: Path) -> None:
    report = await soak(SECONDS, seed=20_26, directory=tmp_path)

    assert report.problems == [], str(report)
    assert sum(report.faults.values()) > 5
    assert report.texts > 1000
