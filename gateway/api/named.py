"""Calls whose path names the model, as Azure's clients and OpenAI's older ones have it."""

from collections.abc import Callable, Mapping
from typing import Any

from starlette.types import Receive, Scope, Send

from gateway.api.endpoint import CallEndpoint, Dialect
from gateway.api.rendering import Exchange


class ModelInPath:
    """ASGI for a route with the parameter `model`, which wins over the body's: the caller's base URL says
    what is meant, and clients fill in the field with a name of their own.
    """

    def __init__(self, endpoint: Callable[[Dialect], CallEndpoint], dialect: Dialect) -> None:
        self._endpoint = endpoint
        self._dialect = dialect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        model: str = scope["path_params"]["model"]

        def dialect(fields: dict[str, Any], headers: Mapping[bytes, bytes]) -> Exchange:
            return self._dialect({**fields, "model": model}, headers)

        await self._endpoint(dialect)(scope, receive, send)
