"""The command as a process, in front of a real Infinity and a real gateway."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.configs import entry, written
from tests.gateway_process import GatewayProcess
from tests.real_infinity import RealInfinity


@pytest.fixture
async def gateway(real_infinity: RealInfinity, tmp_path: Path) -> AsyncIterator[GatewayProcess]:
    entries = [entry(name, [real_infinity.url]) for name in ("bert", "cross")]
    async with GatewayProcess(config=written(tmp_path / "gateway.yaml", {"model_list": entries})) as process:
        await process.wait_ready(2)
        yield process


async def bench(*arguments: str) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "bench", *arguments, "--json", "--warm-up", "0.2"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ.copy(),
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    found: dict[str, Any] = json.loads(out)
    return found


async def test_a_real_infinity_and_a_gateway_are_loaded_and_compared(
    real_infinity: RealInfinity, gateway: GatewayProcess, tmp_path: Path
) -> None:
    options = ("--rerank", "--items", "4", "--rate", "20", "--duration", "1")
    (row,) = (await bench(f"{gateway.url}/v1", "--model", "cross", *options))["rows"]
    assert row["statuses"] == {}
    assert row["answered"] > 5

    texts = tmp_path / "questions.txt"
    texts.write_text("\n".join(f"what is the capital of country {number}" for number in range(40)))
    found = await bench(
        *("--compare", real_infinity.url, gateway.url, "--model", "bert", "--texts", str(texts)),
        *("--connections", "1,8", "--rounds", "1", "--duration", "1"),
    )
    assert [row["callers"] for row in found["rows"]] == [1, 8]
    assert all(not row["direct_statuses"] and not row["gateway_statuses"] for row in found["rows"])
    worst, repeated = found["notes"]
    assert float(worst.split()[-1]) > 0.9999
    assert "none was sent twice" in repeated
