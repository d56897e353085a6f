"""One HTTP call from its first byte to its last, without a framework, since these routes are the hot ones.

    key → body → dialect → service → body, or the error's own

Whatever happens, exactly one answer is sent, or none to a caller who has gone, and one `RequestEnded`
reported.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from starlette.types import Receive, Scope, Send

from gateway import service
from gateway.api.auth import Keys
from gateway.api.errors import CALLER_GONE, body_of, error_body, headers_of, status_of
from gateway.api.middleware import REQUEST_ID
from gateway.api.parsing import parse_json
from gateway.api.rendering import Exchange, Rendering, Reply
from gateway.core.events import CallRejected, Observer, RequestEnded
from gateway.core.settings import LimitsSettings
from gateway.errors import BadRequest, Draining, GatewayError, TemporaryError, TooLarge, Unauthorized
from gateway.messages import Timings
from gateway.service import Gateway

_log = logging.getLogger("gateway")

Dialect = Callable[[dict[str, Any], Mapping[bytes, bytes]], Exchange]

_WATCH_AFTER_S = 0.05
"""Calls answered sooner are not watched for callers who hang up, which would cost a task for each."""


_HEAD = (
    b"content-type: application/json\r\n"
    b"content-length: %d\r\n"
    b"server-timing: queue;dur=%.3f, upstream;dur=%.3f\r\n"
)
CLOSE = b"connection: close\r\n"


class Answer(NamedTuple):
    """Whatever comes of a request. With the status `CALLER_GONE` it is only counted."""

    status: int
    reply: Reply = Reply(b"", "", Timings())
    items: int = 0
    headers: Sequence[tuple[bytes, bytes]] = ()
    closes: bool = False
    """The connection ends with it, since the rest of the body is not read."""

    def head(self) -> bytes:
        """The header fields of the answer, each a line with its name in small letters."""
        body, _, timings = self.reply
        lines = _HEAD % (len(body), timings.queue_s * 1e3, timings.upstream_s * 1e3)
        for field in self.headers:
            lines += b"%b: %b\r\n" % field
        return lines + CLOSE if self.closes else lines

    def fields(self) -> list[tuple[bytes, bytes]]:
        """The same, as ASGI wants them."""
        parts = (line.partition(b": ") for line in self.head().splitlines())
        return [(name, value) for name, _, value in parts]


class CallEndpoint:
    """Serves one route in one dialect: to ASGI servers when it is called, and to our own protocol, which
    asks for a `refusal` when it has the head of a request, begins to serve it when it has the body, and has
    the end counted by `report`.
    """

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
        self.dialect = dialect
        self.gateway = gateway
        self.keys = keys
        self.body_bytes_max = limits.body_bytes_max
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        answer = await self._answer_to(scope, receive)
        if answer.status != CALLER_GONE:
            await send({"type": "http.response.start", "status": answer.status, "headers": answer.fields()})
            await send({"type": "http.response.body", "body": answer.reply.body})
        self.report(answer, loop.time() - started)

    async def _answer_to(self, scope: Scope, receive: Receive) -> Answer:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        request_id: bytes = scope[REQUEST_ID]
        if refusal := self.refusal(headers, request_id):
            return refusal
        body = bytearray()
        more = True
        while more:
            try:
                message = await receive()
            except asyncio.CancelledError:
                return self._stopped()
            if message["type"] != "http.request":
                return Answer(CALLER_GONE)
            body += message.get("body", b"")
            if len(body) > self.body_bytes_max:
                return self.too_large()
            more = message.get("more_body", False)
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        serving = self.begin(headers, body, request_id, partial(service.settle, answered))
        watch = _Watch(receive)
        try:
            return await answered
        except asyncio.CancelledError:
            return serving.gone() if watch.gone else self._stopped(serving)
        finally:
            watch.stop()

    def _stopped(self, serving: "Serving | None" = None) -> Answer:
        if task := asyncio.current_task():
            task.uncancel()  # it has only its answer left to send
        return serving.stopped() if serving else self.stopped()

    def refusal(self, headers: Mapping[bytes, bytes], request_id: bytes) -> Answer | None:
        """What is wrong with a request by its head; None when its body is wanted."""
        try:
            self.keys.check(headers)
            if headers.get(b"content-encoding", b"").strip().lower() not in (b"", b"identity"):
                raise BadRequest("send the body as it is: compressed bodies are not taken")
            length = headers.get(b"content-length", b"")
            if length.isdigit() and int(length) > self.body_bytes_max:
                raise TooLarge(f"the body has {int(length)} bytes; at most {self.body_bytes_max} are taken")
        except GatewayError as error:
            return self.refused(error, None)
        except Exception as error:
            return self.failed(request_id, error)
        return None

    def too_large(self) -> Answer:
        """What to answer when more than `body_bytes_max` bytes of a body have come."""
        error = TooLarge(f"the body has more than the {self.body_bytes_max} bytes that are taken")
        return self.refused(error, None)

    def begin(
        self,
        headers: Mapping[bytes, bytes],
        body: bytes | bytearray,
        request_id: bytes,
        done: Callable[[Answer], None],
    ) -> "Serving":
        """Serve a whole request: `done` gets whatever comes of it, once, and maybe at once."""
        return Serving(self, headers, body, request_id, done)

    def report(self, answer: Answer, duration_s: float) -> None:
        """Count a request that has ended with `answer`, so long after its head had come."""
        _, model, timings = answer.reply
        self._observe(
            RequestEnded(
                self._route,
                model,
                answer.status,
                duration_s,
                answer.items,
                timings.queue_s,
                timings.upstream_s,
            )
        )

    def stopped(self, exchange: Exchange | None = None) -> Answer:
        """What to answer when the server's time to end is over."""
        return self.refused(Draining("this gateway is stopping"), exchange)

    def failed(self, request_id: bytes, error: BaseException) -> Answer:
        """What to answer to a bug of ours."""
        _log.error("internal error on %s, request %s", self._route, request_id.decode(), exc_info=error)
        body = error_body("internal error", "api_error", None, "internal_error")
        return Answer(500, Reply(body, "", Timings()))

    def refused(self, error: GatewayError, exchange: Exchange | None) -> Answer:
        if isinstance(error, TemporaryError | Unauthorized):
            self._observe(CallRejected(_reason(error)))
        model = self.gateway.label(exchange.call.model) if exchange else ""
        items = exchange.items if exchange else 0
        reply = Reply(body_of(error), model, Timings())
        return Answer(status_of(error), reply, items, headers_of(error), isinstance(error, TooLarge))


class Serving:
    """One call, from its body to its answer. Whoever wants none any more has it `gone` or `stopped`."""

    __slots__ = ("_call", "_done", "_endpoint", "_exchange", "_request_id")

    def __init__(
        self,
        endpoint: CallEndpoint,
        headers: Mapping[bytes, bytes],
        body: bytes | bytearray,
        request_id: bytes,
        done: Callable[[Answer], None],
    ) -> None:
        self._endpoint = endpoint
        self._request_id = request_id
        self._done: Callable[[Answer], None] | None = done
        self._exchange: Exchange | None = None
        self._call: service.Serving | None = None
        try:
            exchange = self._exchange = endpoint.dialect(parse_json(body), headers)
            call = exchange.call
            call.timeout_s = _timeout_of(headers)
            call.caller = endpoint.keys.caller(headers)
            self._call = endpoint.gateway.begin(call, self._on_outcome)
        except Exception as error:
            self._end(self._wrong(error))

    def gone(self) -> Answer:
        """Its caller has hung up."""
        self._leave()
        return Answer(CALLER_GONE, items=self._exchange.items if self._exchange else 0)

    def stopped(self) -> Answer:
        """The server's time to end is over."""
        self._leave()
        return self._endpoint.stopped(self._exchange)

    def _leave(self) -> None:
        self._done = None
        if self._call:
            self._call.leave()

    def _on_outcome(self, outcome: service.Result | Exception) -> None:
        if isinstance(outcome, Exception):
            self._end(self._wrong(outcome))
        elif self._exchange:
            self._render(self._exchange, self._exchange.render(outcome, self._request_id))

    def _render(self, exchange: Exchange, rendering: Rendering) -> None:
        if self._done is None:
            return
        try:
            next(rendering)
        except StopIteration as end:
            self._end(Answer(200, end.value, exchange.items))
        except Exception as error:
            self._end(self._wrong(error))
        else:
            asyncio.get_running_loop().call_soon(self._render, exchange, rendering)

    def _wrong(self, error: Exception) -> Answer:
        if isinstance(error, GatewayError):
            return self._endpoint.refused(error, self._exchange)
        return self._endpoint.failed(self._request_id, error)

    def _end(self, answer: Answer) -> None:
        done, self._done, self._call = self._done, None, None
        if done:
            done(answer)


class _Watch:
    """Cancels the task that made it when its caller hangs up."""

    __slots__ = ("_receive", "_task", "_timer", "_watched", "gone")

    def __init__(self, receive: Receive) -> None:
        self.gone = False
        self._receive = receive
        self._task: asyncio.Task[None] | None = None
        self._watched = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(_WATCH_AFTER_S, self._begin)

    def stop(self) -> None:
        self._timer.cancel()
        if self._task:
            self._task.cancel()

    def _begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        if self._watched:
            self._watched.cancel()


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
