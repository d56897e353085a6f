"""One HTTP call from its first byte to its last: a plain ASGI endpoint, since these routes are the hot ones.

    key → body → dialect → service → body, or the error's own

Whatever happens, exactly one answer is sent, or none to a caller who has gone, and one `RequestEnded`
reported.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from starlette.types import Receive, Scope, Send

from gateway.api.auth import Keys
from gateway.api.errors import CALLER_GONE, body_of, error_body, headers_of, status_of
from gateway.api.middleware import REQUEST_ID
from gateway.api.parsing import parse_json
from gateway.api.rendering import Exchange, Reply
from gateway.core.events import CallRejected, Observer, RequestEnded
from gateway.core.settings import LimitsSettings
from gateway.errors import BadRequest, Draining, GatewayError, TemporaryError, TooLarge, Unauthorized
from gateway.messages import Timings
from gateway.service import Gateway

_log = logging.getLogger("gateway")

Dialect = Callable[[dict[str, Any], Mapping[bytes, bytes]], Exchange]

_WATCH_AFTER_S = 0.05
"""Calls answered sooner are not watched for callers who hang up, which would cost a task for each."""


class _Answer(NamedTuple):
    status: int
    reply: Reply = Reply(b"", "", Timings())
    items: int = 0
    headers: Sequence[tuple[bytes, bytes]] = ()


class CallEndpoint:
    """Serves one route in one dialect."""

    def __init__(
        self,
        route: str,
        dialect: Dialect,
        gateway: Gateway,
        keys: Keys,
        limits: LimitsSettings,
        observe: Observer,
    ) -> None:
        self._route = route
        self._dialect = dialect
        self._gateway = gateway
        self._keys = keys
        self._limits = limits
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        request_id: bytes = scope[REQUEST_ID]
        answer = await self._answer(headers, receive, request_id)
        timings = answer.reply.timings
        if answer.status != CALLER_GONE:
            timing = b"queue;dur=%.3f, upstream;dur=%.3f" % (timings.queue_s * 1e3, timings.upstream_s * 1e3)
            body = answer.reply.body
            fields = [
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
                (b"server-timing", timing),
                *answer.headers,
            ]
            await send({"type": "http.response.start", "status": answer.status, "headers": fields})
            await send({"type": "http.response.body", "body": body})
        self._observe(
            RequestEnded(
                self._route,
                answer.reply.model,
                answer.status,
                loop.time() - started,
                answer.items,
                timings.queue_s,
                timings.upstream_s,
            )
        )

    async def _answer(self, headers: Mapping[bytes, bytes], receive: Receive, request_id: bytes) -> _Answer:
        """Whatever comes of a request, as something to send."""
        exchange: Exchange | None = None
        watch = _Watch(receive)
        try:
            self._keys.check(headers)
            fields = parse_json(await read_body(receive, headers, self._limits.body_bytes_max))
            exchange = self._dialect(fields, headers)
            exchange.call.timeout_s = _timeout_of(headers)
            watch.start()
            return _Answer(200, await exchange.run(self._gateway, request_id), exchange.items)
        except GatewayError as error:
            return self._refused(error, exchange)
        except CallerGone:
            return _Answer(CALLER_GONE)
        except asyncio.CancelledError:
            watch.uncancel()
            if watch.caller_gone:
                return _Answer(CALLER_GONE, items=exchange.items if exchange else 0)
            # By the server, whose time to end is over.
            return self._refused(Draining("this gateway is stopping"), exchange)
        except Exception:
            _log.exception("internal error on %s, request %s", self._route, request_id.decode())
            body = error_body("internal error", "api_error", None, "internal_error")
            return _Answer(500, Reply(body, "", Timings()))
        finally:
            watch.stop()

    def _refused(self, error: GatewayError, exchange: Exchange | None) -> _Answer:
        extra = headers_of(error)
        if isinstance(error, TemporaryError | Unauthorized):
            self._observe(CallRejected(_reason(error)))
        if isinstance(error, TooLarge):
            extra.append((b"connection", b"close"))  # the rest of the body is not read
        model = self._gateway.label(exchange.call.model) if exchange else ""
        items = exchange.items if exchange else 0
        return _Answer(status_of(error), Reply(body_of(error), model, Timings()), items, extra)


class CallerGone(Exception):
    """The connection closed before the body was whole."""


class _Watch:
    """Cancels the task that made it when its caller hangs up."""

    __slots__ = ("_receive", "_task", "_timer", "_watched", "caller_gone")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._watched = asyncio.current_task()
        self.caller_gone = False

    def start(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_WATCH_AFTER_S, self._begin)

    def stop(self) -> None:
        if self._timer:
            self._timer.cancel()
        if self._task:
            self._task.cancel()

    def uncancel(self) -> None:
        """The cancellation is dealt with: this task has only its answer left to send."""
        if self._watched:
            self._watched.uncancel()

    def _begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.caller_gone = True
        if self._watched:
            self._watched.cancel()


async def read_body(receive: Receive, headers: Mapping[bytes, bytes], most: int) -> bytes:
    """The body, refused before it is read whole when it is larger than `most` bytes."""
    if headers.get(b"content-encoding", b"").strip().lower() not in (b"", b"identity"):
        raise BadRequest("send the body as it is: compressed bodies are not taken")
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > most:
        raise TooLarge(f"the body has {int(length)} bytes; at most {most} are taken")
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise CallerGone
        body: bytes = message.get("body", b"")
        size += len(body)
        if size > most:
            raise TooLarge(f"the body has more than the {most} bytes that are taken")
        chunks.append(body)
        if not message.get("more_body"):
            return body if len(chunks) == 1 else b"".join(chunks)


def _timeout_of(headers: Mapping[bytes, bytes]) -> float | None:
    for name in (b"x-request-timeout", b"x-litellm-timeout"):
        if given := headers.get(name):
            try:
                seconds = float(given)
            except ValueError:
                seconds = 0.0
            if not 0 < seconds < float("inf"):
                raise BadRequest(f"{name.decode()} must be a number of seconds above 0")
            return seconds
    return None


def _reason(error: GatewayError) -> str:
    """The error's class in metrics' words: `NoDeployment` → `no_deployment`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__).lower()
