"""How many gateways and servers are needed."""

from typing import Any

import pytest

from tools.sizing import README, UTILISATION, Gateway, fill, gateway, need, read, server, shared, table

MEASURED: list[dict[str, Any]] = [{"gateways": n, "ratio": r} for n, r in ((1, 1.0), (2, 0.9), (4, 0.8))]


def test_the_readme_is_what_the_runs_say() -> None:
    text = README.read_text()
    assert text == fill(text, table()), "python tools/sizing.py writes what the runs say now"


@pytest.mark.parametrize("queries", [100, 1000, 5000, 20_000, 77_777])
def test_with_one_lost_none_is_busier_than_it_should_be(queries: int) -> None:
    each = Gateway(cpu_us=200, resident_mb=90, calls_s=4000)
    found = need(queries, each, 300, MEASURED)
    assert queries / each.calls_s / (found.pods - 1) <= UTILISATION
    assert queries / (300 * shared(MEASURED, found.pods)) / (found.servers - 1) <= UTILISATION
    # And not more than are needed for that.
    assert found.pods == 2 or queries / each.calls_s / (found.pods - 2) > UTILISATION
    fewer = found.servers - 2
    assert fewer == 0 or queries / (300 * shared(MEASURED, found.pods)) / fewer > UTILISATION


def test_by_hand() -> None:
    """1,000 calls of 200 µs take a fifth of a core: a pod, one to lose; 1000 / (300 · 0.9 · 0.65) = 5.7."""
    found = need(1000, Gateway(200, 90, 5000), 300, MEASURED)
    assert (found.pods, found.memory_mb, found.servers) == (2, 180, 7)
    assert found.cores == pytest.approx(0.2)


def test_what_several_gateways_lose_is_that_of_as_many_or_more() -> None:
    assert [shared(MEASURED, pods) for pods in (1, 2, 3, 4, 9)] == [1.0, 0.9, 0.8, 0.8, 0.8]
    assert shared([{"gateways": 1, "ratio": 1.0}, {"gateways": 2, "ratio": 1.04}], 2) == 1.0


def test_a_gateway_is_taken_at_its_worst_and_a_server_at_its_fullest() -> None:
    rows = read("gateway_bound")
    own = [row for row in rows if row["target"] == "gateway" and row["connections"] >= 64]
    each = gateway(rows)
    assert len(own) == 4
    assert all(row["cpu_us"] <= each.cpu_us and row["rate"] >= each.calls_s for row in own)
    minilm = read("upstream_minilm")
    [fullest] = [row for row in minilm if row["target"] == "gateway" and row["connections"] == 256]
    assert server(minilm) == fullest["rate"]


def test_without_its_place_nothing_is_written() -> None:
    with pytest.raises(ValueError, match="0 places"):
        fill("text", "table")
