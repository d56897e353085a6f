"""Two servers compared, as the command does it, in front of stand-ins."""

import json
import math

import pytest

from gateway.bench.compare import Ratio
from tests.bench.running import run
from tests.fakes.faults import Fault, posted
from tests.fakes.infinity import FakeInfinity, FakeModel

SHORT = ("--rounds", "1", "--duration", "0.2", "--warm-up", "0.1")


@pytest.mark.parametrize(
    ("pairs", "more_is_better", "less_is_better"),
    [
        ([(100, 150), (100, 140)], "faster", "slower"),
        ([(100, 90), (100, 95)], "slower", "faster"),
        ([(100, 90), (100, 150)], "even", "even"),
        ([(0, 90)], "", ""),
    ],
)
def test_what_rounds_do_not_agree_on_is_even(
    pairs: list[tuple[float, float]], more_is_better: str, less_is_better: str
) -> None:
    ratio = Ratio.of(pairs)
    assert ratio.verdict(more_is_better=True) == more_is_better
    assert ratio.verdict(more_is_better=False) == less_is_better


def test_a_ratio_is_of_the_rounds_side_by_side() -> None:
    """Not of the medians: a machine that was slow in one round was so for both."""
    assert Ratio.of([(100, 200), (10, 20), (50, 125)]) == Ratio(2.0, 2.0, 2.5)
    assert math.isnan(Ratio.of([]).median)


async def test_the_slower_one_is_called_so_and_both_get_the_same() -> None:
    async with FakeInfinity([FakeModel("m")]) as direct, FakeInfinity([FakeModel("m")]) as gateway:
        gateway.faults.append(Fault(delay=0.1, when=posted))
        ended = await run(
            *("--compare", direct.url, gateway.url, "--connections", "1,4", *SHORT, "--rounds", "2", "--json")
        )
    assert ended.code == 0
    for row, callers in zip(ended.json["rows"], (1, 4), strict=True):
        assert row["callers"] == callers
        assert row["rounds"] == 2
        for figure in ("calls_s", "p50_ms"):
            assert row[figure]["verdict"] == "slower"
            assert row[figure]["least"] <= row[figure]["ratio"] <= row[figure]["most"]
        assert row["p50_ms"]["gateway"] >= 100
        assert row["calls_s"]["ratio"] < 0.9
    assert "the worst cosine is 1.000000" in ended.json["notes"][0]
    assert "slower" in ended.err
    # What the slower one was asked in a round, in order, the faster one was asked too.
    fewer, more = ({json.dumps(batch) for batch in server.batches} for server in (gateway, direct))
    assert fewer <= more
    assert len(gateway.batches) == len(fewer), "a text was sent twice"


async def test_rates_are_compared_too() -> None:
    async with FakeInfinity([FakeModel("m")]) as direct, FakeInfinity([FakeModel("m")]) as gateway:
        direct.faults.append(Fault(delay=0.1, when=posted))
        ended = await run("--compare", direct.url, gateway.url, "--rate", "60", *SHORT, "--json")
    (row,) = ended.json["rows"]
    assert row["rate"] == 60
    assert row["p50_ms"]["verdict"] == "faster"
    assert row["p50_ms"]["direct"] >= 100


async def test_other_vectors_are_found() -> None:
    async with FakeInfinity([FakeModel("m")]) as direct, FakeInfinity([FakeModel("m", seed="x")]) as gateway:
        ended = await run("--compare", direct.url, gateway.url, "--connections", "1", *SHORT)
    assert ended.code == 1
    assert "THESE ARE NOT THE SAME ANSWERS" in ended.out

    async with FakeInfinity([FakeModel("m")]) as direct, FakeInfinity([FakeModel("m", dim=4)]) as gateway:
        ended = await run("--compare", direct.url, gateway.url, "--connections", "1", *SHORT)
    assert ended.code == 1
    assert "differ in shape" in ended.out


async def test_scores_are_compared_where_there_are_no_vectors() -> None:
    models = [FakeModel("cross", ("rerank",))]
    options = ("--rerank", "--items", "3", "--connections", "1", *SHORT)
    async with FakeInfinity(models) as direct, FakeInfinity(models) as gateway:
        ended = await run("--compare", direct.url, gateway.url, *options)
        assert ended.code == 0
        assert "scores of 16 calls: at most 0 apart" in ended.out
        assert all(len(batch) == 3 for batch in direct.batches)


async def test_a_server_may_call_the_model_otherwise() -> None:
    async with FakeInfinity([FakeModel("BAAI/bge")]) as direct, FakeInfinity([FakeModel("bge")]) as gateway:
        ended = await run("--compare", direct.url, gateway.url, "--connections", "1", *SHORT)
    assert ended.code == 0
    assert "model BAAI/bge\n" in ended.out
    assert "model bge\n" in ended.out


async def test_answers_that_cannot_be_compared_are_said() -> None:
    async with FakeInfinity([FakeModel("m")]) as direct, FakeInfinity([FakeModel("m")]) as gateway:
        gateway.faults.append(Fault(status=500, when=posted))
        ended = await run("--compare", direct.url, gateway.url, "--connections", "2", *SHORT)
    assert "answers could not be compared: one was answered with 500" in ended.out
    assert "gateway: errors: " in ended.out
    assert "slower" in ended.out
