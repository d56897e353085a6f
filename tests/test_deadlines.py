"""Deadlines that share their timers: each is kept, none too early, and none after it was discarded."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.deadlines import Deadlines
from tests.fakes.time import fake_time, run


def now() -> float:
    return asyncio.get_running_loop().time()


class Kept:
    """Deadlines, and when each of their items was due."""

    def __init__(self) -> None:
        self.due: dict[int, float] = {}
        self.deadlines = Deadlines[int](asyncio.get_running_loop(), self._on_due)

    def add(self, item: int, after_s: float) -> float:
        return self.deadlines.add(item, now() + after_s, now())

    def _on_due(self, item: int) -> None:
        assert item not in self.due
        self.due[item] = now()


@given(st.lists(st.floats(0.0, 60.0), max_size=30), st.floats(0.0, 5.0))
def test_each_is_due_once_and_in_time(waits: list[float], begins: float) -> None:
    """Within a hundredth of a second, or a tenth of one that is a second away or more."""

    async def waiting() -> None:
        await asyncio.sleep(begins)
        kept, since = Kept(), now()
        for item, after_s in enumerate(waits):
            kept.add(item, after_s)
        await asyncio.sleep(61)

        assert list(range(len(waits))) == sorted(kept.due)
        for item, after_s in enumerate(waits):
            late_s = kept.due[item] - since - after_s
            assert -1e-6 <= late_s <= (0.01 if after_s < 1 else 0.1) + 1e-6

    run(waiting())


@fake_time
async def test_what_is_discarded_is_never_due() -> None:
    """Also when it is discarded by another in the same step."""
    kept = Kept()
    first, second = kept.add(1, 0.5), kept.add(2, 0.5)
    kept.deadlines.discard(1, first)
    await asyncio.sleep(1)
    kept.deadlines.discard(2, second)

    assert list(kept.due) == [2]


@fake_time
async def test_one_that_is_due_may_discard_the_next() -> None:
    """As callers of one call who all leave when the first does."""
    seen: list[int] = []

    def on_due(item: int) -> None:
        seen.append(item)
        for each, step in steps.items():
            deadlines.discard(each, step)

    deadlines = Deadlines[int](asyncio.get_running_loop(), on_due)
    steps = {item: deadlines.add(item, 0.5, 0.0) for item in range(5)}
    await asyncio.sleep(1)

    assert len(seen) == 1


@pytest.mark.parametrize("clears", ["before", "while"])
@fake_time
async def test_after_clear_nothing_is_due(clears: str) -> None:
    """Also when something that is due clears."""
    seen: list[int] = []

    def on_due(item: int) -> None:
        seen.append(item)
        deadlines.clear()

    deadlines = Deadlines[int](asyncio.get_running_loop(), on_due)
    for item in range(5):
        deadlines.add(item, 0.5 + item / 10, 0.0)
    if clears == "before":
        deadlines.clear()
    await asyncio.sleep(5)

    assert len(seen) == (0 if clears == "before" else 1)


@fake_time
async def test_a_thousand_calls_of_one_second_share_a_few_timers() -> None:
    """That is what they are for."""
    loop = asyncio.get_running_loop()
    made = 0
    call_at = loop.call_at

    def counting(*args: object, **kwargs: object) -> asyncio.TimerHandle:
        nonlocal made
        made += 1
        return call_at(*args, **kwargs)  # type: ignore[arg-type]

    loop.call_at = counting  # type: ignore[method-assign]
    kept = Kept()
    for item in range(1000):
        kept.add(item, 30 + item / 1000)

    assert made <= 11
