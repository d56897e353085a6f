"""A scriptable stand-in for Infinity: a real HTTP server that answers as it does, or as told.

    async with FakeInfinity() as fake:
        fake.faults.append(Fault(status=503, times=1))
        ...  # calls to fake.url
        assert fake.batches == [["a", "b"]]

tests/test_contract.py holds it and a real Infinity to the same answers.
"""

import asyncio
import json
import socket
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import orjson
from aiohttp import web

from tests.fakes.faults import Answer, Fault, Received
from tests.fakes.wire import (
    Fields,
    Refusal,
    Vector,
    audio_characters,
    bits_of,
    classes_of,
    encoded,
    image_characters,
    logit_of,
    parsed,
    problem,
    refusal,
    score_of,
    tokens_of,
    unauthorized,
    vector_of,
    vectors_of,
)

__all__ = [
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

POSTS = ("/embeddings", "/rerank", "/classify", "/embeddings_image", "/embeddings_audio")
GETS = ("/models",)


@dataclass(frozen=True, slots=True)
class FakeModel:
    """One served model. The last four are what Infinity has command line options or model kinds for."""

    name: str
    capabilities: tuple[str, ...] = ("embed",)
    dim: int = 8
    seed: str = ""  # Another seed, another vector space: what a wrong revision would be.
    batch_size: int = 32
    counts_tokens: bool = False
    multi_vector: bool = False
    bit_packed: bool = False


# The same kinds under the same names as `tiny_models` of tests/real_infinity.py.
TINY_MODELS = (
    FakeModel("bert"),
    FakeModel("cross", ("rerank",)),
    FakeModel("classifier", ("classify",)),
    FakeModel("clip", ("image_embed", "embed")),
    FakeModel("clap", ("audio_embed", "embed")),
    FakeModel("colbert", multi_vector=True),
    FakeModel("bert-tokens", counts_tokens=True),
    FakeModel("bert-bits", bit_packed=True),
)


@dataclass(frozen=True, slots=True)
class ServiceTime:
    """T = l + (o + a·n + b·n·longest) seconds; what is in the brackets occupies the server.

    More than `batch_size` items are sorted by length and cut into batches, as Infinity does.
    """

    l: float = 0  # noqa: E741  The names of the formula.
    o: float = 0
    a: float = 0
    b: float = 0

    def busy_s(self, lengths: Sequence[int], batch_size: int) -> float:
        waiting = list(lengths) if len(lengths) <= batch_size else sorted(lengths)
        batches = [waiting[i : i + batch_size] for i in range(0, len(waiting), batch_size)]
        return sum(self.o + self.a * len(batch) + self.b * len(batch) * max(batch) for batch in batches)


class FakeInfinity:
    """Owns its port from the first `start` to `close`: while stopped, connections are refused."""

    def __init__(
        self,
        models: Sequence[FakeModel] = TINY_MODELS,
        *,
        url_prefix: str = "",
        api_key: str = "",
        queue_size: int = 32_000,
        service: ServiceTime | None = None,
    ) -> None:
        self.models = {model.name: model for model in models}
        self.service = service or ServiceTime()
        self.faults: list[Fault] = []
        self.requests: list[Received] = []
        self.in_flight = 0  # Requests for inference, by now.
        self.in_flight_max = 0
        self.worker_dead = False
        self.port = 0
        self._url_prefix = url_prefix
        self._api_key = api_key
        self._queue_size = queue_size
        self._queued_items = 0
        self._worker = asyncio.Lock()
        self._arrived = asyncio.Event()
        self._handlers: set[asyncio.Task[Any]] = set()
        self._held: socket.socket | None = None
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """What a caller writes as base URL: the prefix is part of it."""
        return f"http://127.0.0.1:{self.port}{self._url_prefix}"

    @property
    def batches(self) -> list[list[Any]]:
        """The items of every request for inference, in order of arrival."""
        return [request.items for request in self.requests if request.method == "POST"]

    async def received(self, count: int) -> list[list[Any]]:
        """Wait until `count` requests for inference have arrived; then `batches`."""
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
        """Listen; after `stop`, on the same port and with a living worker."""
        assert self._runner is None, "already started"
        self.worker_dead = False
        listening = self._held or self._bind()
        self._held = None
        # 5 seconds and no limit to a body: uvicorn's and FastAPI's defaults.
        application = web.Application(client_max_size=0)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(
            application, access_log=None, keepalive_timeout=5, shutdown_timeout=0.1, handle_signals=False
        )
        await self._runner.setup()
        await web.SockSite(self._runner, listening).start()

    async def stop(self) -> None:
        """End at once, as if killed: every connection closes, and new ones are refused."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        for handler in list(self._handlers):
            handler.cancel()
        await runner.cleanup()
        self._held = self._bind()

    async def close(self) -> None:
        await self.stop()
        if self._held:
            self._held.close()
            self._held = None

    def _bind(self) -> socket.socket:
        """A socket that holds the port; it refuses connections until something listens on it."""
        bound = socket.socket()
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", self.port))
        self.port = bound.getsockname()[1]
        return bound

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        posts = request.method == "POST"
        raw = await request.read()
        self.in_flight += posts
        self.in_flight_max = max(self.in_flight_max, self.in_flight)
        try:
            received = self._record(request, raw)
            fault = self._fault_for(received)
            return await self._misbehave(request, raw, fault) if fault else await self._behave(request, raw)
        finally:
            self.in_flight -= posts
            self._handlers.discard(task)

    def _record(self, request: web.Request, raw: bytes) -> Received:
        try:
            body = json.loads(raw) if raw else None
        except ValueError:
            body = None
        path = request.path.removeprefix(self._url_prefix)
        now = asyncio.get_running_loop().time()
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
        self.worker_dead |= fault.kills_worker
        if fault.hang:
            await asyncio.Event().wait()
        if fault.drop == "before" or fault.wire is not None:
            return cut_off(request, fault.wire or b"", fault.reset)
        if fault.raw is not None:
            answer = web.Response(body=fault.raw, status=fault.status or 200, content_type=fault.content_type)
        elif fault.status is not None:
            answer = rendered(self._worded(fault.status))
        else:
            answer = await self._behave(request, raw, fault.edit)
        answer.headers.update(fault.headers)
        if fault.drop or fault.drip_s or fault.padding_bytes:
            return await stream(request, answer, fault)
        return answer

    def _worded(self, status: int) -> Refusal:
        if status == 401:
            return unauthorized()
        if status == 422:
            return Refusal(422, {"detail": [problem("value_error", ("body",), "Told to refuse this", None)]})
        if status == 429:
            return refusal(429, f"model {next(iter(self.models))} is currently overloaded")
        return refusal(status, f"{'InternalServerError' if status >= 500 else 'Told to refuse'}: {status}")

    async def _answer(self, request: web.Request, raw: bytes) -> Answer:
        path = request.path
        if path == "/health":
            self._only(request, "GET")
            return {"unix": time.time()}
        if path == "/":
            raise Refusal(307, None, {"Location": "/docs"})
        path = path.removeprefix(self._url_prefix) if path.startswith(self._url_prefix) else ""
        if path.endswith("/") and path[:-1] in POSTS + GETS:
            raise Refusal(307, None, {"Location": str(request.url.with_path(request.path[:-1]))})
        if path not in POSTS + GETS:
            raise Refusal(404, {"detail": "Not Found"})
        self._only(request, "GET" if path in GETS else "POST")
        # Infinity reads JSON before it looks at the key, and at the fields after that.
        body = parsed(raw, request.headers.get("Content-Type", "")) if path in POSTS else None
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if self._api_key and (scheme.lower() != "bearer" or key.strip() != self._api_key):
            raise unauthorized()
        if path == "/models":
            return self._models()
        answers: dict[str, Callable[[Any], Awaitable[Answer]]] = {
            "/embeddings": self._embeddings,
            "/rerank": self._rerank,
            "/classify": self._classify,
            "/embeddings_image": lambda body: self._media(Fields(body), "image", deprecated=True),
            "/embeddings_audio": lambda body: self._media(Fields(body), "audio", deprecated=True),
        }
        return await answers[path](body)

    def _only(self, request: web.Request, method: str) -> None:
        if request.method != method:
            raise Refusal(405, {"detail": "Method Not Allowed"}, {"Allow": method})

    def _models(self) -> Answer:
        return {
            "data": [
                {
                    "id": model.name,
                    "stats": {
                        "queue_fraction": self._queued_items / self._queue_size,
                        "queue_absolute": self._queued_items,
                        "results_pending": 0,
                        "batch_size": model.batch_size,
                    },
                    "object": "model",
                    "owned_by": "infinity",
                    "created": int(time.time()),
                    "backend": "torch",
                    "capabilities": list(model.capabilities),
                }
                for model in self.models.values()
            ],
            "object": "list",
        }

    async def _embeddings(self, body: Any) -> Answer:
        modality = body.get("modality", "text") if isinstance(body, dict) else "text"
        if modality not in ("text", "image", "audio"):
            kind = "union_tag_invalid" if isinstance(modality, str) else "union_tag_not_found"
            message = "Input tag does not match any of the expected tags: 'text', 'audio', 'image'"
            raise Refusal(422, {"detail": [problem(kind, ("body",), message, body)]})
        fields = Fields(body, ("body", modality))
        if modality != "text":
            return await self._media(fields, modality)
        texts: list[str] = fields.read("input", fields.strings_or_string)
        name, encoding, dimensions = embedding_options(fields)
        model = self._model(name, "embed", for_="embed` for modality `text")
        usage = await self._served(model, [self._count(model, text) for text in texts])
        vectors = {"multi": vectors_of, "bits": bits_of, "": vector_of}[kind_of(model)]
        return embedded(model, [vectors(text, model.dim, model.seed) for text in texts], encoding, dimensions, usage)

    async def _media(self, fields: Fields, modality: str, *, deprecated: bool = False) -> Answer:
        media: list[bytes | str] = fields.read("input", fields.media)
        name, encoding, dimensions = embedding_options(fields)
        capability = f"{modality}_embed"
        model = self._model(name, capability, capability if deprecated else f"embed` for modality `{modality}")
        characters = image_characters if modality == "image" else audio_characters
        usage = await self._served(model, [characters(medium) for medium in media])
        vectors = [vector_of(repr(medium), model.dim, model.seed) for medium in media]
        return embedded(model, vectors, encoding, 0 if deprecated else dimensions, usage)

    async def _rerank(self, body: Any) -> Answer:
        fields = Fields(body)
        query: str = fields.read("query", fields.string)
        documents: list[str] = fields.read("documents", fields.strings)
        return_documents = fields.read("return_documents", fields.flag, default=False)
        raw_scores = fields.read("raw_scores", fields.flag, default=False)
        top_n = fields.read("top_n", fields.top_n, default=None)
        name = fields.read("model", fields.name, "default/not-specified")
        fields.finish()
        model = self._model(name, "rerank")
        usage = await self._served(model, [self._count(model, query + document) for document in documents])
        score = logit_of if raw_scores else score_of
        results = [
            {
                "relevance_score": score(query, document),
                "index": index,
                "document": document if return_documents else None,
            }
            for index, document in enumerate(documents)
        ]
        results.sort(key=lambda result: -result["relevance_score"])
        return enveloped(model, {"object": "rerank", "results": results[:top_n]}, usage)

    async def _classify(self, body: Any) -> Answer:
        fields = Fields(body)
        texts: list[str] = fields.read("input", fields.strings)
        name = fields.read("model", fields.name, "default/not-specified")
        fields.read("raw_scores", fields.flag, default=False)
        fields.finish()
        model = self._model(name, "classify")
        usage = await self._served(model, [self._count(model, text) for text in texts])
        return enveloped(model, {"object": "classify", "data": [classes_of(text) for text in texts]}, usage)

    def _model(self, name: str, capability: str, for_: str = "") -> FakeModel:
        model = next(iter(self.models.values())) if len(self.models) == 1 else self.models.get(name)
        if model is None:
            known = f"Available model names are {list(self.models)}"
            raise refusal(400, f"Invalid model: Engine for model name `{name}` not found. {known}")
        if self._queued_items > self._queue_size:
            raise refusal(429, f"model {name} is currently overloaded")
        if capability not in model.capabilities:
            reason = f"the loaded moded cannot fullyfill `{capability}`. Options are {set(model.capabilities)}."
            message = f"model=`{name}` does not support `{for_ or capability}`. Reason: {reason}"
            raise refusal(400, f"ModelNotDeployedError: {message}")
        return model

    def _count(self, model: FakeModel, text: str) -> int:
        return tokens_of(text) if model.counts_tokens else len(text)

    async def _served(self, model: FakeModel, lengths: list[int]) -> int:
        """Wait as long as the service takes; the sum for `usage`."""
        self._queued_items += len(lengths)
        try:
            if self.worker_dead:
                await asyncio.Event().wait()
            async with self._worker:
                self._queued_items -= len(lengths)
                lengths_queued = 0
                busy_s = self.service.busy_s(lengths, model.batch_size)
                if busy_s:
                    await asyncio.sleep(busy_s)
        finally:
            pass
        if self.service.l:
            await asyncio.sleep(self.service.l)
        return sum(lengths)
