"""Keeps local Infinity servers running: starts each, watches it, starts it again, ends it with us."""

import asyncio
import contextlib
import re
import shlex
import socket
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Self

from gateway.embedded.process import WardedProcess
from gateway.embedded.restarts import Restarts, SupervisionSettings
from gateway.embedded.servers import EmbeddedError, LocalServers

LOOPBACK = "127.0.0.1"
EXCEPTION = re.compile(r"\s*[\w.]*(Error|Exception)\b.*:")
"""How the last line of a Python traceback begins."""
KNOCK_S = 0.25
"""Between two looks at whether a server that starts has opened its port: a small part of its start."""


class Supervisor:
    """Runs `servers` while it is entered; afterwards none of their processes is left.

    `report` gets what a person should know, a line a call. The servers' addresses stay the same for as long
    as it is entered, however often they are started again.
    """

    def __init__(
        self,
        servers: LocalServers,
        *,
        report: Callable[[str], None],
        settings: SupervisionSettings | None = None,
    ) -> None:
        self._servers = servers
        self._report = report
        self._settings = settings or SupervisionSettings()
        self._ports: dict[int, socket.socket] = {}
        self._tasks: list[asyncio.Task[EmbeddedError]] = []
        self.api_bases: tuple[str, ...] = ()

    async def __aenter__(self) -> Self:
        self._ports = _reserve_ports(self._servers.count)
        self.api_bases = tuple(f"http://{LOOPBACK}:{port}" for port in self._ports)
        for at, port in enumerate(self._ports, start=1):
            name = f"Infinity server {at} of {len(self._ports)}"
            server = Server(name, port, self._servers, self._settings, self._report)
            self._tasks.append(asyncio.create_task(server.run(), name=name))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        ends = await asyncio.gather(*self._tasks, return_exceptions=True)
        for reserved in self._ports.values():
            reserved.close()
        for end in ends:
            if isinstance(end, Exception) and not isinstance(end, EmbeddedError):
                raise end

    async def failed(self) -> EmbeddedError:
        """Wait, usually for ever, until a server is given up; why. Cancel the wait before leaving."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(iter(done)).result()


class Server:
    """One server at one port. Owns its process."""

    def __init__(
        self,
        name: str,
        port: int,
        servers: LocalServers,
        settings: SupervisionSettings,
        report: Callable[[str], None],
    ) -> None:
        self._name = name
        self._port = port
        self._command = servers.command(port)
        self._environ = servers.environ
        self._report = report
        self._stop_s = settings.stop_s
        self._restarts = Restarts(settings)
        self._last_lines: list[str] = []
        self._told: list[str] = []

    async def run(self) -> EmbeddedError:
        """Keep the server running until cancelled. Returns, with the reason, only if that is pointless."""
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            end = await self._run_once()
            lived_s = loop.time() - started
            self._report_end(f"{self._name} {end} after {lived_s:.1f} s.")
            wait_s = self._restarts.ended(lived_s)
            if wait_s is None:
                return self._given_up(end)
            self._report(f"{self._name} starts again in {wait_s:g} s.")
            await asyncio.sleep(wait_s)

    async def _run_once(self) -> str:
        """Start the server and wait for its end; how it ended, as the rest of a sentence."""
        self._last_lines = []
        try:
            process = await WardedProcess.start(self._command, self._environ, self._stop_s)
        except OSError as error:
            return f"could not be started ({error.strerror})"
        try:
            async with asyncio.TaskGroup() as tasks:
                opening = tasks.create_task(self._await_port())
                end = await process.wait()
                opening.cancel()
        finally:
            await process.stop()
        self._last_lines = process.last_lines
        return end

    async def _await_port(self) -> None:
        # Infinity opens its port only when the model is loaded, so an open port means a server that works.
        # Whether it still does is the gateway's own probes' matter.
        loop = asyncio.get_running_loop()
        started = loop.time()
        while True:
            try:
                _, writer = await asyncio.open_connection(LOOPBACK, self._port)
                break
            except OSError:
                await asyncio.sleep(KNOCK_S)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        self._restarts.opened()
        self._report(
            f"{self._name} is up at http://{LOOPBACK}:{self._port} after {loop.time() - started:.1f} s."
        )

    def _report_end(self, what: str) -> None:
        if not self._last_lines:
            self._report(f"{what} It wrote nothing.")
        elif self._last_lines == self._told:
            self._report(f"{what} Its last output was the same.")
        else:
            self._report(f"{what} Its last output:")
            for line in self._last_lines:
                self._report(f"    {line}")
            self._told = self._last_lines

    def _given_up(self, end: str) -> EmbeddedError:
        # The last line of all is often no more than "Application startup failed. Exiting."
        causes = [line for line in self._last_lines if EXCEPTION.match(line)] or self._last_lines
        last = f", having written {causes[-1].strip()!r}" if causes else ""
        return EmbeddedError(
            f"{self._name} does not start: {self._restarts.failed_starts} times in a row it ended before it "
            f"opened its port. The last time it {end}{last}. To see it alone: {shlex.join(self._command)}"
        )


def _reserve_ports(count: int) -> dict[int, socket.socket]:
    """Free ports on loopback, each with the socket that keeps anybody else from being given it."""
    sockets = [socket.socket() for _ in range(count)]
    for reserved in sockets:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind((LOOPBACK, 0))
    ports = {reserved.getsockname()[1]: reserved for reserved in sockets}
    if sys.platform != "linux":
        # Only Linux lets a server listen on a port that another socket is bound to without listening.
        # Elsewhere the port is free until the server opens it: in theory somebody else may take it first.
        for reserved in sockets:
            reserved.close()
    return ports
