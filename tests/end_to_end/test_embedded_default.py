"""`infinity-gateway serve` and nothing else: local servers with MiniLM, ready for the requests it prints."""

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np

from tests.api.waiting import until
from tests.embedded.processes import Watched, descendants
from tests.end_to_end.commands import ended
from tests.gateway_process import GatewayProcess
from tests.real_infinity import infinity_executable

_READY_S_MAX = 90.0
_GONE_S_MAX = 15.0


def embedded_gateway(directory: Path, **environ: str) -> GatewayProcess:
    environ = {"INFINITY_EMB": str(infinity_executable()), **environ}
    return GatewayProcess(environ=environ, directory=directory)


async def printed_requests(gateway: GatewayProcess) -> list[str]:
    """The commands below "Ready.", as they stand there."""
    await until(
        lambda: any(line.startswith("curl ") and line.endswith("/metrics") for line in gateway.output),
        _READY_S_MAX,
    )
    lines = gateway.output[gateway.output.index("Ready. Requests to try:") + 1 :]
    paragraphs = "\n".join(lines).strip().split("\n\n")
    return [paragraph for paragraph in paragraphs if paragraph.startswith("curl ")]


async def answer(command: str) -> Any:
    """What bash makes of it, as somebody who pastes it would see; curl must succeed."""
    done = await ended("bash", "-c", command.replace("curl ", "curl --silent --show-error --fail ", 1))
    assert done.code == 0, done.err
    return done.out


async def test_the_printed_requests_are_answered_and_nothing_outlives_a_kill(tmp_path: Path) -> None:
    """Two real servers with MiniLM: 384 numbers that mean something, the capital first; then SIGKILL."""
    async with embedded_gateway(tmp_path) as gateway:
        commands = await printed_requests(gateway)
        await gateway.wait_ready(2)
        embedded, reranked, metrics = [await answer(command) for command in commands]
        with Watched(descendants(gateway.pid)) as servers:
            alive = servers.alive()

            gateway.signal(signal.SIGKILL)
            code = await gateway.wait()

            left = await asyncio.to_thread(servers.alive, _GONE_S_MAX)

    cat, kitten, stock = np.array([row["embedding"] for row in json.loads(embedded)["data"]])
    assert cat.shape == (384,)
    assert abs(np.linalg.norm(cat) - 1) < 1e-4
    assert cat @ kitten > cat @ stock + 0.2

    results = json.loads(reranked)["results"]
    assert len(results) == 3
    assert results[0]["document"]["text"] == "Washington, D.C. is the capital of the United States."
    assert results[0]["index"] == 2
    assert "cosine" in json.loads(reranked)["meta"]["warnings"][0]
    assert 'infinity_gateway_deployment_up{deployment="' in metrics

    assert len(alive) >= 2
    assert code == -signal.SIGKILL
    assert left == []


async def test_nothing_outlives_a_sigterm_that_comes_while_servers_start(tmp_path: Path) -> None:
    """The hard moment: they have not opened their ports, and half of them is still being imported."""
    async with embedded_gateway(tmp_path) as gateway:
        # A warden and a server, twice.
        await until(lambda: len(descendants(gateway.pid)) >= 4, _READY_S_MAX)
        with Watched(descendants(gateway.pid)) as servers:
            gateway.signal(signal.SIGTERM)
            async with asyncio.timeout(_GONE_S_MAX):
                code = await gateway.wait()

            left = servers.alive()

    assert code == 0
    assert left == []
    assert not any("Traceback" in line for line in gateway.output)


async def test_a_server_that_cannot_start_ends_the_gateway_in_words(tmp_path: Path) -> None:
    """After some tries, with what the server said and the command to see it alone; the exit code is 2."""
    broken = tmp_path / "infinity_emb"
    broken.write_text("#!/bin/sh\necho 'ImportError: no torch here' >&2\nexit 3\n")
    broken.chmod(0o755)
    model = tmp_path / "model"
    model.mkdir()
    environ = {"INFINITY_EMB": str(broken), "INFINITY_MODEL_ID": str(model), "INFINITY_SERVERS": "1"}

    async with (
        GatewayProcess(environ=environ, directory=tmp_path) as gateway,
        asyncio.timeout(_READY_S_MAX),
    ):
        code = await gateway.wait()

    assert code == 2
    last = gateway.output[-1]
    assert "does not start" in last
    assert "ImportError: no torch here" in last
    assert str(broken) in last
    assert not any("Traceback" in line for line in gateway.output)
