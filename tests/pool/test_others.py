"""Others who use the same servers, as a pool sees them."""

import pytest

from gateway.pool.others import ASK_EVERY_S
from tests.fakes.time import fake_time, run
from tests.fakes.upstream import RecordingUpstream
from tests.pool.pools import ask, at, now, running, texts


@pytest.mark.parametrize(("others", "most"), [(0.0, 2), (2.0, 1)])
def test_a_server_that_others_use_gets_one_batch_at_a_time(others: float, most: int) -> None:
    """Two full batches wait from the beginning; alone, the second would stand behind the first."""

    async def main() -> None:
        upstream = RecordingUpstream(latency_s=0.5)
        spent_s = 0.0

        def spent_of(_: str) -> float:
            nonlocal spent_s
            spent_s += ASK_EVERY_S * (1 + others)
            return spent_s

        upstream.spent_of = spent_of
        async with running(upstream) as pool:
            for number in range(40):  # one at a time, for longer than it takes to see
                await ask(pool, f"text {number}")
            (seen,) = pool.stats().deployments
            assert seen.others == pytest.approx(others, abs=0.3)
            await at(now() + 1.5)  # since bulk does not stand in a server's queue while persons ask
            upstream.in_flight_most.clear()
            await ask(pool, texts(64))
        assert upstream.in_flight_most["a"] == most

    run(main())


@fake_time
async def test_others_are_forgotten_while_a_pool_is_idle() -> None:
    """What they did then is not known of now: the first who asks again finds the server as if alone."""
    spent_s = 0.0

    def spent_of(_: str) -> float:
        nonlocal spent_s
        spent_s += 3 * ASK_EVERY_S
        return spent_s

    async with running(RecordingUpstream(latency_s=0.5, spent_of=spent_of)) as pool:
        for number in range(20):
            await ask(pool, f"text {number}")
        assert pool.stats().deployments[0].others > 1
        await at(now() + 5 + 2 * ASK_EVERY_S)
        assert pool.stats().deployments[0].others == 0


@fake_time
async def test_an_idle_pool_asks_nothing() -> None:
    asked = 0

    def spent_of(_: str) -> float:
        nonlocal asked
        asked += 1
        return 0.0

    async with running(RecordingUpstream(spent_of=spent_of)) as pool:
        await ask(pool, "text")
        await at(100)
    assert asked <= 1
