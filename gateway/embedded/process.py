"""One process under a warden: its leash, its output, its end."""

import asyncio
import os
import signal
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

WARDEN = Path(__file__).with_name("warden.py")

LINES_MAX = 40
LINE_BYTES_MAX = 2000
READ_BYTES_MAX = 65_536
"""What a pipe holds on Linux."""

WARDEN_S_MAX = 5.0
"""How much longer than the server's own limit a warden may take before it is killed itself."""


class WardedProcess:
    """A process that ends with us. Owns the leash: when its end here closes, the warden ends the process."""

    def __init__(
        self, process: asyncio.subprocess.Process, leash: int, output: "Output", stop_s: float
    ) -> None:
        self._process = process
        self._leash: int | None = leash
        self._output = output
        self._stop_s = stop_s

    @classmethod
    async def start(cls, command: Sequence[str], environ: Mapping[str, str], stop_s: float) -> Self:
        held, leash = os.pipe()
        output = Output()
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(WARDEN), str(stop_s), "--", *command),
                # Our own pipes, not asyncio's: no other process may inherit the leash, and waiting for the
                # end must not wait for whoever else holds the output.
                stdin=held,
                stdout=output.write_end,
                stderr=output.write_end,
                env=environ,
                # Ctrl-C in a terminal goes to us alone; the leash tells the rest, in order.
                start_new_session=True,
            )
        except BaseException:
            os.close(leash)
            output.close()
            raise
        finally:
            os.close(held)
            os.close(output.write_end)
        return cls(process, leash, output, stop_s)

    @property
    def last_lines(self) -> list[str]:
        return self._output.last_lines

    async def wait(self) -> str:
        """Wait for its end; how it ended, as the rest of a sentence."""
        return _in_words(await self._process.wait())

    async def stop(self) -> None:
        """End the process and all that it started, unless it has ended; wait until it is gone."""
        if self._leash is None:
            return
        os.close(self._leash)  # First, and without an await: from here on it ends even if we are cancelled.
        self._leash = None
        try:
            async with asyncio.timeout(self._stop_s + WARDEN_S_MAX):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        finally:
            self._output.close()


class Output:
    """The last lines that a process wrote. Owns the reading end of the pipe; reads on the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._reading, self.write_end = os.pipe()
        os.set_blocking(self._reading, False)
        self._lines: deque[str] = deque(maxlen=LINES_MAX)
        self._unfinished = b""
        self._loop.add_reader(self._reading, self._read)

    @property
    def last_lines(self) -> list[str]:
        return [*self._lines, *_decoded([self._unfinished])]

    def close(self) -> None:
        self._read()
        self._loop.remove_reader(self._reading)
        os.close(self._reading)

    def _read(self) -> None:
        try:
            data = os.read(self._reading, READ_BYTES_MAX)
        except BlockingIOError:
            return
        if not data:
            # End of file is readable for ever.
            self._loop.remove_reader(self._reading)
            return
        # Progress bars end their lines with a carriage return.
        *lines, self._unfinished = (self._unfinished + data).replace(b"\r", b"\n").split(b"\n")
        self._lines.extend(_decoded(lines))
        self._unfinished = self._unfinished[-LINE_BYTES_MAX:]


def _decoded(lines: Sequence[bytes]) -> list[str]:
    return [line[-LINE_BYTES_MAX:].decode(errors="replace").rstrip() for line in lines if line.strip()]


def _in_words(returncode: int) -> str:
    if returncode < 0:
        return f"lost its warden to signal {-returncode}"
    if returncode == 128 + signal.SIGKILL:
        return "was killed by SIGKILL (if nobody did that, the machine ran out of memory)"
    if returncode - 128 in set(signal.Signals):
        return f"was ended by {signal.Signals(returncode - 128).name}"
    return f"ended with exit code {returncode}"
