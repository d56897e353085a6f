"""A whole gateway without a socket, on an event loop whose clock jumps: what hangs is seen at once."""

import asyncio
import atexit
from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar, cast

import orjson

from gateway.api.app import call_endpoints, named_endpoints
from gateway.api.middleware import REQUEST_ID
from gateway.bootstrap import Runtime
from gateway.config import Config
from gateway.core.lanes import Value
from gateway.core.settings import DeploymentSettings, EngineSettings, LimitsSettings, Place, PoolSettings
from gateway.messages import Task
from gateway.pool import Answer, Encoding, Request, ServerFacts
from gateway.service import Directory, Gateway
from tests.fakes.infinity import TINY_MODELS
from tests.fakes.time import FakeTimeLoop
from tests.fakes.vectors import base64_of, classes_of, score_of, vector_of

_Result = TypeVar("_Result")

MODELS = {model.name: model for model in TINY_MODELS if not (model.multi_vector or model.bit_packed)}


class Servers:
    """Fulfils `Directory`: answers in the same turn, with what the stand-in for Infinity would say."""

    async def inspect(self, deployment: DeploymentSettings, timeout_s: float) -> ServerFacts:
        return ServerFacts(frozenset(MODELS[str(deployment.server_model)].capabilities))

    async def spent_s(
        self, deployment: DeploymentSettings, capabilities: frozenset[str], timeout_s: float
    ) -> float | None:
        return None

    async def models(self, server: DeploymentSettings, timeout_s: float) -> Sequence[str]:
        return [str(server.server_model)]

    def forget(self, place: Place) -> None:
        pass

    def send(self, deployment: DeploymentSettings, request: Request, timeout_s: float) -> Awaitable[Answer]:
        sent: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        values = [value_of(request, item) for item in request.items]
        sent.set_result(Answer(values, sum(map(len, request.items))))
        return sent


def value_of(request: Request, item: str) -> Value:
    match request.key.task:
        case Task.RERANK:
            return score_of(request.key.query or "", item)
        case Task.CLASSIFY:
            return orjson.dumps(classes_of(item))
        case Task.EMBED if request.encoding is Encoding.FLOAT:
            return orjson.dumps(vector_of(item).tolist())
        case Task.EMBED:
            return f'"{base64_of(vector_of(item))}"'.encode()


class InMemory:
    """The gateway, with one server for each of `models`."""

    def __init__(
        self,
        servers: Directory,
        loop: FakeTimeLoop | None = None,
        models: Sequence[str] = tuple(MODELS),
        limits: LimitsSettings | None = None,
    ) -> None:
        engine = EngineSettings(tuple(map(_pool, models)), limits=limits or LimitsSettings())
        self.loop = loop or _loop()
        self.runtime = Runtime(Config(engine))
        self.gateway = Gateway(self.runtime.config.engine, servers, self.runtime.observe)
        self.runtime.gateway = self.gateway
        self.run(self._start())
        self.calls = call_endpoints(self.runtime)
        self.named = named_endpoints(self.runtime)

    def run(self, main: Coroutine[Any, Any, _Result]) -> _Result:
        """What comes of it. Nothing may fail where nobody looks."""
        result = self.loop.run_until_complete(main)
        assert not self.loop.errors, self.loop.errors
        return result

    async def _start(self) -> None:
        await self.gateway.__aenter__()
        while any(server.state != "up" for pool in self.gateway.stats() for server in pool.deployments):
            await asyncio.sleep(0.1)

    def close(self) -> None:
        self.run(self.gateway.__aexit__(None, None, None))

    def answer(self, path: str, headers: Mapping[bytes, bytes], body: bytes) -> tuple[int, bytes]:
        """The status and body of a call's answer. It leaves nothing behind."""
        found = self.run(self._answer(path, headers, body))
        assert self.is_idle()
        return found

    async def _answer(self, path: str, headers: Mapping[bytes, bytes], body: bytes) -> tuple[int, bytes]:
        waiting: list[dict[str, Any]] = [{"type": "http.request", "body": body}]
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            if not waiting:
                await asyncio.Event().wait()
            return waiting.pop()

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"headers": list(headers.items()), REQUEST_ID: b"id", "path_params": {"model": "bert"}}
        await (self.calls.get(path) or self.named[path])(scope, receive, send)
        start, *bodies = sent
        return cast("int", start["status"]), b"".join(message["body"] for message in bodies)

    def is_idle(self) -> bool:
        """Whether nothing waits and nothing is under way."""
        return not any(
            pool.in_flight_calls or any(pool.queued_items.values()) for pool in self.gateway.stats()
        )


def _loop() -> FakeTimeLoop:
    loop = FakeTimeLoop()
    atexit.register(loop.close)
    return loop


async def quiet() -> None:
    """Until all has happened that needs no time."""
    await asyncio.sleep(0.001)


def _pool(model: str) -> PoolSettings:
    return PoolSettings(model, (DeploymentSettings(model, "http://127.0.0.1:1", model),))
