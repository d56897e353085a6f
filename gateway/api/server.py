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
from starlette.types import Receive, Scope, Send

from gateway.api.app import call_endpoints, create_app
from gateway.api.drain import Drain
from gateway.api.endpoint import CallEndpoint
from gateway.api.patience import Patience
from gateway.api.protocol import Protocol
from gateway.bootstrap import Runtime
from gateway.core.settings import LimitsSettings
from gateway.errors import StartError
from gateway.observability.logs import say

_GC_THRESHOLD = 20_000
"""New containers between two collections. A call makes some, and frees them itself when it ends."""

_ACCEPTS_A_TURN = 16
"""libuv accepts one connection from a listener in a turn of the loop, and under load a turn lasts for many
milliseconds: a thousand callers who come at once would wait for seconds. So it gets more listeners, all of
one socket."""


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
    def __init__(self, config: uvicorn.Config, drain: Drain, runtime: Runtime) -> None:
        super().__init__(config)
        self._drain = drain
        self._runtime = runtime
        self._ending: asyncio.TimerHandle | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Handle signals in the event loop, and leave the exit code to us."""
        loop = asyncio.get_running_loop()
        handled: tuple[signal.Signals, ...] = (signal.SIGTERM, signal.SIGINT)
        for number in handled:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        if self._runtime.reloads:
            loop.add_signal_handler(signal.SIGHUP, self._runtime.reload)
            handled += (signal.SIGHUP,)
        try:
            yield
        finally:
            for number in handled:
                loop.remove_signal_handler(number)
            if self._runtime.reloads:
                signal.signal(signal.SIGHUP, signal.SIG_IGN)  # else it would end what still has to end itself

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        if self.should_exit:
            self.force_exit = True
            return
        settings = self._runtime.config.drain
        grace_s = settings.grace_s if sig == signal.SIGTERM and not self._drain.draining else 0.0
        if grace_s:
            message = f"ending: readiness fails, everything is served for another {grace_s:g} s"
        else:
            seconds = settings.in_flight_s_max
            message = f"ending: no new connections, calls under way have {seconds:g} s"
        say(logging.INFO, "draining", None, message)
        self._drain.draining = True
        if self._ending:
            self._ending.cancel()
        self._ending = asyncio.get_running_loop().call_later(grace_s, self.end)

    def end(self) -> None:
        self.should_exit = True


class _Front:
    """What callers meet: endpoints and limits of the configuration that counts. Calls that have begun keep
    theirs, connections do not.
    """

    def __init__(self, runtime: Runtime, drain: Drain) -> None:
        self._runtime = runtime
        self._drain = drain
        self._calls: dict[bytes, CallEndpoint] = {}
        self._patience = Patience(self._shortest_s)
        self._protocol = partial(
            Protocol,
            calls=self._calls,
            drain=drain,
            limits=self._limits,
            patience=self._patience,
            observe=runtime.observe,
            neighbours_only=self._neighbours_only,
        )
        self._make()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    def uvicorn_config(self) -> uvicorn.Config:
        return uvicorn.Config(
            self,
            http=cast("type[asyncio.Protocol]", self._protocol),  # it is only ever called
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # whoever says who calls is not believed
            timeout_graceful_shutdown=self._in_flight_s_max,
        )

    def become(self, server: uvicorn.Server) -> None:
        """As the configuration is by now."""
        self._make()
        self._patience.become(self._shortest_s)
        server.config.timeout_graceful_shutdown = self._in_flight_s_max
        self._protocol.keywords.update(limits=self._limits, neighbours_only=self._neighbours_only)
        for connection in server.server_state.connections:
            cast("Protocol", connection).become(self._limits, neighbours_only=self._neighbours_only)

    def _make(self) -> None:
        calls = call_endpoints(self._runtime)
        self._app = create_app(self._runtime, self._drain, calls)
        self._calls.clear()  # each connection has this very mapping
        self._calls.update((path.encode(), call) for path, call in calls.items())

    @property
    def _limits(self) -> LimitsSettings:
        return self._runtime.config.engine.limits

    @property
    def _neighbours_only(self) -> bool:
        return not (self._runtime.config.keyed or self._runtime.config.allow_anonymous)

    @property
    def _shortest_s(self) -> float:
        limits = self._limits
        return min(limits.keep_alive_s, limits.head_s_max, limits.body_grace_s, limits.unread_s_max)

    @property
    def _in_flight_s_max(self) -> int:
        return max(1, round(self._runtime.config.drain.in_flight_s_max))


async def serve(
    runtime: Runtime, listener: socket.socket, failed: Coroutine[None, None, StartError] | None = None
) -> None:
    """Serve on `listener` until a signal ends it, or until `failed` returns, whose error is then raised."""
    with contextlib.suppress(OSError, ValueError):  # each connection is an open file
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    drain = Drain()
    front = _Front(runtime, drain)
    server = _Server(front.uvicorn_config(), drain, runtime)
    runtime.on_change.append(lambda: front.become(server))
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
