"""The README's table of clients, from what the tests of tests/clients saw.

    python tools/clients_table.py

It stands between `<!-- clients -->` and `<!-- /clients -->`.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
SEEN = ROOT / ".cache" / "clients.json"
"""The calls of the last run of the tests, as tests/clients/scripts/calls.py records them."""

_MARKED = re.compile(r"(?<=<!-- clients -->\n).*?(?=<!-- /clients -->)", re.DOTALL)


def table(calls: Iterable[Mapping[str, Any]]) -> str:
    """A line for what a client calls on the same routes, in the order of the calls; errors are no use."""
    routes: dict[tuple[str, str], dict[str, dict[str, None]]] = {}
    for call in calls:
        if call["kind"] != "error" and call["routes"]:
            by_name = routes.setdefault((call["client"], call["version"]), {})
            by_name.setdefault(call["call"], {}).update(dict.fromkeys(call["routes"]))
    lines = []
    for (client, version), by_name in routes.items():
        names: dict[tuple[str, ...], list[str]] = {}
        for name, used in by_name.items():
            names.setdefault(tuple(sorted(used)), []).append(name)
        lines += [f"| {client} | {version} | {_code(who)} | {_code(used)} |" for used, who in names.items()]
    return "\n".join(["| client | version | calls | routes |", "| --- | --- | --- | --- |", *lines]) + "\n"


def _code(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def fill(text: str, made: str) -> str:
    """`text` with the table between its markers. Raises ValueError when there are none."""
    filled, places = _MARKED.subn(lambda _: made, text)
    if places != 1:
        raise ValueError(f"{places} places for the table of clients; there must be one")
    return filled


if __name__ == "__main__":
    calls = json.loads(SEEN.read_text())
    README.write_text(fill(README.read_text(), table(calls)))
