"""What a run is recorded as."""

import argparse
import json
import sys
from pathlib import Path

import pytest

from benchmarks import record


def test_rows_come_with_what_it_takes_to_judge_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "--seconds", "3", "--json", "somewhere.json", "--texts", "a b"])
    path = tmp_path / "runs" / "some.json"
    options = argparse.Namespace(seconds=3.0, texts="a b", json=path)
    record.write(path, [{"rate": 1234.5678, "calls": 123456}, {"rate": float("nan")}], options)
    written = json.loads(path.read_text())
    assert written["rows"] == [{"rate": 1235.0, "calls": 123456}, {"rate": None}]
    assert written["options"] == {"seconds": 3.0, "texts": "a b"}
    assert written["command"].endswith(" --seconds 3 --texts 'a b'")
    assert written["taken"].endswith("Z")
    assert set(written["machine"]) == {"cpu", "cores", "kernel", "memory_gib"}
    assert {"python", "uvicorn", "infinity-gateway"} <= set(written["versions"])


def test_a_row_has_a_line(tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    record.write(path, [{"rates": [1.0, 2.0]}, {"rates": [3.0]}], argparse.Namespace())
    assert '  {"rates": [1.0, 2.0]},\n  {"rates": [3.0]}\n' in path.read_text()


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.000123456, 0.0001235), ((1.23456, 7), [1.235, 7]), ({"a": 2 / 3}, {"a": 0.6667}), (True, True)],
)
def test_floats_have_four_digits(value: object, expected: object) -> None:
    assert record.rounded(value) == expected
