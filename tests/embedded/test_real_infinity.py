"""The real infinity_emb with the real MiniLM, as `serve` starts them."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from gateway.embedded import LocalServers, Supervisor, find
from tests.embedded.processes import Watched, descendants

ROOT = Path(__file__).parents[2]
EXECUTABLE = Path(os.environ.get("INFINITY_EMB", ROOT / ".infinity" / "bin" / "infinity_emb"))

pytestmark = pytest.mark.skipif(not EXECUTABLE.exists(), reason=f"no {EXECUTABLE}; `make test` installs it")


@pytest.fixture(scope="module")
def servers() -> LocalServers:
    return find({**os.environ, "INFINITY_EMB": str(EXECUTABLE), "INFINITY_SERVERS": "2"})


def embed(api_base: str, texts: Sequence[str]) -> list[list[float]]:
    body = json.dumps({"model": "all-MiniLM-L6-v2", "input": texts}).encode()
    request = urllib.request.Request(api_base + "/embeddings", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return [item["embedding"] for item in json.load(answer)["data"]]


def similarity(one: Sequence[float], other: Sequence[float]) -> float:
    """MiniLM's vectors have length 1."""
    return sum(a * b for a, b in zip(one, other, strict=True))


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_two_servers_embed_and_end(servers: LocalServers, begun: Callable[[], list[int]]) -> None:
    """Both serve the same model, a cat is nearer to a kitten than to stocks, and no process is left."""
    up = asyncio.Semaphore(0)

    def report(line: str) -> None:
        print(line)
        if "is up at" in line:
            up.release()

    async with Supervisor(servers, report=report) as supervisor, asyncio.timeout(60):
        for _ in range(servers.count):
            await up.acquire()
        texts = ["a cat", "a kitten", "the stock market"]
        answers = [await asyncio.to_thread(embed, api_base, texts) for api_base in supervisor.api_bases]
        watched = Watched(begun())

    with watched:
        assert watched.alive() == []
    assert len(answers) == 2
    for cat, kitten, stocks in answers:
        assert len(cat) == 384
        assert similarity(cat, kitten) > similarity(cat, stocks) + 0.3


def test_no_server_outlives_a_killed_gateway(servers: LocalServers) -> None:
    """SIGKILL of the gateway while a server is up leaves nothing either."""
    command = [
        sys.executable,
        "-m",
        "tests.embedded.hold",
        "asyncio",
        "1",
        str(EXECUTABLE),
        str(servers.model),
    ]
    with subprocess.Popen(
        command, cwd=ROOT, env=servers.environ, stdout=subprocess.PIPE, text=True
    ) as gateway:
        assert gateway.stdout is not None
        assert "is up at" in gateway.stdout.readline()
        with Watched(descendants(gateway.pid)) as watched:
            assert len(watched.alive()) >= 2

            gateway.send_signal(signal.SIGKILL)

            assert gateway.wait() == -signal.SIGKILL
            assert watched.alive(within_s=10) == []
