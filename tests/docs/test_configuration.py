"""docs/configuration.md is what the tool makes, has every setting, and says how each is written and read."""

import argparse
import ast
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway import config
from gateway.cli import _parser as command_line
from gateway.config.sections import name_in_file
from gateway.core import settings
from gateway.embedded.servers import KEPT_VARIABLES
from tools import configuration

ROOT = Path(__file__).parents[2]
PAGE = configuration.FILE
MODELS = "model_list: [{model_name: m, litellm_params: {model: infinity/m, api_base: http://server:7997}}]\n"
SPECIAL = {
    "DeploymentSettings": "litellm_params",
    "NameSettings": "discovery",
    "PoolSettings": "model_list and model_info",
    "RouterSettings": "router_settings and default_models",
    "EngineSettings": "the sections",
    "KeySettings": "keys, in words of its own",
    "DiscoverySettings.names": "the words of model_list[].discovery",
}
"""Records and fields that are not read by the names of their fields, and what they are read from."""


def rows() -> Iterator[tuple[str, list[str]]]:
    """The tables of the page: the heading above, and the cells of a row without their backticks."""
    heading = ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("| `"):
            yield heading, [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def code(cell: str) -> str:
    found = re.match(r"`([^`]*)`", cell)
    return found[1] if found else ""


def defaults() -> dict[str, Any]:
    """What the page says stands below `gateway` where nothing does."""
    found: dict[str, Any] = {}
    for heading, cells in rows():
        if len(cells) == 4 and (default := code(cells[1])):
            section = found if heading == "gateway" else found.setdefault(heading, {})
            section[code(cells[0])] = yaml.safe_load(default)
    return found


def test_the_page_is_what_the_tool_makes() -> None:
    """`make docs` makes it."""
    assert PAGE.read_text() == configuration.page()


def test_every_field_of_every_record_has_a_row() -> None:
    there = {code(cells[0]) for _, cells in rows()}
    records = [each for each in vars(settings).values() if isinstance(each, type) and is_dataclass(each)]
    assert len(records) > 10
    missing = [
        f"{record.__name__}.{item.name}"
        for record in records
        if record.__name__ not in SPECIAL
        for item in fields(record)
        if f"{record.__name__}.{item.name}" not in SPECIAL and name_in_file(item.name) not in there
    ]
    assert missing == []


def test_every_row_says_something() -> None:
    for heading, cells in rows():
        assert all(cells[2:]), (heading, cells)
        assert cells[-1], (heading, cells)
        assert "None" not in cells[-1], (heading, cells)


def test_the_defaults_are_those_of_the_code() -> None:
    """Written out as the page has them, with their units, they change nothing."""
    written = defaults()
    assert len(written) > 8
    text = MODELS + yaml.safe_dump({"gateway": written})
    assert config.parse(text, {}) == config.parse(MODELS, {})


def test_a_row_whose_default_is_wrong_would_be_seen() -> None:
    written = defaults()
    written["batching"]["max_wait_ms"] = 1
    assert config.parse(MODELS + yaml.safe_dump({"gateway": written}), {}) != config.parse(MODELS, {})


def test_every_variable_in_the_code_has_a_row() -> None:
    named = {
        node.value
        for file in (ROOT / "gateway").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if re.fullmatch(r"(INFINITY|GATEWAY|LITELLM|OTEL)(_[A-Z]+)+", node.value)
    }
    assert len(named) > 6
    there = {code(cells[0]) for heading, cells in rows() if heading == "Environment"}
    assert {name for name in named if not name.startswith("OTEL_")} <= there | KEPT_VARIABLES
    assert there - named == {"OTEL_*"}


def test_every_option_has_a_row() -> None:
    page = PAGE.read_text()
    [commands] = [each for each in command_line()._actions if isinstance(each, argparse._SubParsersAction)]
    assert {"serve", "check"} <= commands.choices.keys()
    for name, command in commands.choices.items():
        assert f"### infinity-gateway {name}\n" in page
        for option in set(re.findall(r"(?<![\w-])--[a-z-]+", command.format_help())) - {"--help"}:
            assert f"| `{option}" in page, (name, option)


@pytest.mark.parametrize(
    ("place", "word"), [("router_settings", "num_retries"), ("general_settings", "master_key")]
)
def test_a_word_that_nobody_describes_is_an_error(
    place: str, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(configuration.WORDS[place], word)
    with pytest.raises(KeyError, match=word):
        configuration.page()
