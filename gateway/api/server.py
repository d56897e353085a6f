"""Serves the app with uvicorn, and ends in an order that loses no call.

On SIGTERM readiness fails and answers carry `Connection: close`, while everything is still served: an
ingress goes on sending until it has taken notice. After the grace time the listener closes, what is under
way ends, and the process exits with 0. SIGINT, a person at a terminal, skips the grace time; a second
signal ends at once.
"""

import asyncio
import contextlib
import errno
import gc
import logging
import resource
import signal
import socket
from collections.abc import Coroutine, Generator
from functools import partial
from types import FrameType
from typing import cast

import uvicorn

from gateway.api.app import call_endpoints, create_app
from gateway.api.drain import Drain
from gateway.api.patience import Patience
from gateway.api.protocol import Protocol
from gateway.bootstrap import Runtime
from gateway.core.settings import DrainSettings
from gateway.errors import StartError

_log = logging.getLogger("gateway")

_GC_THRESHOLD = 20_000
"""New containers between two collections. A call makes some, and frees them itself when it ends."""

_ACCEPTS_A_TURN = 16
"""libuv accepts one connection from a listener in a turn of the loop, and under load a turn lasts for many
milliseconds: a thousand callers who come at once would wait for seconds. So it gets more listeners, all of
one socket."""

_KEEP_ALIVE_S = (
    75  # longer than nginx keeps a connection (60), so that it is never we who close it under a call
)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises StartError in words for the operator."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise StartError(f"--host {host} is no address of this machine: {error.strerror}") from error
    server = socket.socket(family, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind(address)
        # Without this a second gateway could bind too, and each would get some of the calls.
        server.listen(2048)
    except OSError as error:
        server.close()
        if error.errno == errno.EADDRINUSE:
            raise StartError(
                f"port {port} on {host} is taken by another program; end it, or choose another with --port"
            ) from error
        raise StartError(f"cannot listen on {host} port {port}: {error.strerror}") from error
    return server


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, drain: Drain, settings: DrainSettings) -> None:
        super().__init__(config)
        self._drain = drain
        self._settings = settings
        self._ending: asyncio.TimerHandle | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Handle signals in the event loop, and leave the exit code to us."""
        loop = asyncio.get_running_loop()
        handled = (signal.SIGTERM, signal.SIGINT)
        for number in handled:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in handled:
                loop.remove_signal_handler(number)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        if self.should_exit:
            self.force_exit = True
            return
        grace_s = self._settings.grace_s if sig == signal.SIGTERM and not self._drain.draining else 0.0
        if grace_s:
            _log.info("ending: readiness fails, everything is served for another %g s", grace_s)
        else:
            _log.info("ending: no new connections, calls under way have %g s", self._settings.in_flight_s_max)
        self._drain.draining = True
        if self._ending:
            self._ending.cancel()
        self._ending = asyncio.get_running_loop().call_later(grace_s, self.end)

    def end(self) -> None:
        self.should_exit = True


async def serve(
    runtime: Runtime, listener: socket.socket, failed: Coroutine[None, None, StartError] | None = None
) -> None:
    """Serve on `listener` until a signal ends it, or until `failed` returns, whose error is then raised."""
    with contextlib.suppress(OSError, ValueError):  # each connection is an open file
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    drain, settings = Drain(), runtime.config.drain
    calls = call_endpoints(runtime)
    limits = runtime.config.engine.limits
    protocol = partial(
        Protocol,
        calls={path.encode(): call for path, call in calls.items()},
        drain=drain,
        limits=limits,
        patience=Patience(min(_KEEP_ALIVE_S, limits.head_s_max, limits.body_grace_s, limits.unread_s_max)),
        observe=runtime.observe,
    )
    config = uvicorn.Config(
        create_app(runtime, drain, calls),
        http=cast("type[asyncio.Protocol]", protocol),  # it is only ever called
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(settings.in_flight_s_max)),
    )
    server = _Server(config, drain, settings)
    # What is here now stays. Without it each collection would walk through it all, many times a second.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD)
    watching = asyncio.create_task(failed) if failed else None
    if watching:
        watching.add_done_callback(lambda _: server.end())
    try:
        await server.serve(sockets=[listener, *(listener.dup() for _ in range(_ACCEPTS_A_TURN - 1))])
        if watching and watching.done():
            raise watching.result()
        if not server.started:
            raise StartError("the gateway could not start; the lines above say why")
    finally:
        if watching:
            watching.cancel()
