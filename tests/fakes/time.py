"""An event loop whose clock jumps: whenever nothing is ready, it is at once the time of the next timer.

    @fake_time
    async def test_something() -> None:
        await asyncio.sleep(3600)  # takes no time, and loop.time() says 3600.0

The clock starts at 0. A test in which everything waits for something that will never happen fails in those
words instead of hanging, and so does one in which a task or a callback failed that nobody looked at.
"""

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

_P = ParamSpec("_P")

END_S = 24 * 3600.0
"""No test means to run for so long: what lasts for a day waits for ever, beside a timer that recurs."""


class _JumpingSelector(selectors.SelectSelector):
    """Waits for no file; what would be time spent waiting is added to `now`."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise RuntimeError(f"at {self.now:g} s everything waits for something that will never happen")
        self.now += max(timeout, 0.0)
        if self.now > END_S:
            raise RuntimeError("a day has passed: something waits that will never happen")
        return []


class FakeTimeLoop(asyncio.SelectorEventLoop):
    """The loop. `errors` holds what went wrong in tasks and callbacks that nobody awaits."""

    def __init__(self) -> None:
        self._clock = _JumpingSelector()
        self.errors: list[dict[str, Any]] = []
        super().__init__(self._clock)
        self.set_exception_handler(lambda _, context: self.errors.append(context))

    def time(self) -> float:
        return self._clock.now


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run `main` on a loop of its own with fake time."""
    loop = FakeTimeLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main)
    if loop.errors:
        errors = [context.get("exception") for context in loop.errors]
        raise AssertionError(f"failed where nobody looked: {loop.errors}") from next(
            filter(None, errors), None
        )


def fake_time(test: Callable[_P, Coroutine[Any, Any, None]]) -> Callable[_P, None]:
    """Run an asynchronous test with fake time. To pytest the test is an ordinary function."""

    @functools.wraps(test)
    def run_test(*args: _P.args, **kwargs: _P.kwargs) -> None:
        run(test(*args, **kwargs))

    return run_test


async def idle() -> None:
    """Let everything happen that needs no time to pass."""
    for _ in range(50):
        await asyncio.sleep(0)
