"""The announced end of this process: set by the server, told by the routes."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Drain:
    def __init__(self) -> None:
        self.draining = False
        """Readiness fails and answers close their connections, while everything is still served."""


class CloseWhenDraining:
    """ASGI middleware: every answer closes its connection, so that callers connect to who stays."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if self._drain.draining and message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        await self._app(scope, receive, sending)
