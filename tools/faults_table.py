"""The table of faults and attacks in docs/faults.md, from the tests that prove them.

    python tools/faults_table.py

A test says what it proves: `@pytest.mark.proves("what is done", caller="what the caller sees")`, with
`kind="attack"` where somebody means harm. A row is written once its test has passed. The rows stand between
`<!-- faults -->` and `<!-- /faults -->`.
"""

import ast
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "faults.md"
PROVEN = ROOT / ".cache" / "faults.json"
"""A test → the rows that it proved when it ran last, as tests/conftest.py records them."""

KINDS = {"fault": "Faults", "attack": "Attacks"}
_HEAD = "| what is done | what the caller sees | proved by |\n| --- | --- | --- |\n"
_MARKED = re.compile(r"(?<=<!-- faults -->\n).*?(?=<!-- /faults -->)", re.DOTALL)


class Row(NamedTuple):
    test: str
    """Its file, from the root of the repository, and its name, as pytest writes them."""
    what: str
    caller: str
    """What the caller saw."""
    kind: str = "fault"


def row(test: str, what: object, /, *, caller: object, kind: object = "fault") -> Row:
    """What one mark says. Raises ValueError for what cannot stand in the table."""
    if not isinstance(what, str) or not isinstance(caller, str) or kind not in KINDS:
        raise ValueError(f'{test}: proves("what is done", caller="what they see", kind="{"|".join(KINDS)}")')
    return Row(test, what, caller, str(kind))


def marked(root: Path = ROOT) -> list[Row]:
    """The rows of all marks in the tests, in the order in which they stand there. Nothing is imported."""
    return [
        found
        for file in sorted((root / "tests").rglob("test_*.py"))
        for found in _marks(file.relative_to(root).as_posix(), ast.parse(file.read_text()))
    ]


def _marks(file: str, module: ast.Module) -> Iterator[Row]:
    for test in module.body:
        if not isinstance(test, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for mark in test.decorator_list:
            if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.proves":
                said = [_constant(each) for each in mark.args]
                named = {str(each.arg): _constant(each.value) for each in mark.keywords}
                name = f"{file}::{test.name}"
                try:
                    yield row(name, *said, **named)
                except TypeError as error:
                    raise ValueError(f"{name}: {error}") from error


def _constant(node: ast.expr) -> object:
    return node.value if isinstance(node, ast.Constant) else None


def unproven(rows: Iterable[Row], proven: Mapping[str, Iterable[Iterable[str]]]) -> list[Row]:
    """Those whose test has not passed with just this row."""
    return [row for row in rows if list(row[1:]) not in [list(one) for one in proven.get(row.test, ())]]


def table(rows: Iterable[Row]) -> str:
    """One for each kind, a line for each row."""
    by_kind: dict[str, list[Row]] = {kind: [] for kind in KINDS}
    for each in rows:
        by_kind[each.kind].append(each)
    parts = []
    for kind, of_kind in by_kind.items():
        if of_kind:
            parts.append(f"## {KINDS[kind]}\n\n{_HEAD}{''.join(map(_line, of_kind))}")
    return "\n" + "\n".join(parts) + "\n"


def _line(row: Row) -> str:
    file, _, name = row.test.partition("::")
    what, caller = (text.replace("|", "\\|") for text in (row.what, row.caller))
    return f"| {what[:1].upper()}{what[1:]} | {caller} | [`{name}`](../{file}) |\n"


def fill(text: str, made: str) -> str:
    """`text` with the tables between its markers. Raises ValueError when there are none."""
    filled, places = _MARKED.subn(lambda _: made, text)
    if places != 1:
        raise ValueError(f"{places} places for the table of faults; there must be one")
    return filled


def main() -> int:
    rows = marked()
    open_rows = unproven(rows, json.loads(PROVEN.read_text()) if PROVEN.exists() else {})
    for each in open_rows:
        print(f"has not passed: {each.test}: {each.what}", file=sys.stderr)
    PAGE.write_text(fill(PAGE.read_text(), table(row for row in rows if row not in open_rows)))
    return 1 if open_rows else 0


if __name__ == "__main__":
    sys.exit(main())
