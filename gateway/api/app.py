"""The routes."""

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.api.auth import Keys
from gateway.api.cohere import Rerank
from gateway.api.drain import Drain
from gateway.api.endpoint import CallEndpoint, Dialect
from gateway.api.errors import body_of, error_body, headers_of, status_of
from gateway.api.infinity import Classify, render_models
from gateway.api.middleware import Envelope
from gateway.api.openai import Embeddings
from gateway.bootstrap import Runtime
from gateway.errors import GatewayError
from gateway.observability.metrics import CONTENT_TYPE


def call_endpoints(runtime: Runtime) -> dict[str, CallEndpoint]:
    """The endpoints that take calls, by their paths. All of them are for POST."""
    config = runtime.config
    limits, keys = config.engine.limits, Keys(config.master_key)
    embeddings, classify = Embeddings(limits), Classify(limits)
    # On the paths of Cohere's API its clients' shape is certain; on /rerank it depends on who asks.
    rerank = Rerank(limits, config.rerank_documents)
    rerank_v1 = Rerank(limits, "object" if config.rerank_documents == "auto" else config.rerank_documents)
    dialects: dict[str, Dialect] = {
        "/v1/embeddings": embeddings,
        "/embeddings": embeddings,
        "/v1/rerank": rerank_v1,
        "/rerank": rerank,
        "/v1/classify": classify,
        "/classify": classify,
    }
    return {
        path: CallEndpoint(path, dialect, runtime.gateway, keys, limits, runtime.observe)
        for path, dialect in dialects.items()
    }


def create_app(runtime: Runtime, drain: Drain, calls: Mapping[str, CallEndpoint]) -> Starlette:
    """The ASGI application of a runtime, which it enters at start-up and leaves at shutdown. `calls` are
    served at their paths.
    """
    gateway, keys = runtime.gateway, Keys(runtime.config.master_key)
    started = int(time.time())  # noqa: TID251 - a date for people, not a duration

    async def models(request: Request) -> Response:
        keys.check(dict(request.headers.raw))
        return _json(render_models(gateway.models(), started))

    async def alive(_: Request) -> Response:
        return _json(b'"I\'m alive!"')

    async def health(_: Request) -> Response:
        return _json(orjson.dumps({"status": "healthy", "ready": gateway.ready and not drain.draining}))

    async def readiness(_: Request) -> Response:
        if drain.draining:
            return _json(b'{"status":"draining"}', 503)
        if not gateway.ready:
            return _json(b'{"status":"starting: no server has answered yet"}', 503)
        return _json(b'{"status":"healthy"}')

    async def metrics(_: Request) -> Response:
        return Response(runtime.metrics.render(), headers={"content-type": CONTENT_TYPE})

    async def status(request: Request) -> Response:
        keys.check(dict(request.headers.raw))  # it names addresses
        body = {"ready": gateway.ready, "models": _status(runtime), "not_answered": gateway.untold()}
        return _json(orjson.dumps(body))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with runtime:
            yield

    app = Starlette(
        routes=[
            *(Route(path, endpoint, methods=["POST"]) for path, endpoint in calls.items()),
            Route("/v1/models", models),
            Route("/models", models),
            Route("/health", health),
            Route("/health/liveliness", alive),
            Route("/health/liveness", alive),
            Route("/health/readiness", readiness),
            Route("/metrics", metrics),
            Route("/status", status),
        ],
        exception_handlers={GatewayError: _gateway_error, HTTPException: _http_error, 500: _internal_error},
        middleware=[Middleware(Envelope, drain)],
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # a redirect would name this host, which callers may not reach
    return app


def _status(runtime: Runtime) -> list[dict[str, Any]]:
    return [
        {
            "model": pool.model,
            "in_flight_requests": pool.in_flight_calls,
            "queued_items": pool.queued_items,
            "deployments": [
                {
                    "name": deployment.name,
                    "state": deployment.state,
                    "why": deployment.why,
                    "in_flight_batches": deployment.batches,
                    "in_flight_items": deployment.items,
                    "limit": deployment.limit,
                    "busy_ratio": round(deployment.busy_ratio, 3),
                    "service_seconds": deployment.service,
                }
                for deployment in pool.deployments
            ],
        }
        for pool in runtime.gateway.stats()
    ]


def _json(body: bytes, status: int = 200) -> Response:
    return Response(body, status, media_type="application/json")


async def _gateway_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, GatewayError)
    response = _json(body_of(error), status_of(error))
    response.raw_headers.extend(headers_of(error))
    return response


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        message = f"there is no route {request.url.path} here"
    elif error.status_code == 405:
        message = f"{request.method} is not possible on {request.url.path}"
    else:
        message = error.detail
    body = error_body(
        message, "invalid_request_error", None, "not_found" if error.status_code == 404 else "bad_request"
    )
    response = _json(body, error.status_code)
    response.headers.update(error.headers or {})
    return response


async def _internal_error(_: Request, __: Exception) -> Response:
    return _json(error_body("internal error", "api_error", None, "internal_error"), 500)
