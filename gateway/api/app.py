"""The routes."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.api import cohere, native, tei
from gateway.api.auth import Keys
from gateway.api.cohere_embed import CohereEmbed
from gateway.api.documentation import render_openapi, render_page
from gateway.api.drain import Drain
from gateway.api.endpoint import CallEndpoint, Dialect, Manner
from gateway.api.errors import Told, error_body, tell
from gateway.api.infinity import Classify, render_model_info
from gateway.api.middleware import Envelope
from gateway.api.named import ModelInPath
from gateway.api.openai import Embeddings
from gateway.api.rerank import Rerank
from gateway.bootstrap import Runtime
from gateway.errors import GatewayError
from gateway.messages import Modality
from gateway.observability.metrics import CONTENT_TYPE

_NATIVE = ("/infinity", "/infinity/v1")
"""Where Infinity's own API is."""


def call_endpoints(runtime: Runtime) -> dict[str, CallEndpoint]:
    """The endpoints that take calls, by their paths. All of them are for POST."""
    config, gateway = runtime.config, runtime.gateway
    limits, keys = config.engine.limits, Keys(config.master_key)
    embeddings, classify = Embeddings(limits), Classify(limits)
    # On the paths of Cohere's API its clients' shape is certain; on /rerank it depends on who asks.
    documents = config.rerank_documents
    certain: cohere.RerankDocuments = "object" if documents == "auto" else documents
    dialects: dict[str, Dialect] = {
        "/v1/embeddings": embeddings,
        "/embeddings": embeddings,
        "/v1/rerank": Rerank(limits, certain),
        "/rerank": Rerank(limits, documents),
        "/v2/rerank": cohere.Rerank(limits, certain, 2),
        "/v1/embed": CohereEmbed(limits, 1),
        "/v2/embed": CohereEmbed(limits, 2),
        "/embed": tei.Embed(limits),
        "/v1/classify": classify,
        "/classify": classify,
    }
    infinitys: dict[str, Dialect] = {
        "/embeddings": native.Embeddings(limits, gateway),
        "/embeddings_image": native.Media(limits, gateway, Modality.IMAGE),
        "/embeddings_audio": native.Media(limits, gateway, Modality.AUDIO),
        "/rerank": native.Rerank(limits, gateway),
        "/classify": native.Classify(limits, gateway),
    }
    openais, natives = Manner(), Manner(native.parse, native.Errors(gateway))
    mounted = {base + path: dialect for base in _NATIVE for path, dialect in infinitys.items()}
    return {
        path: CallEndpoint(path, dialect, gateway, keys, limits, runtime.observe, manner)
        for manner, group in ((openais, dialects), (natives, mounted))
        for path, dialect in group.items()
    }


def named_endpoints(runtime: Runtime) -> dict[str, ModelInPath]:
    """Those whose paths name the model, by path."""
    config = runtime.config
    limits, keys = config.engine.limits, Keys(config.master_key)
    embeddings = Embeddings(limits)

    def endpoint(route: str, dialect: Dialect) -> CallEndpoint:
        return CallEndpoint(route, dialect, runtime.gateway, keys, limits, runtime.observe)

    return {
        f"{base}/{{model:path}}/embeddings": ModelInPath(
            partial(endpoint, f"{base}/{{model}}/embeddings"), embeddings
        )
        for base in ("/engines", "/openai/deployments")
    }


def create_app(runtime: Runtime, drain: Drain, calls: Mapping[str, CallEndpoint]) -> Starlette:
    """The ASGI application of a runtime, which it enters at start-up and leaves at shutdown. `calls` are
    served at their paths.
    """
    gateway, keys = runtime.gateway, Keys(runtime.config.master_key)

    async def models(request: Request) -> Response:
        keys.check(dict(request.headers.raw))
        return _json(native.render_models(gateway))  # OpenAI's list too, with more in it

    async def model_info(request: Request) -> Response:
        keys.check(dict(request.headers.raw))
        return _json(render_model_info(gateway.models()))

    async def native_health(_: Request) -> Response:
        return _json(native.render_health())

    openapi = render_openapi(runtime.config.engine.limits)
    page = render_page(openapi)

    async def described(_: Request) -> Response:
        return _json(orjson.dumps(openapi))

    async def docs(_: Request) -> Response:
        return Response(page, media_type="text/html")

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
            *(Route(path, endpoint, methods=["POST"]) for path, endpoint in named_endpoints(runtime).items()),
            *(Route(f"{base}/models", models) for base in _NATIVE),
            *(Route(f"{base}/health", native_health) for base in _NATIVE),
            Route("/v1/models", models),
            Route("/models", models),
            Route("/v1/model/info", model_info),
            Route("/model/info", model_info),
            Route("/openapi.json", described),
            Route("/docs", docs),
            Route("/health", health),
            Route("/health/liveliness", alive),
            Route("/health/liveness", alive),
            Route("/health/readiness", readiness),
            Route("/metrics", metrics),
            Route("/status", status),
        ],
        exception_handlers={
            GatewayError: partial(_gateway_error, native.Errors(gateway)),
            HTTPException: _http_error,
            500: _internal_error,
        },
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
                    "requests_of_others": round(deployment.others, 2),
                    "service_seconds": deployment.service,
                }
                for deployment in pool.deployments
            ],
        }
        for pool in runtime.gateway.stats()
    ]


def _json(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(body, status, headers, media_type="application/json")


def _is_native(request: Request) -> bool:
    return str(request.scope["path"]).startswith("/infinity/")


async def _gateway_error(
    native_errors: Callable[[GatewayError], Told], request: Request, error: Exception
) -> Response:
    assert isinstance(error, GatewayError)
    status, body, headers = (native_errors if _is_native(request) else tell)(error)
    response = _json(body, status)
    response.raw_headers.extend(headers)
    return response


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if _is_native(request):
        return _json(orjson.dumps({"detail": error.detail}), error.status_code, error.headers)
    if error.status_code == 404:
        message = f"there is no route {request.url.path} here"
    elif error.status_code == 405:
        message = f"{request.method} is not possible on {request.url.path}"
    else:
        message = error.detail
    body = error_body(
        message, "invalid_request_error", None, "not_found" if error.status_code == 404 else "bad_request"
    )
    return _json(body, error.status_code, error.headers)


async def _internal_error(_: Request, __: Exception) -> Response:
    return _json(tell(None).body, 500)
