"""What is counted of a load, in fake time."""

import asyncio

import pytest

from gateway.bench.load import REFUSED, TIMED_OUT, UNSENT, ClosedLoop, OpenLoop
from gateway.bench.wire import LOST
from tests.bench.scripted import Scripted, bodies
from tests.fakes.time import fake_time


@fake_time
async def test_latencies_are_those_that_the_server_has() -> None:
    """One in a hundred takes 0.5 s, all others 20 ms, at a rate that needs several connections."""
    server = Scripted(lambda number: (0.5 if number % 100 == 50 else 0.02, 200))
    result = await OpenLoop(server, bodies(), 200, seconds=50).run()
    assert [round(result.percentile_ms(each)) for each in (50, 90, 95, 98.5)] == [20] * 4
    assert [round(result.percentile_ms(each)) for each in (99.5, 99.9, 100)] == [500] * 3
    assert result.rate == pytest.approx(200, rel=0.05)
    assert result.errors == 0
    assert result.connections < 30


@fake_time
async def test_a_stall_shows_as_all_who_would_have_met_it_see_it() -> None:
    """One call of thousands takes a second, over one connection: those due meanwhile are late by that."""
    stalls = Scripted(lambda number: (1.0 if number == 300 else 0.001, 200))
    result = await OpenLoop(stalls, bodies(), 100, seconds=20, connections_max=1).run()
    assert result.percentile_ms(50) < 10
    assert 700 < result.percentile_ms(99) <= 1005
    assert result.waited > 80


@fake_time
async def test_callers_who_wait_hide_a_stall() -> None:
    """The same server and connection in a closed loop: what the open one is for."""
    stalls = Scripted(lambda number: (1.0 if number == 300 else 0.001, 200))
    result = await ClosedLoop(stalls, bodies(), 1, seconds=20).run()
    assert result.percentile_ms(99.9) == pytest.approx(1)
    assert result.percentile_ms(100) == pytest.approx(1000)


@fake_time
async def test_calls_are_not_held_up_by_those_before() -> None:
    server = Scripted(lambda _: (3.0, 200))
    result = await OpenLoop(server, bodies(), 100, seconds=10).run()
    assert result.percentile_ms(100) == pytest.approx(3000)
    assert result.connections > 250


@fake_time
async def test_times_come_from_the_seed() -> None:
    first, other = Scripted(lambda _: (0.01, 200)), Scripted(lambda _: (0.01, 200))
    second = Scripted(lambda _: (0.3, 200))
    sent = []
    for server, seed in ((first, 7), (second, 7), (other, 8)):
        start = asyncio.get_running_loop().time()
        await OpenLoop(server, bodies(), 50, seconds=2, seed=seed).run()
        sent.append([at - start for at in server.sent_at])
    assert sent[0] == pytest.approx(sent[1])
    assert sent[0] != pytest.approx(sent[2])


@fake_time
async def test_refusals_count_by_status_and_do_not_flatter_latency() -> None:
    server = Scripted(lambda number: (0.001, 429) if number % 2 else (0.1, 503 if number % 10 == 0 else 200))
    result = await OpenLoop(server, bodies(), 100, seconds=10).run()
    assert set(result.statuses) == {429, 503}
    assert result.statuses[429] == pytest.approx(5 * result.statuses[503], rel=0.1)
    assert result.percentile_ms(1) == pytest.approx(100)
    assert result.rate == pytest.approx(40, rel=0.15)


@fake_time
async def test_what_is_never_answered_counts_with_the_time_for_which_it_was_waited() -> None:
    server = Scripted(lambda number: (3600 if number % 50 == 49 else 0.01, 200))
    result = await OpenLoop(server, bodies(), 100, seconds=10, timeout_s=5).run()
    assert result.statuses.keys() == {TIMED_OUT}
    assert 10 <= result.statuses[TIMED_OUT] <= 30
    assert result.percentile_ms(50) == pytest.approx(10)
    assert 5000 <= result.percentile_ms(99) < 5200


@fake_time
async def test_what_finds_no_connection_in_time_is_said_to_be_unsent() -> None:
    server = Scripted(lambda _: (3600, 200))
    result = await OpenLoop(server, bodies(), 100, seconds=10, connections_max=3, timeout_s=2).run()
    assert result.connections == 3
    assert result.statuses.keys() <= {TIMED_OUT, UNSENT}
    assert result.statuses[UNSENT] > 500
    assert len(result.latencies_s) == result.errors


@fake_time
async def test_lost_and_refused_connections_are_errors() -> None:
    loses = Scripted(lambda number: (0.01, 0 if number % 10 == 9 else 200))
    result = await OpenLoop(loses, bodies(), 100, seconds=10).run()
    assert result.statuses.keys() == {LOST}
    assert result.errors == pytest.approx(100, rel=0.2)

    refused = await OpenLoop(Scripted(lambda _: (0, 200), refuses=True), bodies(), 100, seconds=1).run()
    assert refused.statuses.keys() == {REFUSED}
    assert refused.calls == 0
    assert refused.errors == pytest.approx(100, rel=0.3)


@fake_time
async def test_callers_who_wait_go_on_with_another_connection() -> None:
    loses = Scripted(lambda number: (0.01, 0 if number % 100 == 99 else 200))
    result = await ClosedLoop(loses, bodies(), 4, seconds=10).run()
    assert result.rate == pytest.approx(396, rel=0.02)
    assert result.statuses == {LOST: pytest.approx(40, abs=2)}

    hangs = Scripted(lambda number: (3600 if number == 200 else 0.01, 200))
    result = await ClosedLoop(hangs, bodies(), 1, seconds=10, timeout_s=2).run()
    assert result.statuses == {TIMED_OUT: 1}
    assert 2000 <= result.percentile_ms(100) < 2200
    assert result.ended > 850

    refused = await ClosedLoop(Scripted(lambda _: (0, 200), refuses=True), bodies(), 4, seconds=2).run()
    assert refused.calls == 0
    assert refused.statuses.keys() == {REFUSED}


@fake_time
async def test_measuring_begins_when_each_caller_has_had_an_answer() -> None:
    """The first answers take 2.5 s, so it begins after three warm-ups of one."""
    server = Scripted(lambda number: (2.5 if number < 4 else 0.1, 200))
    result = await ClosedLoop(server, bodies(), 4, seconds=10).run()
    assert result.rate == pytest.approx(40, rel=0.02)
    assert result.percentile_ms(100) == pytest.approx(100)
    assert result.ended > result.calls + 4


@fake_time
async def test_who_is_interrupted_tells_what_there_is() -> None:
    load = OpenLoop(Scripted(lambda _: (0.01, 200)), bodies(), 100, seconds=1000)
    running = asyncio.create_task(load.run())
    await asyncio.sleep(11)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    result = load.result()
    assert result.seconds == pytest.approx(10)
    assert result.rate == pytest.approx(100, rel=0.1)
    assert result.errors == 0
