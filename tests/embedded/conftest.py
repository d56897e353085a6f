"""Every asynchronous test here runs under both loops that the gateway may run on."""

import asyncio
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import uvloop

from gateway.embedded import LocalServers
from tests.embedded import stand_in
from tests.embedded.processes import descendants


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
def begun() -> Callable[[], list[int]]:
    """Asks for the processes that the test has begun: servers of other tests may run beside it."""
    before = descendants(os.getpid())
    return lambda: [pid for pid in descendants(os.getpid()) if pid not in before]


@pytest.fixture
def executable(tmp_path: Path) -> Path:
    """An executable that stands in for infinity_emb; see `stand_in` for what it can do."""
    path = tmp_path / "infinity_emb"
    path.write_text(
        f"#!{sys.executable} -S\nimport runpy\nrunpy.run_path({stand_in.__file__!r}, {{}}, '__main__')\n"
    )
    path.chmod(0o755)
    return path


@pytest.fixture
def servers(executable: Path) -> Callable[..., LocalServers]:
    def make(behaviour: str, count: int = 1) -> LocalServers:
        return LocalServers(executable, "a-model", "a-model", count, arguments=(behaviour,))

    return make
