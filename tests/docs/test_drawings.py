"""What the pictures of docs/how-it-works.md show is what the code does."""

import json
from itertools import chain, pairwise
from typing import Any

import pytest

from benchmarks.scale import _L
from tests.docs.pages import ROOT
from tools import how_it_works

HALF_WAY_S = _L / 2


@pytest.fixture(scope="module")
def made() -> Any:
    return how_it_works.made()


def test_the_cut_in_the_picture_is_that_of_the_core(made: Any) -> None:
    """`make drawings` draws it again."""
    drawn = json.loads(how_it_works.FILE.read_text())
    assert {name: drawn[name] for name in ("arrival", "cut")} == {
        name: made[name] for name in ("arrival", "cut")
    }


def test_the_cut_is_cheaper_than_the_order_of_arrival(made: Any) -> None:
    assert sorted(chain(*made["cut"])) == sorted(chain(*made["arrival"]))
    assert how_it_works.cost(made["cut"]) < 0.5 * how_it_works.cost(made["arrival"])


def test_few_calls_leave_at_once_and_many_gather(made: Any) -> None:
    [server] = made["leaving"]["servers"]
    arrived = made["leaving"]["arrived"]
    busy_until = 0.0
    for start, end, _ in server["work"]:
        for at in arrived:
            # Nobody waits while the server is known to have nothing to do.
            if busy_until + HALF_WAY_S < at < start - HALF_WAY_S:
                assert any(at <= sent <= at + 0.002 for sent, _ in server["sent"]), at
        busy_until = end
    sizes = [items for sent, items in server["sent"] if sent > 0.6]
    assert sum(sizes) / len(sizes) > 3


def test_the_busy_server_hardly_pauses(made: Any) -> None:
    """The next batch is there when it ends one."""
    [server] = made["leaving"]["servers"]
    late = [work for work in server["work"] if work[0] > 0.52]
    idle = sum(after[0] - before[1] for before, after in pairwise(late))
    assert idle < 0.1 * (late[-1][1] - late[0][0])


def test_nothing_works_on_a_dead_server_and_the_slow_one_does_less(made: Any) -> None:
    first, died, slow = made["balancing"]["servers"]
    [(start, end)] = died["down"]
    assert not [work for work in died["work"] if work[0] < end and work[1] > start]
    assert [work for work in died["work"] if work[0] > end]
    assert 0 < sum(work[2] for work in slow["work"]) < 0.5 * sum(work[2] for work in first["work"])


@pytest.mark.parametrize("name", ["padding", "leaving", "balancing", "dashboard"])
def test_the_pictures_have_no_background(name: str) -> None:
    """They are read on white and on black."""
    text = (ROOT / "docs" / "images" / f"{name}.svg").read_text()
    assert 'style="fill: none"/>' in text.partition('<g id="patch_1">')[2].partition("</g>")[0]


def test_no_server_in_the_dashboards_picture_failed_but_the_one_that_was_killed() -> None:
    seen = json.loads((ROOT / "docs" / "images" / "dashboard.json").read_text())
    [states] = [panel["series"] for panel in seen["panels"] if panel["title"] == "State"]
    up = {series["name"]: [value for _, value in series["values"]] for series in states}
    assert set(up["server 0"]) == set(up["server 1"]) == {1.0}
    killed = up["server 2"]
    assert (killed[0], min(killed), killed[-1]) == (1.0, 0.0, 1.0)
