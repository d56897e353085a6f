"""The two ways from the parser to an endpoint: our direct one, and uvicorn's own through ASGI."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from gateway.api import server
from gateway.api.endpoint import CallEndpoint
from gateway.api.protocol import Protocol


class Ordinary(Protocol):
    """Knows no calls, so all requests go uvicorn's way."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **{**named, "calls": {}})


@contextmanager
def through(protocol: type[Protocol]) -> Iterator[None]:
    """Gateways that start in here speak with this."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "Protocol", protocol)
        yield


@contextmanager
def counting_asgi() -> Iterator[list[str]]:
    """The paths of the calls that come through ASGI."""
    paths: list[str] = []
    real = CallEndpoint.__call__

    async def counted(self: CallEndpoint, scope: Any, receive: Any, send: Any) -> None:
        paths.append(scope["path"])
        await real(self, scope, receive, send)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CallEndpoint, "__call__", counted)
        yield paths
