"""One background for all threads and loops: batches shared, calls given up, engines closed."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from gateway import aembedding, embedding, sdk
from gateway.core.settings import Secret
from tests.api.waiting import until
from tests.fakes.faults import contains
from tests.fakes.infinity import Fault, vector_of
from tests.sdk.conftest import StandIn


def in_background(look: Callable[[sdk._Background], Any]) -> Any:
    """What `look` sees, in the background's own thread."""
    background = sdk._shared()

    async def seen() -> Any:
        return look(background)

    return asyncio.run_coroutine_threadsafe(seen(), background._loop).result(20)


def calls_under_way(background: sdk._Background) -> int:
    engines = [held.gateway._engine for held in background._held.values()]
    in_pools = sum(pool.in_flight_calls for engine in engines if engine for pool in engine.gateway.stats())
    return len(background._tasks) + in_pools


def test_threads_share_batches(stand_in: StandIn) -> None:
    """64 of them, each with one text at a time; everybody gets its own vector."""
    barrier, wrong = threading.Barrier(64), []

    def call(thread: int) -> None:
        barrier.wait()
        for i in range(4):
            text = f"text {i} of {thread}"
            if embedding("infinity/bert", text).data[0].embedding != vector_of(text).tolist():
                wrong.append(text)

    with ThreadPoolExecutor(64) as threads:
        list(threads.map(call, range(64)))

    batches = stand_in.asked()
    assert not wrong
    assert sum(map(len, batches)) == 64 * 4
    assert 64 * 4 / len(batches) > 8
    assert sum(thread.name == "infinity-gateway" for thread in threading.enumerate()) == 1


async def test_a_blocking_call_in_a_running_loop(stand_in: StandIn) -> None:
    """As in a cell of a notebook."""
    assert embedding("bert", "one").data[0].embedding == vector_of("one").tolist()


def test_loops_come_and_go(stand_in: StandIn) -> None:
    """One engine answers all, also after the loop that called first is closed."""
    for i in range(3):
        response = asyncio.run(aembedding("bert", f"text {i}"))
        assert response.data[0].embedding == vector_of(f"text {i}").tolist()

    assert in_background(lambda background: len(background._held)) == 1


async def test_awaited_calls_share_batches(stand_in: StandIn) -> None:
    """Of one loop."""
    await aembedding("bert", "first")
    await asyncio.gather(*(aembedding("bert", f"text {i}") for i in range(64)))

    assert 64 / (len(stand_in.asked()) - 1) > 8


async def test_a_cancelled_call_leaves_nothing(stand_in: StandIn) -> None:
    """Neither a task nor a ticket."""
    stand_in.fake.faults.append(Fault(hang=True, when=contains("slow")))
    call = asyncio.create_task(aembedding("bert", "slow"))
    await asyncio.to_thread(stand_in.wait_for, "slow")

    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call

    await until(lambda: in_background(calls_under_way) == 0)


def test_engines_that_nobody_uses_are_closed(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest unused first; the number of threads stays."""
    monkeypatch.setattr(sdk, "_ENGINES_MAX", 2)
    embedding("bert", "one", api_key="0")
    threads = threading.active_count()
    for key in ("1", "2", "0", "3"):
        embedding("bert", "one", api_key=key)

    held = in_background(lambda background: list(background._held))
    assert [servers.api_key for servers in held] == [Secret("0"), Secret("3")]
    assert threading.active_count() == threads


async def test_an_engine_in_use_is_not_closed(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its call is answered, however many others come; then it may go."""
    monkeypatch.setattr(sdk, "_ENGINES_MAX", 1)
    released = asyncio.Event()
    stand_in.fake.faults.append(Fault(delay=released, when=contains("slow")))
    call = asyncio.create_task(aembedding("bert", "slow", api_key="slow"))
    await asyncio.to_thread(stand_in.wait_for, "slow")
    for key in ("1", "2", "3"):
        await aembedding("bert", "one", api_key=key)

    async def release() -> None:
        released.set()

    await asyncio.to_thread(stand_in.run, release())
    assert (await call).data[0].embedding == vector_of("slow").tolist()
    assert in_background(lambda background: len(background._held)) == 1
