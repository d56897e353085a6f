"""The loop with fake time, which the other tests here rely on."""

import asyncio
from itertools import count
from time import perf_counter

import pytest

from tests.fakes.time import FakeTimeLoop, fake_time, idle, run


def test_an_hour_takes_no_time() -> None:
    """The clock jumps to the next timer, exactly."""

    async def wait() -> None:
        loop = asyncio.get_running_loop()
        assert loop.time() == 0
        await asyncio.sleep(3600)
        assert loop.time() == 3600

    started = perf_counter()
    run(wait())

    assert perf_counter() - started < 10


def test_timers_fire_in_order() -> None:
    """Whatever the order in which they were made."""
    fired: list[tuple[float, str]] = []

    async def sleep(delay: float, name: str) -> None:
        await asyncio.sleep(delay)
        fired.append((asyncio.get_running_loop().time(), name))

    async def main() -> None:
        await asyncio.gather(sleep(3, "c"), sleep(1, "a"), sleep(2, "b"))

    run(main())

    assert fired == [(1, "a"), (2, "b"), (3, "c")]


def test_time_stands_still_while_something_is_ready() -> None:
    """Work takes no time on this clock."""

    async def main() -> None:
        timer = asyncio.get_running_loop().create_task(asyncio.sleep(0.001))
        for _ in range(1000):
            await asyncio.sleep(0)
        assert asyncio.get_running_loop().time() == 0
        assert not timer.done()
        await timer

    run(main())


def test_timeouts_work() -> None:
    """asyncio.timeout is on the same clock."""

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.sleep(10)
        assert asyncio.get_running_loop().time() == 5

    run(main())


def test_waiting_for_what_never_happens_is_said_in_words() -> None:
    """A lost wake-up fails at once."""

    async def main() -> None:
        await asyncio.sleep(2)
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="at 2 s everything waits for something that will never happen"):
        run(main())


def test_waiting_for_ever_beside_a_timer_that_recurs_is_said_too() -> None:
    """A health check every ten seconds does not hide a caller that is never answered."""

    async def tick() -> None:
        for _ in count():
            await asyncio.sleep(60)

    async def main() -> None:
        ticking = asyncio.get_running_loop().create_task(tick())
        await asyncio.get_running_loop().create_future()
        await ticking

    with pytest.raises(RuntimeError, match="a day has passed"):
        run(main())


def test_a_task_that_fails_unseen_fails_the_test() -> None:
    """Nobody awaits a callback, so its error would only be logged."""

    async def main() -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await idle()

    with pytest.raises(AssertionError, match="where nobody looked") as caught:
        run(main())

    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@fake_time
async def test_the_decorator_runs_an_asynchronous_test_on_the_loop() -> None:
    """Under pytest's auto mode, too."""
    assert isinstance(asyncio.get_running_loop(), FakeTimeLoop)


@pytest.mark.parametrize("value", ["a parameter"])
@fake_time
async def test_the_decorator_passes_fixtures_and_parameters_on(
    value: str, request: pytest.FixtureRequest
) -> None:
    """The test's own signature is what pytest sees."""
    assert value == "a parameter"
    assert request.node.name.endswith("[a parameter]")


def test_an_error_of_the_test_is_the_error_that_is_seen() -> None:
    """It is not hidden by what it leaves behind."""

    @fake_time
    async def fails() -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await idle()
        raise KeyError("the test's own")

    with pytest.raises(KeyError, match="the test's own"):
        fails()
