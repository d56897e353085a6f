"""What a pool hands to its upstream, made short."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
import pytest

from gateway.core.lanes import BatchKey
from gateway.core.settings import DeploymentSettings, Secret
from gateway.messages import Modality, Task
from gateway.pool import Answer, Encoding, Request, SendError
from gateway.upstream.infinity import InfinityUpstream
from tests.fakes.infinity import FakeInfinity
from tests.fakes.vectors import Vector

TIMEOUT_S = 10.0
"""Long enough for everything that ends by itself."""


def deployment(
    server: FakeInfinity | str, model: str | None = "bert", *, key: str | None = None
) -> DeploymentSettings:
    base = server if isinstance(server, str) else server.url
    return DeploymentSettings("a", base, model, Secret(key) if key else None)


def texts(*items: str, encoding: Encoding = Encoding.BASE64, **params: Any) -> Request:
    return Request(BatchKey(Task.EMBED, _params(params)), list(items), encoding)


def media(modality: Modality, *items: str) -> Request:
    return Request(BatchKey(Task.EMBED, modality=modality, alone=1), list(items), Encoding.BASE64)


def documents(query: str, /, *items: str, **params: Any) -> Request:
    return Request(BatchKey(Task.RERANK, _params(params), query), list(items), Encoding.BASE64)


def to_classify(*items: str, **params: Any) -> Request:
    return Request(BatchKey(Task.CLASSIFY, _params(params)), list(items), Encoding.BASE64)


def _params(params: dict[str, Any]) -> bytes:
    return orjson.dumps(params, option=orjson.OPT_SORT_KEYS) if params else b""


def decoded(values: Sequence[bytes | float]) -> list[list[float]]:
    """Vectors as lists, from base64 or from floats."""
    return [_decoded(value).tolist() for value in values]


def _decoded(value: bytes | float) -> Vector:
    assert isinstance(value, bytes)
    content = orjson.loads(value)
    if isinstance(content, str):
        return np.frombuffer(base64.b64decode(content, validate=True), "<f4")
    return np.array(content, dtype=np.float32)


async def sent(upstream: InfinityUpstream, server: DeploymentSettings, request: Request) -> Answer:
    return await upstream.send(server, request, TIMEOUT_S)


async def failure_of(
    upstream: InfinityUpstream,
    server: DeploymentSettings,
    request: Request | None = None,
    timeout_s: float = TIMEOUT_S,
) -> SendError:
    """How sending fails; that it fails is asserted."""
    with pytest.raises(SendError) as caught:
        await upstream.send(server, request or texts("one", "two"), timeout_s)
    return caught.value
