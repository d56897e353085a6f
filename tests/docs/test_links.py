"""What the pages point at is there: files, headings, make targets, commands."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.docs.pages import PAGES, ROOT, anchors, blocks, prose

MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))

_LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"")


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def links(page: Path) -> Iterator[str]:
    for found in _LINK.finditer(prose(page)):
        link = found[1] or found[2]
        if not re.match(r"[a-z]+:", link):
            yield link


def wrong(page: Path) -> Iterator[str]:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            yield f"{link}: there is no such file"
        elif ROOT not in target.parents:
            yield f"{link}: outside"
        elif anchor and anchor not in anchors(target):
            yield f"{link}: there is no such heading"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    assert list(wrong(page)) == []


def test_a_link_that_leads_nowhere_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.docs.test_links.ROOT", tmp_path)
    (tmp_path / "other.md").write_text("# What `a_b` is, and *why*\n")
    page = tmp_path / "page.md"
    page.write_text("[a](other.md#what-a_b-is-and-why) [b](other.md#what) [c](gone.md) ![d](https://e.f/g)\n")
    assert list(wrong(page)) == ["other.md#what: there is no such heading", "gone.md: there is no such file"]


def test_every_page_is_linked_from_the_readme() -> None:
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in links(ROOT / "README.md")}
    assert {page for page in PAGES if page != ROOT / "README.md"} <= linked


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_make_targets_exist(page: Path) -> None:
    said = set(re.findall(r"(?:`|^)make ([a-z][a-z-]*)", page.read_text(), re.MULTILINE))
    assert said <= TARGETS


def test_the_targets_are_found() -> None:
    assert {"run", "test", "docs"} <= TARGETS


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_parse(page: Path) -> None:
    for block in blocks(page, "sh"):
        done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{block.text}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_python_compiles_and_yaml_parses(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(f"async def block():\n{re.sub('(?m)^', ' ', block.text)}", named(page), "exec")
    for block in blocks(page, "yaml"):
        yaml.safe_load(block.text)
