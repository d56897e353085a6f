"""How the rate is found that a server carries, in fake time; and what rows say."""

from collections import Counter
from typing import cast

import pytest

from gateway.bench.inputs import MadeUp
from gateway.bench.load import TIMED_OUT, Result
from gateway.bench.sweep import Plan, Sweep, says_stop
from gateway.bench.table import remarks
from gateway.bench.target import Target
from gateway.bench.wire import Route
from tests.bench.scripted import Scripted
from tests.fakes.time import fake_time


def sweep(server: Scripted, said: list[str], rates: list[float] | None = None, **plan: float) -> Sweep:
    options = {"duration_s": 5.0, "warm_up_s": 1.0, "timeout_s": 10.0, **plan}
    target = Target(cast("Route", server), "m")
    made = Plan(rates=rates, connections_max=512, seed=3, **options)
    return Sweep(target, MadeUp("short", False, None, 1), made, said.append)


@fake_time
async def test_the_knee_is_below_what_a_server_can_do() -> None:
    """One worker that takes 5 ms a call: 200 a second at the very most."""
    said: list[str] = []
    found = sweep(Scripted(lambda _: (0.005, 200), in_turn=True), said, p99_ms_max=100.0)
    await found.run()
    rates = [row["rate"] for row in found.rows]
    assert rates[:5] == [16, 32, 64, 128, 256]
    assert all(128 < rate < 256 for rate in rates[5:])
    (note,) = found.notes
    assert note.startswith("knee: ")
    assert 128 <= float(note.split()[1]) < 200
    assert "the p99 is" in note
    assert len(said) == 1 + len(rates) + sum(len(row["remarks"]) for row in found.rows)


@fake_time
async def test_after_too_much_a_rate_meets_a_server_that_has_done_with_it() -> None:
    """Else what one rate left in the server's queue would be taken for the next one's latency."""
    found = sweep(Scripted(lambda _: (0.005, 200), in_turn=True), [], p99_ms_max=2000.0)
    await found.run()
    after = found.rows[5:]
    assert max(row["rate"] for row in found.rows) >= 256
    assert any(row["p50_ms"] < 60 for row in after)


@fake_time
async def test_errors_say_stop() -> None:
    found = sweep(Scripted(lambda number: (0.01, 200 if number < 900 else 429)), [])
    await found.run()
    assert "of the calls failed" in found.notes[0]
    assert sum(row["rejected"] for row in found.rows) > 0
    assert all(row["errors"] == 0 for row in found.rows)


@fake_time
async def test_a_server_without_a_limit_is_left_in_time() -> None:
    found = sweep(Scripted(lambda _: (0.01, 200)), [], within_s=20.0)
    await found.run()
    assert [row["rate"] for row in found.rows] == [16, 32, 64]
    assert "no limit was found within 20 s" in found.notes[0]


@fake_time
async def test_a_server_that_fails_everything_has_no_knee() -> None:
    found = sweep(Scripted(lambda _: (0.01, 500)), [], within_s=20.0)
    await found.run()
    assert [row["rate"] for row in found.rows] == [16, 4, 1]
    assert found.notes[0].startswith("knee: none, since even at 1.00 calls/s 100% of the calls failed")
    assert found.answered == 0


@fake_time
async def test_each_rate_gets_other_texts() -> None:
    server = Scripted(lambda _: (0.01, 200))
    await sweep(server, [], [20, 50]).run()
    assert len(server.sent) > 300
    assert len(set(server.sent)) == len(server.sent)


@pytest.mark.parametrize(
    ("statuses", "latency_s", "calls", "said"),
    [
        ({}, 0.02, 1000, ""),
        ({429: 9}, 0.02, 991, ""),
        ({429: 11}, 0.02, 989, "1% of the calls failed"),
        ({TIMED_OUT: 500}, 0.02, 500, "50% of the calls failed"),
        ({}, 0.2, 1000, "the p99 is 200 ms, more than 100 ms"),
        ({}, 0.02, 900, "were answered in time"),
    ],
)
def test_what_says_stop(statuses: dict[int, int], latency_s: float, calls: int, said: str) -> None:
    """Of a thousand calls."""
    timed = 1000 - sum(count for status, count in statuses.items() if status != TIMED_OUT)
    result = Result(8, 10, calls, [latency_s] * timed, Counter(statuses))
    found = says_stop(result, 100)
    assert said in found
    assert bool(said) == bool(found)


def test_a_load_that_was_late_itself_is_said() -> None:
    latencies = [0.1] * 100
    assert remarks(Result(8, 10, 100, latencies, lag_s=0.008, core=0.5), 512, 10) == []
    (lagged,) = remarks(Result(8, 10, 100, latencies, lag_s=0.02, core=0.5), 512, 10)
    assert "the load itself was late by 20 ms" in lagged
    (busy,) = remarks(Result(8, 10, 100, latencies, lag_s=0.001, core=0.97), 512, 10)
    assert "0.97 of a core" in busy


def test_calls_that_waited_for_a_connection_are_said() -> None:
    (said,) = remarks(Result(512, 10, 100, [0.1] * 100, waited=1234), 512, 10)
    assert said.startswith("1,234 calls had to wait for one of 512 connections")
    (errors,) = remarks(Result(8, 10, 0, [], Counter({503: 12, TIMED_OUT: 3, 429: 99})), 512, 10)
    assert errors == "errors: 12 × 503, 3 × no answer within 10 s"
