"""The pages that people read, and what stands in them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = (
    ROOT / "README.md",
    ROOT / "gateway" / "README.md",
    ROOT / "benchmarks" / "README.md",
    ROOT / "examples" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
)
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#{1,6} (.*)$", re.MULTILINE)


class Block(NamedTuple):
    page: Path
    language: str
    text: str
    heading: str
    """The heading above it."""


def blocks(page: Path, language: str = "") -> Iterator[Block]:
    text = page.read_text()
    for found in _BLOCK.finditer(text):
        if not language or found[1] == language:
            above = _HEADING.findall(_BLOCK.sub("", text[: found.start()]))
            yield Block(page, found[1], found[2], above[-1] if above else "")


def prose(page: Path) -> str:
    """Without its blocks of code."""
    return _BLOCK.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    found = set[str]()
    for heading in _HEADING.findall(prose(page)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        anchor = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        number = sum(
            1 for other in found if other == anchor or re.fullmatch(rf"{re.escape(anchor)}-\d+", other)
        )
        found.add(f"{anchor}-{number}" if number else anchor)
    return found
