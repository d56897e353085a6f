"""A few seconds of overload; `make overload` is the run of minutes."""

from pathlib import Path

import pytest

from tests.faults.overload import TIMES, overload

SECONDS = 6.0


@pytest.mark.timeout(60)
@pytest.mark.proves(
    "three times more calls than the servers can answer, and on",
    caller="who can be answered in time, is, within 10 % of all that the servers can do; the others get 429 "
    "with Retry-After at once",
)
async def test_three_times_more_than_can_be_done(tmp_path: Path) -> None:
    report = await overload(SECONDS, tmp_path)

    assert report.problems == [], str(report)
    assert report.statuses.total() >= 0.9 * TIMES * report.capacity * SECONDS
    assert report.statuses.keys() <= {200, 429, 504}
