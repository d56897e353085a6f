"""Calls a gateway over HTTP, as a client would."""

import asyncio
import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from tests.api.waiting import until

JSON = {"Content-Type": "application/json"}
_TIMEOUT_S = 30
_RAW_TIMEOUT_S = 10
_PREFIX = "infinity_gateway_"


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        assert self.headers["Content-Type"] == "application/json", self.raw
        return json.loads(self.raw)

    @property
    def vectors(self) -> list[list[float]]:
        """Every vector as float32, whichever way it is written."""
        assert self.status == 200, self.raw
        return [numbers(row["embedding"]) for row in self.body["data"]]

    @property
    def ranking(self) -> list[tuple[int, float]]:
        assert self.status == 200, self.raw
        return [(result["index"], result["relevance_score"]) for result in self.body["results"]]

    def error(self, status: int) -> str:
        """The message of an error of this status, which has OpenAI's shape."""
        assert self.status == status, (self.status, self.raw)
        error = self.body["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert all(isinstance(error[name], str) and error[name] for name in ("message", "type", "code"))
        assert self.headers["x-request-id"]
        if status in (429, 503):
            assert int(self.headers["Retry-After"]) >= 1
        return str(error["message"])


def numbers(embedding: Any) -> list[float]:
    if isinstance(embedding, str):
        coded: list[float] = np.frombuffer(base64.b64decode(embedding, validate=True), "<f4").tolist()
        return coded
    floats: list[float] = np.array(embedding, dtype=np.float32).tolist()
    return floats


class Caller:
    """An async context manager. `headers` go with every call."""

    def __init__(self, url: str, **headers: str) -> None:
        self._url = url
        self._headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            self._url,
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S),
            connector=aiohttp.TCPConnector(limit=0),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def send(self, method: str, path: str, data: Any = None, **headers: str) -> Reply:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self._session.request(
            method, path, data=data, headers=JSON | named, allow_redirects=False
        ) as answer:
            return Reply(answer.status, answer.headers, await answer.read())

    async def get(self, path: str, **headers: str) -> Reply:
        return await self.send("GET", path, **headers)

    async def post(self, path: str, body: Any, **headers: str) -> Reply:
        """`body` is sent as it is when it is bytes, else as JSON."""
        raw = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
        # aiohttp warns of bytes that are large.
        return await self.send("POST", path, io.BytesIO(raw) if len(raw) > 500_000 else raw, **headers)

    async def embed(self, given: Any, model: str | None = "bert", /, **fields: Any) -> Reply:
        named = {} if model is None else {"model": model}
        return await self.post("/v1/embeddings", {**named, "input": given, **fields})

    async def rerank(
        self, query: Any, documents: Any, model: str | None = "cross", /, **fields: Any
    ) -> Reply:
        named = {} if model is None else {"model": model}
        return await self.post("/v1/rerank", {**named, "query": query, "documents": documents, **fields})

    async def classify(self, texts: Any, model: str | None = "classifier", /, **fields: Any) -> Reply:
        named = {} if model is None else {"model": model}
        return await self.post("/v1/classify", {**named, "input": texts, **fields})

    async def samples(self) -> "Samples":
        reply = await self.get("/metrics")
        assert reply.status == 200
        return Samples(reply.raw.decode())

    async def samples_when(
        self, name: str, value: float, within_s: float = 10, **labels: object
    ) -> "Samples":
        """The samples as soon as the `total` of one is `value`."""
        found: list[Samples] = []

        async def is_so() -> bool:
            found[:] = [await self.samples()]
            return found[0].total(name, **labels) == value

        await until(is_so, within_s)
        return found[0]


class Samples:
    """What /metrics said, by name without the prefix, and by labels."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._samples = {
            (sample.name.removeprefix(_PREFIX), frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def value(self, name: str, **labels: object) -> float:
        """The sample with exactly these labels (`class_` for `class`); 0 when there is none."""
        wanted = frozenset((label.rstrip("_"), str(value)) for label, value in labels.items())
        return self._samples.get((name, wanted), 0.0)

    def total(self, name: str, **labels: object) -> float:
        """The sum of all samples that have these labels among theirs."""
        wanted = frozenset((label.rstrip("_"), str(value)) for label, value in labels.items())
        return sum(value for (name_, has), value in self._samples.items() if name_ == name and wanted <= has)

    def series(self, name: str) -> set[frozenset[tuple[str, str]]]:
        return {labels for found, labels in self._samples if found == name}


async def raw_exchange(port: int, *parts: bytes, until_closed: bool = True) -> bytes:
    """What a server answers to bytes that no client library would send."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(_RAW_TIMEOUT_S):
            for part in parts:
                writer.write(part)
                await writer.drain()
            if until_closed:
                return await reader.read()
            return await reader.readuntil(b"\r\n\r\n")
    finally:
        writer.close()
