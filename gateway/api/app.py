"""The routes."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial

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
from gateway.api.page import Page
from gateway.api.rerank import Rerank
from gateway.api.status import Status
from gateway.bootstrap import Runtime
from gateway.config import OpenRoute
from gateway.errors import Forbidden, GatewayError
from gateway.messages import Modality
from gateway.observability.metrics import CONTENT_TYPE

_NATIVE = ("/infinity", "/infinity/v1")
"""Where Infinity's own API is."""

_HEALTH = (
    *("/health", "/health/liveliness", "/health/liveness", "/health/readiness"),
    *(f"{base}/health" for base in _NATIVE),
)
"""The only paths that never need a key, beside the page at /, which holds no data."""

_OPENED: Mapping[OpenRoute, tuple[str, ...]] = {
    "metrics": ("/metrics",),
    "docs": ("/docs", "/openapi.json"),
    "status": ("/status",),
}
"""Those that the configuration can open."""

_OF_ALL_MODELS = frozenset(("/metrics", "/status"))

Permitted = tuple[str, ...]
"""The models that the key of a request is for; all when it names none."""


def call_endpoints(runtime: Runtime) -> dict[str, CallEndpoint]:
    """The endpoints that take calls, by their paths. All of them are for POST."""
    config, gateway = runtime.config, runtime.gateway
    limits, keys = config.engine.limits, Keys(config, runtime.quotas)
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
        path: CallEndpoint(
            path, dialect, gateway, keys, limits, runtime.bodies, runtime.observe, manner, runtime.calls
        )
        for manner, group in ((openais, dialects), (natives, mounted))
        for path, dialect in group.items()
    }


def named_endpoints(runtime: Runtime) -> dict[str, ModelInPath]:
    """Those whose paths name the model, by path."""
    config = runtime.config
    limits, keys = config.engine.limits, Keys(config, runtime.quotas)
    embeddings = Embeddings(limits)

    def endpoint(route: str, dialect: Dialect) -> CallEndpoint:
        return CallEndpoint(
            *(route, dialect, runtime.gateway, keys, limits, runtime.bodies, runtime.observe),
            calls=runtime.calls,
        )

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
    gateway, config = runtime.gateway, runtime.config
    keys = Keys(config, runtime.quotas)
    told = Status(runtime, drain)

    def models(permitted: Permitted) -> Response:
        return _json(native.render_models(gateway, permitted))  # OpenAI's list too, with more in it

    def model_info(permitted: Permitted) -> Response:
        return _json(render_model_info(gateway.models(permitted)))

    def native_health(_: Permitted) -> Response:
        return _json(native.render_health())

    openapi = render_openapi(config.engine.limits)
    page = render_page(openapi)

    def described(_: Permitted) -> Response:
        return _json(orjson.dumps(openapi))

    def docs(_: Permitted) -> Response:
        return Response(page, media_type="text/html")

    def alive(_: Permitted) -> Response:
        return _json(b'"I\'m alive!"')

    def health(_: Permitted) -> Response:
        return _json(orjson.dumps({"status": "healthy", "ready": gateway.ready and not drain.draining}))

    def readiness(_: Permitted) -> Response:
        if drain.draining:
            return _json(b'{"status":"draining"}', 503)
        if not gateway.ready:
            return _json(b'{"status":"starting: no server has answered yet, or not for every model"}', 503)
        return _json(b'{"status":"healthy"}')

    def metrics(_: Permitted) -> Response:
        return Response(runtime.metrics.render(), headers={"content-type": CONTENT_TYPE})

    def status(_: Permitted) -> Response:
        return _json(told.render(), headers={"Cache-Control": "no-store"})

    open_paths = {*_HEALTH, *(path for name in config.open_routes for path in _OPENED[name])}

    def shown(path: str, page: Callable[[Permitted], Response]) -> Route:
        async def endpoint(request: Request) -> Response:
            permitted: Permitted = ()
            if path not in open_paths and (quota := keys.check(dict(request.headers.raw))):
                permitted = quota.key.models
            if permitted and path in _OF_ALL_MODELS:
                raise Forbidden("this key is for some models, and this page shows all")
            return page(permitted)

        return Route(path, endpoint)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with runtime:
            yield

    app = Starlette(
        routes=[
            *(Route(path, endpoint, methods=["POST"]) for path, endpoint in calls.items()),
            *(Route(path, endpoint, methods=["POST"]) for path, endpoint in named_endpoints(runtime).items()),
            *(shown(f"{base}/models", models) for base in _NATIVE),
            *(shown(f"{base}/health", native_health) for base in _NATIVE),
            shown("/v1/models", models),
            shown("/models", models),
            shown("/v1/model/info", model_info),
            shown("/model/info", model_info),
            Route("/", Page().answer),
            shown("/openapi.json", described),
            shown("/docs", docs),
            shown("/health", health),
            shown("/health/liveliness", alive),
            shown("/health/liveness", alive),
            shown("/health/readiness", readiness),
            shown("/metrics", metrics),
            shown("/status", status),
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
