"""One HTTP call from its first byte to its last, without a framework, since these routes are the hot ones.

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

from gateway import service
from gateway.api.auth import Keys, rate_fields
from gateway.api.errors import CALLER_GONE, Told, tell
from gateway.api.middleware import REQUEST_ID
from gateway.api.parsing import parse_json
from gateway.api.rendering import Exchange, Rendering, Reply
from gateway.core.admission import SMALL_BODY_BYTES, Bodies
from gateway.core.events import CallRejected, Observer, RequestEnded
from gateway.core.quota import Claim
from gateway.core.settings import LimitsSettings
from gateway.errors import (
    BadRequest,
    BodiesFull,
    Draining,
    Forbidden,
    GatewayError,
    TemporaryError,
    TooLarge,
    Unauthorized,
)
from gateway.messages import Call, Timings
from gateway.observability.calls import Calls, Ended, Seen
from gateway.service import Gateway

_log = logging.getLogger("gateway")

Dialect = Callable[[dict[str, Any], Mapping[bytes, bytes]], Exchange]


class Manner(NamedTuple):
    """How a route reads bodies, and how it words what goes wrong."""

    parse: Callable[[bytes | bytearray, LimitsSettings], Any] = parse_json
    tell: Callable[[GatewayError | None, Call | None], Told] = tell


_OPENAI = Manner()

_WATCH_AFTER_S = 0.05
"""Calls answered sooner are not watched for callers who hang up, which would cost a task for each."""

_MANY_ITEMS = 256
"""To read a call of more takes long enough: it is queued in a turn of its own."""

_FULL = "the bodies of other calls take all the memory that there is for them; try again later"

_HEAD = (
    b"content-type: application/json\r\n"
    b"content-length: %d\r\n"
    b"server-timing: queue;dur=%.3f, upstream;dur=%.3f\r\n"
)
CLOSE = b"connection: close\r\n"


_NOT_SERVED = frozenset((429, 503))
"""With these no work was done for a call, and it may come again: it has cost its caller nothing."""


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
        body, _, timings, more = self.reply
        size = len(body) + sum(map(len, more)) if more else len(body)
        lines = _HEAD % (size, timings.queue_s * 1e3, timings.upstream_s * 1e3)
        for field in self.headers:
            lines += b"%b: %b\r\n" % field
        return lines + CLOSE if self.closes else lines

    def fields(self) -> list[tuple[bytes, bytes]]:
        """The same, as ASGI wants them."""
        parts = (line.partition(b": ") for line in self.head().splitlines())
        return [(name, value) for name, _, value in parts]


class CallEndpoint:
    """Serves one route in one dialect: to ASGI servers when it is called, and to our own protocol, which
    makes a `Serving` for the head of a request, asks for its `refusal`, begins it when it has the body, and
    has the end counted by `report`.
    """

    def __init__(
        self,
        route: str,
        dialect: Dialect,
        gateway: Gateway,
        keys: Keys,
        limits: LimitsSettings,
        bodies: Bodies,
        observe: Observer,
        manner: Manner = _OPENAI,
        calls: Calls | None = None,
    ) -> None:
        self.route = route
        self._parse, self._tell = manner
        self.dialect = dialect
        self.gateway = gateway
        self.keys = keys
        self.body_bytes_max = limits.body_bytes_max
        self.bodies = bodies
        self._limits = limits
        self._observe = observe
        self.calls = calls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        serving = _Awaited(self, dict(scope["headers"]), scope[REQUEST_ID])
        serving.end(await self._answer_to(serving, receive))
        answer = serving.answer
        if answer.status != CALLER_GONE:
            await send({"type": "http.response.start", "status": answer.status, "headers": answer.fields()})
            body, _, _, more = answer.reply
            for piece in more:
                await send({"type": "http.response.body", "body": body, "more_body": True})
                body = piece
            await send({"type": "http.response.body", "body": body})
        self.report(serving, answer, loop.time() - started)

    async def _answer_to(self, serving: "_Awaited", receive: Receive) -> Answer:
        if refusal := self.refusal(serving):
            return refusal
        body = bytearray()
        more = True
        while more:
            try:
                message = await receive()
            except asyncio.CancelledError:
                return _stopped(serving)
            if message["type"] != "http.request":
                return Answer(CALLER_GONE)
            chunk = message.get("body", b"")
            body += chunk
            if refusal := serving.count(len(chunk)):
                return refusal
            more = message.get("more_body", False)
        serving.begin(body)
        del body
        watch = _Watch(receive)
        try:
            await serving.answered
            return serving.answer
        except asyncio.CancelledError:
            return serving.gone() if watch.gone else _stopped(serving)
        finally:
            watch.stop()

    def refusal(self, serving: "Serving") -> Answer | None:
        """What is wrong with a request by its head; None when its body is wanted."""
        headers = serving.headers
        try:
            if quota := self.keys.check(headers):
                claim = serving.claim = Claim(quota)
                claim.begin(asyncio.get_running_loop().time())
            packed = headers.get(b"content-encoding")
            if packed and packed.strip().lower() not in (b"", b"identity"):
                raise BadRequest("send the body as it is: compressed bodies are not taken")
            length = headers.get(b"content-length", b"")
            if length.isdigit():
                self._check_room(int(length))
        except GatewayError as error:
            return self.refused(error, None)
        except Exception as error:
            return self.failed(serving.request_id, error)
        return None

    def _check_room(self, size: int) -> None:
        """Raise TooLarge or BodiesFull if a body of so many bytes need not be sent. No room is reserved: who
        only says that much is coming would keep others away.
        """
        if size > self.body_bytes_max:
            raise TooLarge(f"the body has {size} bytes; at most {self.body_bytes_max} are taken")
        if size > SMALL_BODY_BYTES and self.bodies.are_too_many(size, size):
            raise BodiesFull(_FULL)

    def parse(self, body: bytes | bytearray) -> Any:
        return self._parse(body, self._limits)

    def too_large(self) -> Answer:
        """What to answer when more than `body_bytes_max` bytes of a body have come."""
        error = TooLarge(f"the body has more than the {self.body_bytes_max} bytes that are taken")
        return self.refused(error, None)

    def report(self, serving: "Serving", answer: Answer, duration_s: float) -> None:
        """Count a request that has ended with `answer`, so long after its head had come."""
        body, model, timings, more = answer.reply
        if (seen := serving.seen) and seen.wants(answer.status):
            seen.end(
                Ended(
                    serving.request_id.decode(),
                    answer.status,
                    model,
                    serving.claim.quota.key.name if serving.claim else "",
                    answer.items,
                    duration_s,
                    timings.queue_s,
                    timings.upstream_s,
                    serving.body_bytes,
                    len(body) + sum(map(len, more)),
                )
            )
        self._observe(
            RequestEnded(
                self.route,
                model,
                answer.status,
                duration_s,
                answer.items,
                timings.queue_s,
                timings.upstream_s,
            )
        )

    def failed(self, request_id: bytes, error: BaseException) -> Answer:
        """What to answer to a bug of ours."""
        request = request_id.decode()
        _log.error(
            "internal error on %s, request %s",
            *(self.route, request),
            exc_info=error,
            extra={"event": "bug", "fields": {"route": self.route, "request_id": request}},
        )
        status, body, headers = self._tell(None, None)
        return Answer(status, Reply(body, "", Timings()), headers=headers)

    def refused(self, error: GatewayError, exchange: Exchange | None) -> Answer:
        if isinstance(error, TemporaryError | Unauthorized | Forbidden):
            self._observe(CallRejected(_reason(error)))
        model = self.gateway.label(exchange.call.model) if exchange else ""
        items = exchange.items if exchange else 0
        status, body, headers = self._tell(error, exchange.call if exchange else None)
        unread = isinstance(error, TooLarge | BodiesFull)
        return Answer(status, Reply(body, model, Timings()), items, headers, unread)


class Serving:
    """One call, from its head to its answer, which `send` gets, once. Whoever wants none any more asks for
    the answer `gone` or `stopped`, and ends it with that.
    """

    __slots__ = (
        "_call",
        "_exchange",
        "body_bytes",
        "claim",
        "ended",
        "endpoint",
        "headers",
        "request_id",
        "seen",
    )

    def __init__(self, endpoint: CallEndpoint, headers: Mapping[bytes, bytes], request_id: bytes) -> None:
        self.endpoint = endpoint
        self.headers = headers
        self.request_id = request_id
        self.ended = False
        self.body_bytes = 0
        """What of its body has come."""
        self.claim: Claim | None = None
        """What it has of the quota of its caller's key, if that is a named one."""
        self._exchange: Exchange | None = None
        self._call: service.Serving | None = None
        calls = endpoint.calls
        self.seen: Seen | None = calls.begin(endpoint.route, headers) if calls else None

    def count(self, size: int) -> Answer | None:
        """So many more bytes of its body have come. What to answer where they are too many."""
        endpoint, bodies = self.endpoint, self.endpoint.bodies
        self.body_bytes = whole = self.body_bytes + size
        bodies.held += size
        if whole > endpoint.body_bytes_max:
            return endpoint.too_large()
        if bodies.are_too_many(whole):
            return endpoint.refused(BodiesFull(_FULL), None)
        return None

    def begin(self, body: bytes | bytearray) -> None:
        """Its body is whole. It may end at once."""
        endpoint, headers = self.endpoint, self.headers
        try:
            exchange = self._exchange = endpoint.dialect(endpoint.parse(body), headers)
            call = exchange.call
            if not _WISHES.isdisjoint(headers):
                call.timeout_s = _timeout_of(headers)
                call.bulk = _is_bulk(headers)
            if self.claim:
                self._limit(self.claim, exchange)
            else:
                call.caller = endpoint.keys.caller(headers)
            if self.seen:
                self.seen.read(call)
            if exchange.items > _MANY_ITEMS:
                asyncio.get_running_loop().call_soon(self._ask, call)
            else:
                self._call = endpoint.gateway.begin(call, self._on_outcome)
        except Exception as error:
            self.end(self._wrong(error))

    def _limit(self, claim: Claim, exchange: Exchange) -> None:
        """Have the call keep to what its caller's key may."""
        call, key = exchange.call, claim.quota.key
        call.caller, call.models = key.name, key.models
        call.bulk = call.bulk or key.bulk
        self.endpoint.gateway.pools_for(call)  # who may not use the model, or errs, pays for no items
        claim.hold(exchange.items, asyncio.get_running_loop().time())

    def _ask(self, call: Call) -> None:
        if self.ended:
            return
        try:
            self._call = self.endpoint.gateway.begin(call, self._on_outcome)
        except Exception as error:
            self.end(self._wrong(error))

    def gone(self) -> Answer:
        """Its caller has hung up."""
        if self._call:
            self._call.leave()
        return Answer(CALLER_GONE, items=self._exchange.items if self._exchange else 0)

    def stopped(self) -> Answer:
        """The server's time to end is over."""
        if self._call:
            self._call.leave()
        return self.endpoint.refused(Draining("this gateway is stopping"), self._exchange)

    def end(self, answer: Answer) -> None:
        """This comes of it, unless it has ended."""
        if not self.ended:
            self.ended = True
            self.endpoint.bodies.held -= self.body_bytes
            self._exchange = self._call = None  # as long as its connection is idle, somebody may hold it
            if self.claim:
                answer = self._settle(self.claim, answer)
            self.send(answer)

    @staticmethod
    def _settle(claim: Claim, answer: Answer) -> Answer:
        """Give back what was claimed, and tell what is left."""
        now = asyncio.get_running_loop().time()
        claim.end(now, refused=answer.status in _NOT_SERVED)
        fields = rate_fields(claim.quota, now)
        return answer._replace(headers=(*answer.headers, *fields))

    def send(self, answer: Answer) -> None:
        raise NotImplementedError

    def _on_outcome(self, outcome: service.Result | Exception) -> None:
        if isinstance(outcome, Exception):
            self.end(self._wrong(outcome))
        elif exchange := self._exchange:
            if self.seen:
                self.seen.tokens = outcome.tokens
            try:
                reply = exchange.render(outcome, self.request_id)
            except Exception as error:
                self.end(self._wrong(error))
                return
            if isinstance(reply, Reply):
                self.end(Answer(200, reply, exchange.items))
            else:
                self._render(exchange, reply)

    def _render(self, exchange: Exchange, rendering: Rendering) -> None:
        if self.ended:
            return
        try:
            next(rendering)
        except StopIteration as end:
            self.end(Answer(200, end.value, exchange.items))
        except Exception as error:
            self.end(self._wrong(error))
        else:
            asyncio.get_running_loop().call_soon(self._render, exchange, rendering)

    def _wrong(self, error: Exception) -> Answer:
        if isinstance(error, GatewayError):
            return self.endpoint.refused(error, self._exchange)
        return self.endpoint.failed(self.request_id, error)


class _Awaited(Serving):
    __slots__ = ("answer", "answered")

    answer: Answer

    def __init__(self, endpoint: CallEndpoint, headers: Mapping[bytes, bytes], request_id: bytes) -> None:
        super().__init__(endpoint, headers, request_id)
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def send(self, answer: Answer) -> None:
        self.answer = answer
        service.settle(self.answered, None)


def _stopped(serving: Serving) -> Answer:
    """The answer of a task that the server has cancelled, since its time to end is over."""
    if task := asyncio.current_task():
        task.uncancel()  # it has only its answer left to send
    return serving.stopped()


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


_TIMEOUTS = (b"x-request-timeout", b"x-litellm-timeout")
_PRIORITY = b"x-priority"
_WISHES = frozenset({*_TIMEOUTS, _PRIORITY})
"""Headers that say how a call wants to be served; most have none of them."""


def _timeout_of(headers: Mapping[bytes, bytes]) -> float | None:
    """Seconds."""
    for name in _TIMEOUTS:
        if given := headers.get(name):
            try:
                seconds = float(given)
            except ValueError:
                seconds = 0.0
            if not 0 < seconds < float("inf"):
                raise BadRequest(f"{name.decode()} must be a number of seconds above 0")
            return seconds
    return None


def _is_bulk(headers: Mapping[bytes, bytes]) -> bool:
    given = (headers.get(_PRIORITY) or b"interactive").strip().lower()
    if given not in (b"interactive", b"bulk"):
        raise BadRequest("x-priority must be interactive or bulk")
    return given == b"bulk"


def _reason(error: GatewayError) -> str:
    """The error's class in metrics' words: `NoDeployment` → `no_deployment`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__).lower()
