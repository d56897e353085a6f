"""The table of faults and attacks says what the tests prove, no more and no less."""

from pathlib import Path

import pytest

from tools.faults_table import PAGE, Row, fill, marked, table, unproven

ROW = Row("tests/a/test_a.py::test_it", "a | b", "nothing")


def test_the_committed_table_is_what_the_marks_say() -> None:
    text = PAGE.read_text()
    assert text == fill(text, table(marked())), "run the tests, then python tools/faults_table.py"


def test_marks_are_read_where_they_stand(tmp_path: Path) -> None:
    tests = tmp_path / "tests" / "some"
    tests.mkdir(parents=True)
    (tests / "test_b.py").write_text(
        '@pytest.mark.proves("one " "two", caller="nothing")\n'
        '@pytest.mark.proves("three", caller="400", kind="attack")\n'
        "async def test_it() -> None: ...\n"
        "@pytest.mark.other\ndef test_other() -> None: ...\n"
    )
    name = "tests/some/test_b.py::test_it"
    assert marked(tmp_path) == [Row(name, "one two", "nothing"), Row(name, "three", "400", "attack")]


@pytest.mark.parametrize(
    "mark",
    ['"a"', 'caller="b"', '"a", caller=f"{b}"', '"a", caller="b", kind="joke"', '"a", "b", caller="c"'],
)
def test_a_mark_that_says_too_little_is_refused(tmp_path: Path, mark: str) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_c.py").write_text(
        f"@pytest.mark.proves({mark})\ndef test_it() -> None: ...\n"
    )
    with pytest.raises(ValueError, match=r"tests/test_c\.py::test_it"):
        marked(tmp_path)


def test_only_what_has_passed_as_it_is_marked_is_proven() -> None:
    proven = {ROW.test: [list(ROW[1:])]}
    assert unproven([ROW], proven) == []
    assert unproven([ROW, ROW._replace(caller="an error")], proven) == [ROW._replace(caller="an error")]
    assert unproven([ROW], {}) == [ROW]


def test_faults_and_attacks_stand_apart() -> None:
    lines = [line for line in table([ROW._replace(kind="attack"), ROW]).splitlines() if line]
    row = "| A \\| b | nothing | [`test_it`](../tests/a/test_a.py) |"
    assert [lines[0], lines[3], lines[4], lines[7]] == ["## Faults", row, "## Attacks", row]


def test_a_page_without_a_place_for_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="0 places"):
        fill("no markers\n", "")
