"""A scriptable stand-in for Infinity: a real HTTP server that answers as it does, or as told.

    async with FakeInfinity() as fake:
        fake.faults.append(Fault(status=503, times=1))
        ...  # calls to fake.url
        assert fake.batches == [["a", "b"], ["a", "b"]]

tests/test_contract.py holds it and a real Infinity to the same answers.
"""

import asyncio
import json
import socket
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import orjson
from aiohttp import web

from gateway.pool.samples import LONG, SHORT
from tests.fakes.answers import TINY_MODELS, Answer, Answers, FakeModel, ServiceTime, Worker
from tests.fakes.faults import Fault, Received
from tests.fakes.vectors import classes_of, logit_of, score_of, vector_of, vectors_of
from tests.fakes.wire import Refusal, parsed, problem, refusal, unauthorized

__all__ = [
    "TINY_MODELS",
    "FakeInfinity",
    "FakeModel",
    "Fault",
    "Received",
    "ServiceTime",
    "classes_of",
    "logit_of",
    "score_of",
    "vector_of",
    "vectors_of",
]

CHUNK_BYTES = 65_536


class FakeInfinity:
    """Owns its port from the first `start` to `close`: while it is stopped, connections are refused."""

    def __init__(
        self,
        models: Sequence[FakeModel] = TINY_MODELS,
        *,
        url_prefix: str = "",
        api_key: str = "",
        queue_size: int = 32_000,
        service: ServiceTime | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.models = tuple(models)
        self.worker = Worker(service or ServiceTime(), queue_size)
        self.faults: list[Fault] = []
        self.requests: list[Received] = []
        self.in_flight = 0  # POSTs that are being answered.
        self.in_flight_max = 0
        self.host = host
        self.port = port
        self._url_prefix = url_prefix
        self._api_key = api_key
        self._answers = Answers(models, self.worker)
        self._arrived = asyncio.Event()
        self._handlers: set[asyncio.Task[Any]] = set()
        self._held: socket.socket | None = None
        self._runner: web.AppRunner | None = None
        self._dying: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """What a caller writes as base URL: the prefix is part of it."""
        return f"http://{self.host}:{self.port}{self._url_prefix}"

    @property
    def runs(self) -> bool:
        return self._runner is not None

    @property
    def posts(self) -> list[Received]:
        """What asks for inference; a gateway also asks for /metrics, whenever it likes."""
        return [request for request in self.requests if request.method == "POST"]

    @property
    def batches(self) -> list[list[Any]]:
        """The items of every POST, in order of arrival."""
        return [request.items for request in self.posts]

    @property
    def asked(self) -> list[list[Any]]:
        """`batches` but for what a gateway asks of itself, whenever it likes."""
        return [items for items in self.batches if not all(item in (SHORT, LONG) for item in items)]

    async def received(self, count: int) -> list[list[Any]]:
        """Wait until `count` POSTs have arrived; then `batches`."""
        while len(self.batches) < count:
            self._arrived.clear()
            await self._arrived.wait()
        return self.batches

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Listen; after `stop`, on the same port, with an empty queue and a living worker."""
        if self._dying:
            await self._dying
        assert self._runner is None, "already started"
        listening = self._held or self._bind()
        self._held = None
        self.worker.revive()
        # No limit to a body, and idle connections end after 5 seconds: FastAPI's and uvicorn's defaults.
        application = web.Application(client_max_size=0)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, keepalive_timeout=5, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.SockSite(self._runner, listening).start()

    async def stop(self) -> None:
        """End as if killed: every connection closes, and new ones are refused."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        for handler in list(self._handlers):
            handler.cancel()
        await runner.cleanup()
        self._held = self._bind()

    def die(self) -> None:
        """`stop`, from within a request."""
        if self._dying is None or self._dying.done():
            self._dying = asyncio.create_task(self.stop())

    async def close(self) -> None:
        if self._dying:
            await self._dying
        await self.stop()
        if self._held:
            self._held.close()
            self._held = None

    def _bind(self) -> socket.socket:
        """A socket that holds the port, and refuses connections until something listens on it."""
        bound = socket.socket()
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((self.host, self.port))
        self.port = bound.getsockname()[1]
        return bound

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if self._runner is None or request.app is not self._runner.app:
            # A connection that was accepted while it stopped, and that aiohttp has not closed.
            return cut_off(request, Fault(reset=True))
        handler = asyncio.current_task()
        assert handler is not None
        self._handlers.add(handler)
        is_post = request.method == "POST"
        self.in_flight += is_post
        self.in_flight_max = max(self.in_flight_max, self.in_flight)
        try:
            raw = await request.read()
            fault = self._fault_for(self._recorded(request, raw))
            if fault:
                return await self._misbehave(request, raw, fault)
            return await self._behave(request, raw)
        finally:
            self.in_flight -= is_post
            self._handlers.discard(handler)

    def _recorded(self, request: web.Request, raw: bytes) -> Received:
        body = None
        with suppress(ValueError):
            body = json.loads(raw)
        now = asyncio.get_running_loop().time()
        path = request.path.removeprefix(self._url_prefix)
        received = Received(request.method, path, dict(request.headers), body, now)
        self.requests.append(received)
        self._arrived.set()
        return received

    def _fault_for(self, received: Received) -> Fault | None:
        for fault in self.faults:
            if fault.times != 0 and fault.when(received):
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return None

    async def _behave(
        self, request: web.Request, raw: bytes, edit: Callable[[Answer], Answer | None] | None = None
    ) -> web.Response:
        try:
            answer = await self._answer(request, raw)
        except Refusal as refused:
            return rendered(refused)
        changed = edit(answer) if edit else None
        return web.Response(body=orjson.dumps(changed or answer), content_type="application/json")

    async def _misbehave(self, request: web.Request, raw: bytes, fault: Fault) -> web.StreamResponse:
        if isinstance(fault.delay, asyncio.Event):
            await fault.delay.wait()
        elif fault.delay:
            await asyncio.sleep(fault.delay)
        if fault.hang:
            await asyncio.Event().wait()
        if fault.kills_worker:
            self.worker.dead = True
        if fault.kills_server:
            self.die()
            await asyncio.Event().wait()
        if fault.drop == "before" or fault.wire is not None:
            return cut_off(request, fault)
        if fault.raw is not None:
            answer = web.Response(body=fault.raw, status=fault.status or 200, content_type=fault.content_type)
        elif fault.status is not None:
            answer = rendered(self._worded(fault.status))
        else:
            answer = await self._behave(request, raw, fault.edit)
        answer.headers.update(fault.headers)
        if fault.drop or fault.drip_s or fault.padding_bytes:
            return await streamed(request, answer, fault)
        return answer

    def _worded(self, status: int) -> Refusal:
        """A refusal that was asked for, in Infinity's words."""
        if status == 401:
            return unauthorized()
        if status == 422:
            return Refusal(422, {"detail": [problem("value_error", ("body",), "Told to refuse this", None)]})
        if status == 429:
            return refusal(429, f"model {self.models[0].name} is currently overloaded")
        return refusal(status, f"{'InternalServerError' if status >= 500 else 'Told to refuse'}: {status}")

    async def _answer(self, request: web.Request, raw: bytes) -> Answer:
        answers = self._answers
        routes: dict[str, tuple[str, Callable[[Any], Any]]] = {
            "/health": ("GET", lambda _: {"unix": time.time()}),
            f"{self._url_prefix}/models": ("GET", lambda _: answers.models()),
            f"{self._url_prefix}/embeddings": ("POST", answers.embeddings),
            f"{self._url_prefix}/embeddings_image": ("POST", answers.embeddings_image),
            f"{self._url_prefix}/embeddings_audio": ("POST", answers.embeddings_audio),
            f"{self._url_prefix}/rerank": ("POST", answers.rerank),
            f"{self._url_prefix}/classify": ("POST", answers.classify),
        }
        path = request.path
        if path == "/":
            raise Refusal(307, None, {"Location": "/docs"})
        if path.endswith("/") and path[:-1] in routes:
            raise Refusal(307, None, {"Location": str(request.url.with_path(path[:-1]))})
        if path not in routes:
            raise Refusal(404, {"detail": "Not Found"})
        method, answer = routes[path]
        if request.method != method:
            raise Refusal(405, {"detail": "Method Not Allowed"}, {"Allow": method})
        # Infinity reads the JSON first, then looks at the key, then at the fields.
        body = parsed(raw, request.headers.get("Content-Type", "")) if method == "POST" else None
        if self._api_key and path != "/health" and bearer(request) != self._api_key:
            raise unauthorized()
        said = answer(body)
        return said if isinstance(said, dict) else await said


def bearer(request: web.Request) -> str:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def rendered(refused: Refusal) -> web.Response:
    if refused.body is None:
        return web.Response(status=refused.status, headers=refused.headers)
    try:
        # Strict as Starlette's: an echo of NaN or of half a surrogate pair fails here, there as here.
        body = json.dumps(refused.body, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        return web.Response(status=500, text="Internal Server Error")
    return web.Response(
        status=refused.status, body=body, headers=refused.headers, content_type="application/json"
    )


def cut_off(request: web.Request, fault: Fault) -> web.Response:
    transport = request.transport
    if transport is not None:
        transport.write(fault.wire or b"")
        hang_up(transport, reset=fault.reset)
    return web.Response()  # aiohttp wants one; nothing can be written any more.


def hang_up(transport: asyncio.WriteTransport, *, reset: bool) -> None:
    if reset:
        # Without lingering, closing sends RST.
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    else:
        transport.close()


async def streamed(request: web.Request, answer: web.Response, fault: Fault) -> web.StreamResponse:
    """A good answer, written in a bad way."""
    assert isinstance(answer.body, bytes)
    body = answer.body
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    if fault.chunked:
        response.headers.pop("Content-Length", None)
    else:
        response.content_length = fault.padding_bytes + len(body)
    transport = request.transport
    with suppress(ConnectionError):  # The caller may have had enough of it.
        await response.prepare(request)
        for begin in range(0, fault.padding_bytes, CHUNK_BYTES):
            await response.write(b" " * min(CHUNK_BYTES, fault.padding_bytes - begin))
        if fault.drip_s:
            for i in range(len(body)):
                await response.write(body[i : i + 1])
                await asyncio.sleep(fault.drip_s)
        elif fault.drop:
            await response.write(body[: len(body) // 2])
            if transport is not None:
                hang_up(transport, reset=fault.reset)
        else:
            await response.write(body)
    return response
