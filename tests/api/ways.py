"""The two ways from the parser to an endpoint: our direct one, and uvicorn's own through ASGI."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from starlette.routing import Route

from gateway.api import server
from gateway.api.protocol import Protocol

Way = Callable[..., Protocol]
"""Makes what serves a connection. (Not a class derived from `Protocol`: the compiled one has none.)"""


def by_asgi(*args: Any, calls: object, **named: Any) -> Protocol:
    """One that knows no calls, so all requests go uvicorn's way."""
    return Protocol(*args, calls={}, **named)


class Recorder:
    """Remembers the connections that go one way."""

    def __init__(self, way: Way = Protocol) -> None:
        self.way = way
        self._made: list[Any] = []

    def __call__(self, *args: Any, **named: Any) -> Protocol:
        made = self.way(*args, **named)
        self._made.append(made)
        return made

    @property
    def connections(self) -> list[Protocol]:
        """All there ever were, in order."""
        return [made for made in self._made if made.transport]

    @property
    def open(self) -> list[Protocol]:
        return [made for made in self.connections if made in made.connections]


@contextmanager
def through(way: Way) -> Iterator[None]:
    """Gateways that start in here speak with this."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "Protocol", way)
        yield


@contextmanager
def counting_asgi() -> Iterator[list[str]]:
    """The paths of the calls that come through ASGI."""
    paths: list[str] = []
    real = Route.handle

    async def counted(self: Route, scope: Any, receive: Any, send: Any) -> None:
        if self.methods == {"POST"}:
            paths.append(scope["path"])
        await real(self, scope, receive, send)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Route, "handle", counted)
        yield paths
