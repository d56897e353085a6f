"""The stand-in in a process of its own."""

import aiohttp
import pytest

from tests.fakes.process import KILLER, MODEL, FakeProcess


async def test_who_has_seen_it_die_is_not_told_that_it_runs() -> None:
    """A process ends some time after its connections, and would not be started anew by whoever asked then."""
    async with FakeProcess() as fake, aiohttp.ClientSession() as session:
        for _ in range(2):
            with pytest.raises(aiohttp.ClientConnectionError):
                await session.post(f"{fake.url}/embeddings", json={"model": MODEL, "input": KILLER})
            assert not fake.runs

            await fake.start()
            assert fake.runs
