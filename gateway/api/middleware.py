"""What every answer carries, whichever route gives it: the request's id, and the announcement of our end."""

import os
import re
from collections.abc import Mapping
from itertools import count

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.drain import Drain

REQUEST_ID = "gateway.request_id"
"""Where the id stands in the scope."""

_SAFE = re.compile(rb"[\x21\x23-\x5b\x5d-\x7e]{1,128}")  # printable, nothing that JSON or a log must escape

_PREFIX = os.urandom(6).hex().encode()
_NUMBERS = count()


def request_id_of(headers: Mapping[bytes, bytes]) -> bytes:
    """The caller's id for the request if it can be repeated safely, else a new one: 24 hexadecimal digits,
    of which the first half is this process's own.
    """
    given = headers.get(b"x-request-id")
    if given is not None and _SAFE.fullmatch(given):
        return given
    return b"%b%012x" % (_PREFIX, next(_NUMBERS))


class Envelope:
    """Plain ASGI middleware."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = scope[REQUEST_ID] = request_id_of(dict(scope["headers"]))

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message["headers"] = list(message.get("headers", ()))
                headers.append((b"x-request-id", request_id))
                if self._drain.draining:  # so that callers connect to who stays
                    headers.append((b"connection", b"close"))
            await send(message)

        await self._app(scope, receive, sending)
