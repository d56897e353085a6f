"""A stand-in for Infinity in a process of its own, to be killed, stopped and restarted like a real one.

    async with FakeProcess() as fake:
        fake.tell(status=500)
        fake.kill()
        await fake.start()

It ends with whoever started it. An input with `POISON` in it is refused, one with `KILLER` kills the process.
"""

import asyncio
import json
import os
import signal
import socket
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.fakes import faults
from tests.fakes.faults import Fault, contains
from tests.fakes.infinity import FakeInfinity, FakeModel, ServiceTime

ROOT = Path(__file__).parents[2]
POISON = "<poison>"
KILLER = "<killer>"
MODEL = "bert"
_START_S_MAX = 30.0
_PF_EXITING = 0x4
"""Linux's flag of a process that ends; set before its files are closed, and kept by what is left of it."""


class FakeProcess:
    """An async context manager. Owns its port from the first `start` on: without a process it refuses."""

    def __init__(self) -> None:
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.bind(("127.0.0.1", 0))
        self._process: asyncio.subprocess.Process | None = None
        self.port: int = self._held.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def runs(self) -> bool:
        """Not from when it begins to end: whoever has seen its connections break is not told that it runs."""
        if self._process is None or self._process.returncode is not None:
            return False
        try:
            stat = Path(f"/proc/{self._process.pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return False
        return not int(stat.rpartition(")")[2].split()[6]) & _PF_EXITING

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
        self._held.close()

    async def start(self) -> None:
        """Start, and return when it listens; also after it was killed. It does nothing wrong at first."""
        await self.stop()
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.fakes.process", str(self.port)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        assert self._process.stdout
        async with asyncio.timeout(_START_S_MAX):
            assert await self._process.stdout.readline(), "the stand-in ended while it started"

    async def stop(self) -> None:
        if self._process is None:
            return
        if self.runs:
            self.kill()
        await self._process.wait()

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def signal(self, number: int) -> None:
        assert self._process
        if self.runs:
            self._process.send_signal(number)

    def tell(self, **fault: Any) -> None:
        """Do this wrong from now on, in the words of `Fault`, `edit` by name; without any: nothing."""
        assert self._process
        assert self._process.stdin
        if self.runs:
            self._process.stdin.write(json.dumps(fault).encode() + b"\n")


def _fault(told: dict[str, Any]) -> list[Fault]:
    if "edit" in told:
        told["edit"] = getattr(faults, told["edit"])
    return [Fault(**told)] if told else []


class _Killable(FakeInfinity):
    """Dies with its process, and remembers nothing of what it got."""

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    async def forget(self) -> None:
        while True:
            await asyncio.sleep(1)
            self.requests.clear()


async def _serve(port: int) -> None:
    service = ServiceTime(l=0.001, o=0.002, a=0.0001)
    fake = _Killable([FakeModel(MODEL)], service=service)
    fake.port = port
    always = [
        Fault(when=contains(KILLER), kills_server=True),
        Fault(when=contains(POISON), status=422),
    ]
    fake.faults[:] = always
    async with fake:
        forgetting = asyncio.create_task(fake.forget())
        print("listening", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            fake.faults[:] = [*always, *_fault(json.loads(line))]
        forgetting.cancel()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
