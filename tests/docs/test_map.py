"""gateway/README.md, the map of the code, is of this code."""

import re

from tests.docs.pages import ROOT

GATEWAY = ROOT / "gateway"
MAP = (GATEWAY / "README.md").read_text()
SOURCE = "\n".join(file.read_text() for file in GATEWAY.rglob("*.py"))
_TABLE = MAP.partition("## Where things are")[2].partition("\n## ")[0]


def test_every_file_that_is_named_exists() -> None:
    named = set(re.findall(r"`((?:[\w*]+/)*[\w*]+\.(?:py|\*))`", MAP))
    assert len(named) > 50
    missing = [name for name in sorted(named) if not [*ROOT.glob(name), *GATEWAY.rglob(name)]]
    assert missing == []


def test_every_part_has_a_place() -> None:
    parts = {
        file.stem if file.parent.name == "core" else file.relative_to(GATEWAY).as_posix()
        for file in (*GATEWAY.glob("*.py"), *GATEWAY.glob("core/*.py"))
        if file.stem != "__init__"
    } | {f"{folder.parent.name}/" for folder in GATEWAY.glob("*/__init__.py")}
    assert sorted(part for part in parts if f"`{part}`" not in _TABLE) == []


def test_every_decision_has_a_number_of_its_own() -> None:
    numbers = [int(number) for number in re.findall(r"^\*\*D(\d+)\. ", MAP, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))
    referred = {int(number) for number in re.findall(r"\(?\bD(\d+)\b", MAP)}
    assert referred == set(numbers)


def test_what_classes_are_said_to_have_they_have() -> None:
    for name, attribute in re.findall(r"`([A-Z]\w+)\.(\w+)`", MAP):
        assert re.search(rf"^class {name}\b", SOURCE, re.MULTILINE), name
        assert re.search(rf"^    (?:async )?(?:def {attribute}\b|{attribute}\b)", SOURCE, re.MULTILINE), (
            attribute
        )
