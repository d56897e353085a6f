"""Commands that end by themselves, run as a user would run them."""

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
_END_S_MAX = 60.0


class Ended(NamedTuple):
    code: int
    out: str
    err: str


async def infinity_gateway(
    *arguments: str, environ: Mapping[str, str] | None = None, directory: Path | None = None
) -> Ended:
    """`python -m gateway …` without any of our variables but those given."""
    ours = ("INFINITY_", "GATEWAY_", "LITELLM_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return await ended(
        *(sys.executable, "-m", "gateway", *arguments),
        environ={**kept, "PYTHONPATH": str(ROOT), **(environ or {})},
        directory=directory,
    )


async def ended(
    *command: str, environ: Mapping[str, str] | None = None, directory: Path | None = None
) -> Ended:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environ,
        cwd=directory or ROOT,
    )
    try:
        async with asyncio.timeout(_END_S_MAX):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())
