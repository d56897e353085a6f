"""Callers who send any bytes, over connections that are none, to the protocol that serves real ones."""

from collections.abc import Mapping
from functools import partial

import uvicorn
from uvicorn.server import ServerState

from fuzz.in_memory import InMemory, quiet
from fuzz.servers_in_memory import Link
from gateway.api.app import create_app
from gateway.api.drain import Drain
from gateway.api.endpoint import CallEndpoint
from gateway.api.patience import Patience
from gateway.api.protocol import Protocol
from gateway.core.settings import LimitsSettings

_LOOKS_EVERY_S = 10.0
_PIECES_MAX = 40


class Callers:
    """Those of the gateway in `memory`. `calls` go the direct way, all others uvicorn's own."""

    def __init__(self, memory: InMemory, calls: Mapping[str, CallEndpoint], limits: LimitsSettings) -> None:
        self._memory = memory
        self._calls = {path.encode(): call for path, call in calls.items()}
        self._limits = limits
        self._drain = Drain()
        self._config = uvicorn.Config(
            create_app(memory.runtime, self._drain, memory.calls),
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
        )
        self._config.load()

    def answers(self, data: bytes, piece: int) -> bytes:
        """All that comes back on a connection over which this goes in pieces of so many bytes (0: whole), and
        which then ends. It leaves nothing behind.
        """
        return self._memory.run(self._answers(data, max(piece or len(data), len(data) // _PIECES_MAX, 1)))

    async def connect(self) -> "Connection":
        state = ServerState()
        protocol = Protocol(
            self._config,
            state,
            {},
            self._memory.loop,
            calls=self._calls,
            drain=self._drain,
            limits=self._limits,
            patience=Patience(_LOOKS_EVERY_S),
            observe=self._memory.runtime.observe,
        )
        return Connection(protocol, state)

    async def _answers(self, data: bytes, piece: int) -> bytes:
        connection = await self.connect()
        for at in range(0, len(data), piece):
            await connection.send(data[at : at + piece])
        await connection.end()
        assert not connection.state.tasks
        assert self._memory.is_idle()
        return b"".join(connection.written)


class Connection:
    """One, and what has come back over it."""

    def __init__(self, protocol: Protocol, state: ServerState) -> None:
        self.written: list[bytes] = []
        self.state = state
        self._protocol = protocol
        lost = partial(protocol.loop.call_soon, protocol.connection_lost, None)
        self._link = Link(self.written.append, lost)
        protocol.connection_made(self._link)

    async def send(self, data: bytes) -> None:
        """Unless it has been closed from the other end."""
        if data and not self._link.is_closing():
            self._protocol.data_received(data)
        await quiet()

    async def end(self) -> None:
        self._link.close()
        await quiet()
        assert not self.state.connections
