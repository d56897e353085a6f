"""A stand-in for Infinity that answers while the test itself waits, and is named in the environment."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

from gateway import sdk
from tests.fakes.infinity import FakeInfinity, ServiceTime

_Result = TypeVar("_Result")


class StandIn:
    """A `FakeInfinity` in an event loop of its own, in a thread of its own."""

    def __init__(self, fake: FakeInfinity, loop: asyncio.AbstractEventLoop) -> None:
        self.fake = fake
        self._loop = loop

    @property
    def url(self) -> str:
        return self.fake.url

    def run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """The result of `work` in the stand-in's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def wait_for(self, text: str) -> None:
        """Until a batch with `text` has come."""

        async def come() -> None:
            while not any(text in items for items in self.fake.batches):
                await self.fake.received(len(self.fake.batches) + 1)

        self.run(come())

    def asked(self) -> list[list[str]]:
        """The batches without those of probes."""
        return [items for items in self.fake.batches if "ping" not in items]


@contextmanager
def standing_in(fake: FakeInfinity) -> Iterator[StandIn]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    stand_in = StandIn(fake, loop)
    try:
        stand_in.run(fake.start())
        yield stand_in
    finally:
        stand_in.run(fake.close())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    monkeypatch.delenv("INFINITY_API_KEY", raising=False)
    with standing_in(FakeInfinity(service=ServiceTime(o=0.005))) as stand_in:
        monkeypatch.setenv("INFINITY_API_BASE", stand_in.url)
        yield stand_in
        sdk._close()  # before its servers go


@pytest.fixture(autouse=True)
def background(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test has a background of its own."""
    monkeypatch.setattr(sdk, "_background", None)
    monkeypatch.setattr(sdk, "_told", set())
    yield
    sdk._close()
