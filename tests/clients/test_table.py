"""The README's table of clients says what was seen here, no more and no less."""

import json
from typing import Any

import pytest

from tests.clients.running import SCRIPTS, Clients
from tools.clients_table import README, SEEN, fill, table

CALL: dict[str, Any] = {
    "client": "some",
    "version": "1.2",
    "call": "embed",
    "kind": "vectors",
    "routes": ["/embed"],
}


@pytest.mark.asyncio(loop_scope="package")
async def test_the_committed_table_is_what_the_clients_did(clients: Clients) -> None:
    calls = [call for script in SCRIPTS for call in await clients.calls(script)]
    SEEN.parent.mkdir(exist_ok=True)
    SEEN.write_text(json.dumps([{**call, "got": None} for call in calls]))
    text = README.read_text()
    assert text == fill(text, table(calls)), "python tools/clients_table.py writes what was seen now"


def test_calls_on_the_same_routes_share_a_line() -> None:
    both = [{**CALL, "call": "async"}, {**CALL, "call": "rerank", "routes": ["/rerank"]}]
    lines = table([CALL, *both, CALL]).splitlines()[2:]
    assert lines == ["| some | 1.2 | `embed`, `async` | `/embed` |", "| some | 1.2 | `rerank` | `/rerank` |"]
    lines = table([CALL, *both, {**CALL, "routes": ["/a"]}]).splitlines()[2:]
    assert lines[0] == "| some | 1.2 | `embed` | `/a`, `/embed` |"


def test_an_error_is_no_use_of_a_route() -> None:
    assert len(table([{**CALL, "kind": "error"}]).splitlines()) == 2


def test_a_readme_without_a_place_for_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="0 places"):
        fill("no markers\n", "")
    assert fill("a\n<!-- clients -->\nold\n<!-- /clients -->\nz\n", "new\n") == (
        "a\n<!-- clients -->\nnew\n<!-- /clients -->\nz\n"
    )
