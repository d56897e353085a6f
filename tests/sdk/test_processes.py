"""What an interpreter does with the background: fork, end, and load it only when it is used."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.end_to_end.commands import Ended, ended
from tests.fakes.faults import contains
from tests.fakes.infinity import Fault
from tests.sdk.conftest import StandIn

ROOT = Path(__file__).parents[2]


@pytest.fixture
def hanging(stand_in: StandIn) -> StandIn:
    """Its answers to "slow" never come."""
    stand_in.fake.faults.append(Fault(hang=True, when=contains("slow")))
    return stand_in


async def python(code: str, *flags: str) -> Ended:
    """A fresh interpreter, in which every warning is an error."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    async with asyncio.timeout(25):
        return await ended(sys.executable, *flags, "-W", "error", "-c", code, environ=environ)


USED = """
import asyncio, os, sys, threading
from gateway import aembedding, embedding, sdk

def vector(text):
    return embedding("infinity/bert", text).data[0].embedding

before = vector("one")
"""


async def test_a_process_ends_by_itself(stand_in: StandIn) -> None:
    """Nothing is said, and nobody has to close anything."""
    assert await python(USED + "print(len(before))", "-X", "dev") == Ended(0, "8\n", "")


async def test_calls_that_nobody_waits_for_do_not_hold_up_the_end(hanging: StandIn) -> None:
    """Of a thread, of a loop that has ended, and of one that was only stopped."""
    code = """
async def left():
    call = asyncio.create_task(aembedding("infinity/bert", "slow"))
    await asyncio.sleep(0)

threading.Thread(target=vector, args=["slow"], daemon=True).start()
asyncio.run(left())
loop = asyncio.new_event_loop()
call = loop.create_task(aembedding("infinity/bert", "slow"))
loop.run_until_complete(asyncio.sleep(0))
call._log_destroy_pending = False  # asyncio's own complaint
print("end")
"""
    assert await python(USED + code) == Ended(0, "end\n", "")


async def test_a_call_after_the_end_is_refused(stand_in: StandIn) -> None:
    """By those that come last of all."""
    code = (
        """
import atexit
def last():
    try:
        vector("two")
    except Exception as error:
        print(type(error).__name__, error)
atexit.register(last)
"""
        + USED
    )  # what is registered first is called last
    assert await python(code) == Ended(0, "Draining this process is ending\n", "")


async def test_a_forked_child_has_a_background_of_its_own(stand_in: StandIn) -> None:
    """Also while another thread holds the lock of ours. The parent goes on with its own."""
    code = """
held, ended = threading.Event(), threading.Event()

def hold():
    with sdk._starting:
        held.set()
        ended.wait()

holding = threading.Thread(target=hold)
holding.start()
held.wait()
child = os.fork()
if not child:
    assert vector("one") == before
    print("child", flush=True)
    sys.exit()
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
ended.set()
holding.join()
assert vector("one") == before
print(code)
"""
    assert await python(USED + code) == Ended(0, "child\n0\n", "")


async def test_forked_workers(stand_in: StandIn) -> None:
    """As multiprocessing makes them, while calls of the parent are under way in many threads."""
    code = """
import multiprocessing
from concurrent.futures import ThreadPoolExecutor

with ThreadPoolExecutor(8) as threads:
    calls = [threads.submit(vector, f"text {i}") for i in range(200)]
    with multiprocessing.get_context("fork").Pool(3) as workers:
        print(workers.map(vector, ["one"] * 6) == [before] * 6)
    print(len([call.result() for call in calls]))
"""
    assert await python(USED + code) == Ended(0, "True\n200\n", "")


async def test_the_package_alone_is_cheap() -> None:
    """Neither the SDK nor what asks for versions is loaded before it is used."""
    code = """
import sys, gateway
print([name for name in ("asyncio", "importlib.metadata", "gateway.sdk") if name in sys.modules])
print(gateway.__version__[0], gateway.embedding.__module__, "rerank" in dir(gateway))
"""
    assert await python(code) == Ended(0, "[]\n0 gateway.sdk True\n", "")
