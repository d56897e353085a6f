"""Run the image that tools/build-image has made, and see it do its main job.

Its root file system is mounted read-only and entered as its own user, as Kubernetes would with
`readOnlyRootFilesystem` and `runAsNonRoot`. Needs root. Ends with 0 if all was as it should be.
"""

import asyncio
import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from tests.fakes.infinity import FakeInfinity, vector_of


@contextlib.contextmanager
def read_only(root: Path) -> Iterator[None]:
    for command in (
        ("mount", "--bind", root, root),
        ("mount", "-o", "remount,bind,ro", root),
        ("mount", "--bind", "-o", "ro", "/proc", root / "proc"),
        ("mount", "--bind", "/dev", root / "dev"),
    ):
        subprocess.run(command, check=True)
    try:
        yield
    finally:
        subprocess.run(("umount", "--recursive", root), check=True)


def in_image(root: Path, image: dict[str, Any], *command: str, **environ: str) -> list[str]:
    variables = [*image["Env"], *(f"{name}={value}" for name, value in environ.items())]
    return ["env", "-i", *variables, "chroot", f"--userspec={image['User']}", str(root), *command]


async def main(folder: Path) -> None:
    root, image = folder / "root", json.loads((folder / "image.json").read_text())["Docker"]["config"]
    assert image["User"] == "10001:10001"
    assert image["StopSignal"] == "SIGTERM"
    health = image["Healthcheck"]["Test"]
    assert health[0] == "CMD"
    command = [*image["Entrypoint"], *image["Cmd"]]
    with read_only(root):
        writing = in_image(root, image, "touch", "/app/x")
        assert b"Read-only" in subprocess.run(writing, check=False, capture_output=True).stderr  # noqa: ASYNC221
        version = in_image(root, image, *image["Entrypoint"], "--version")
        assert b"(compiled)" in subprocess.run(version, check=False, capture_output=True).stdout  # noqa: ASYNC221
        async with FakeInfinity() as infinity:
            key = {"GATEWAY_MASTER_KEY": "image-test"}
            process = await asyncio.create_subprocess_exec(
                *in_image(root, image, *command, INFINITY_API_BASE=infinity.url, **key),
                stderr=asyncio.subprocess.PIPE,
            )
            try:
                await _used(process, in_image(root, image, *health[1:]))
            finally:
                if process.returncode is None:
                    process.kill()
    print("the image does its job")


async def _used(process: asyncio.subprocess.Process, health: list[str]) -> None:
    assert process.stderr
    async with asyncio.timeout(60):
        async for line in process.stderr:
            print(line.decode(), end="")
            if re.search(rb"is up and serves", line):
                break
    status = Path(f"/proc/{process.pid}/status").read_text()  # noqa: ASYNC240 - no disk
    assert re.search(r"^Uid:\t10001\t10001\t", status, re.MULTILINE), status

    async def call(text: str) -> tuple[int, str | None]:
        body = {"model": "bert", "input": text}
        async with session.post("/v1/embeddings", json=body) as reply:
            if reply.status == 200:
                vector = (await reply.json())["data"][0]["embedding"]
                assert np.array(vector, np.float32).tolist() == vector_of(text).tolist()
            return reply.status, reply.headers.get("Connection")

    async with aiohttp.ClientSession(
        "http://127.0.0.1:4000", headers={"Authorization": "Bearer image-test"}
    ) as session:
        assert await call("before") == (200, None)
        checked = await asyncio.create_subprocess_exec(*health)
        assert await checked.wait() == 0
        process.terminate()
        async with asyncio.timeout(5):
            while (await session.get("/health/readiness")).status != 503:
                pass
        assert await call("while it ends") == (200, "close")
        async with asyncio.timeout(20):
            print((await process.stderr.read()).decode(), end="")
            assert await process.wait() == 0
    checked = await asyncio.create_subprocess_exec(*health, stderr=asyncio.subprocess.DEVNULL)
    assert await checked.wait() == 1, "healthy without a gateway"


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]).resolve()))
