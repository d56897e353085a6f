"""What becomes of a run in the READMEs."""

from typing import Any

from benchmarks import report

_HEAD: dict[str, Any] = {
    "command": "python -m benchmarks.some",
    "taken": "2026-01-02T03:04:05Z",
    "machine": {"cpu": "A CPU", "cores": 2},
    "versions": {"infinity-gateway": "abc1234", "infinity-emb": "0.0.78"},
}


def _upstream(**rates: float) -> dict[str, Any]:
    """A run over 8 connections, each target's p99 a thousandth of its rate."""
    rows = [
        {
            "connections": 8,
            "target": target,
            "rate": rate,
            "p99_ms": rate / 1e3,
            "ratio": 1.5,
            "p99_ratio": 0.25,
        }
        for target, rate in rates.items()
    ]
    options = {"model": "tiny", "texts": "short", "servers": 1}
    return {"benchmark": "upstream_bound", **_HEAD, "options": options, "rows": rows}


def _cells(table: str) -> list[list[str]]:
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_gateway_stands_beside_direct_calls_and_the_best_peer() -> None:
    made = report.table(_upstream(direct=100.0, nginx=90.0, haproxy=110.0, gateway=200.0))
    assert _cells(made)[2] == [
        *("8", "100", "110 HAProxy", "200", "**1.50**", "0.10 ms", "0.09 ms nginx", "0.20 ms", "**0.25**")
    ]


def test_a_peer_that_was_not_measured_leaves_its_place_empty() -> None:
    row = _cells(report.table(_upstream(direct=100.0, gateway=200.0)))[2]
    assert row[2] == row[6] == ""


def test_every_table_says_what_was_measured_where() -> None:
    made = report.table(_upstream(direct=100.0, gateway=200.0))
    for said in (
        "random BERT",
        "1 Infinity 0.0.78 server",
        "A CPU, 2 cores; no GPU",
        "2026-01-02",
        "abc1234",
    ):
        assert said in made
    scripted = {"benchmark": "some", **_HEAD, "options": {}, "rows": [{"a": 1}]}
    assert "Scripted servers in place of Infinity" in report.table(scripted)


def test_rows_with_the_same_columns_share_a_table() -> None:
    rows = [
        {"target": "gateway", "p99_ms": 12.345, "all": [1, 2], "of_hand": None},
        {"ratio": 0.9, "calls": 7},
        {"target": "direct", "p99_ms": 1234.5, "all": [], "of_hand": 0.5},
    ]
    made = report.table({"benchmark": "some", **_HEAD, "options": {}, "rows": rows})
    assert _cells(made) == [
        ["target", "p99 ms", "of hand"], ["---:"] * 3, ["gateway", "12.3", ""], ["direct", "1234", "0.50"],
        ["ratio", "calls"], ["---:"] * 2, ["0.90", "7"],
    ]  # fmt: skip


def test_details_stay_in_the_record_where_there_is_a_summary() -> None:
    rows: list[dict[str, Any]] = [{"detail": n} for n in range(100)]
    record = {"benchmark": "some", **_HEAD, "options": {}, "rows": rows}
    assert len(_cells(report.table(record))) == 102
    rows.append({"ratio": 1.5})
    assert _cells(report.table(record)) == [["ratio"], ["---:"], ["1.50"]]


def test_only_what_is_between_the_markers_changes() -> None:
    text = (
        "before\n<!-- figures:one -->\nold\n\nrows\n<!-- /figures -->\nbetween\n"
        "<!-- figures:unknown -->\nkept\n<!-- /figures -->\nafter\n"
    )
    filled = report.fill(text, {"one": "new\n", "absent": "nowhere\n"})
    assert filled == text.replace("old\n\nrows\n", "new\n")
    assert report.fill(filled, {"one": "new\n"}) == filled


def test_a_text_without_markers_stays() -> None:
    for text in ("nothing here", "<!-- figures:one -->\nno end", "<!-- /figures -->"):
        assert report.fill(text, {"one": "new\n"}) == text
