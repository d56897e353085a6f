"""More to do than can be done: what is done must still be done for somebody."""

import asyncio

import pytest

from tests.fakes.time import fake_time
from tests.fakes.upstream import RecordingUpstream
from tests.pool.pools import ask, now, outcome, running, texts

LASTS_S = 600.0


# At 4 s and 8 batches at a time, the last would wait longer than its time limit: the limit must be learned.
@pytest.mark.parametrize("batch_s", [1.0, 3.0])
@fake_time
async def test_a_slow_server_that_is_kept_busy_goes_on_answering(batch_s: float) -> None:
    """What stands in its queue must not run out of time there: it would work for nobody, ever more."""
    upstream = RecordingUpstream(latency_s=batch_s, serial=True)
    answered = 0

    async with running(upstream) as pool:

        async def caller(name: str) -> None:
            nonlocal answered
            while now() < LASTS_S:
                if await outcome(ask(pool, texts(32, name), within_s=120)) == "answered":
                    answered += 1
                else:
                    await asyncio.sleep(1)

        await asyncio.gather(*(caller(f"caller {i} ") for i in range(16)))

    assert answered >= 0.8 * LASTS_S / batch_s
