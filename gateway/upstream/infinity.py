"""Talks to Infinity servers. Every failure leaves as a SendError that says what kind it is."""

import asyncio
import re
import socket
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import aiohttp
import orjson
from aiohttp.abc import AbstractResolver, ResolveResult

from gateway.core.retry import Failure
from gateway.core.settings import DeploymentSettings, Place, Secret, TlsSettings
from gateway.messages import Task
from gateway.pool import Answer, Encoding, Request, SendError, ServerFacts
from gateway.pool.samples import LONG, SHORT, sample_of, trial_key
from gateway.upstream import codec, wire
from gateway.upstream.resolver import Endpoint, Resolver
from gateway.upstream.target import USER_AGENT, Origin, Target
from gateway.upstream.tls import Tls
from gateway.vectors import floats

# prometheus-fastapi-instrumentator's. The labels stand in alphabetical order.
_SPENT = re.compile(
    rb'^http_request_duration_seconds_sum\{handler="[^"]*?(/\w+)",method="POST"\}'
    rb" (\d+(?:\.\d+)?(?:e[-+]?\d\d?)?)$",
    re.MULTILINE,
)
_MESSAGE_CHARS_MAX = 300
_MESSAGE_CHARS_READ = 2000
_MODELS_BYTES_MAX = 16 * 1024 * 1024
_SYSTEMS = TlsSettings()

# What a server may mention and no caller needs: URLs, hosts by name or number, paths, keys.
_INSIDE = re.compile(
    r"""\b\w+://\S+
    | \[[0-9a-f:.]+\](:\d+)? | \b\d{1,3}(\.\d{1,3}){3}\b(:\d+)? | \b([0-9a-f]{0,4}:){3,7}[0-9a-f]{0,4}\b
    | \b[\w.-]+:\d{2,5}\b
    | \b[\w-]+(\.[\w-]+)*\.(local|localdomain|internal|intranet|svc|lan|corp|com|net|org|io|dev|cloud)\b
    | (?<![\w.])~?(/[\w.@+-]+){2,}/? | \b[a-z]:\\\S+
    | \b(bearer|basic)\s+\S+ | \b(authorization|[\w-]*(key|token|secret|password))["']?\s*[:=]\s*\S+
    | \b(sk|hf|pk|ghp)[-_]\w[\w-]{5,}""",
    re.IGNORECASE | re.VERBOSE,
)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


class InfinityUpstream:
    """HTTP connections to all servers. An async context manager."""

    def __init__(self, tls: TlsSettings = _SYSTEMS) -> None:
        self._tls = Tls(tls)
        self._wire: wire.Client
        self._session: aiohttp.ClientSession
        self._targets: dict[tuple[str, str | None, str, Secret | None], Target] = {}
        self._bases: dict[Place, str] = {}
        """A server → where its routes really are, for servers that serve them below /v1."""

    async def __aenter__(self) -> Self:
        self._wire = wire.Client(self._tls)
        # For lists of models only, which are asked for now and then: nothing of it is kept between two.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, force_close=True, resolver=_Resolving(self._wire.resolver), use_dns_cache=False
            ),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=wire.CONNECT_S),
            headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._wire.close()
        await self._session.close()

    def send(
        self, deployment: DeploymentSettings, request: Request, timeout_s: float
    ) -> asyncio.Future[Answer]:
        """One batch, one answer with a value for each item."""

        def read(status: int, answer: bytes) -> Answer:
            return codec.decode(request, _accepted(status, answer))

        body = codec.encode(request, deployment.server_model)
        target = self._target(deployment, codec.PATHS[request.key.task])
        most = codec.answer_bytes_max(request, len(body))
        return self._wire.post(target, body, timeout_s, most, read, request.head, fresh=request.fresh)

    def trust(self, tls: TlsSettings) -> None:
        """Other certificates from the next connection on."""
        self._tls.become(tls)

    def forget(self, place: Place) -> None:
        """A server is not asked any more."""
        self._bases.pop(place, None)
        for origin in self._drop_targets(place):
            if all(target.origin != origin for target in self._targets.values()):
                self._wire.leave(origin)

    async def models(self, server: DeploymentSettings, timeout_s: float) -> Sequence[str]:
        """The names of the models that a server serves."""
        return [model.id for model in await self._models(server, timeout_s)]

    async def spent_s(
        self, deployment: DeploymentSettings, capabilities: frozenset[str], timeout_s: float
    ) -> float | None:
        """From the server's metrics, which stand beside its other routes, or above their prefix `/v1`."""
        try:
            text = await self._get(self._target(deployment, "/metrics"), timeout_s)
        except _NotFound:
            base = self._base(deployment)
            if not base.endswith("/v1"):
                return None
            key = deployment.api_key.reveal() if deployment.api_key else None
            target = Target(base.removesuffix("/v1") + "/metrics", key, deployment.address)
            try:
                text = await self._get(target, timeout_s)
            except _NotFound:
                return None
        paths = {codec.PATHS[task].encode() for task in Task if task.value in capabilities}
        spent = [float(sum_) for path, sum_ in _SPENT.findall(text) if path in paths]
        return sum(spent) if spent else None

    async def inspect(self, deployment: DeploymentSettings, timeout_s: float) -> ServerFacts:
        """What a server tells of one model, and proof that the model answers.

        A model with several vectors for an input gives nested lists when asked for floats, which base64
        would flatten beyond recovery. One with a binary dtype answers base64 with a 500. Both are asked for
        floats from then on.
        """
        model = _choose(deployment, await self._models(deployment, timeout_s))
        capabilities = frozenset(model.capabilities)
        batch_size = max(1, model.stats.batch_size)
        task = next((task for task in Task if task in capabilities), None)
        if task is None:
            return ServerFacts(capabilities, batch_size, backend=model.backend)
        answer = await self.send(
            deployment, Request(trial_key(task), [SHORT, LONG], Encoding.FLOAT), timeout_s
        )
        encoding, binary = Encoding.BASE64, False
        if task is Task.EMBED:
            several = any(isinstance(value, bytes) and floats(value).ndim > 1 for value in answer.values)
            binary = not several and not await self._takes_base64(deployment, timeout_s)
            encoding = Encoding.FLOAT if several or binary else Encoding.BASE64
        samples = [sample_of(task, value, binary=binary) for value in answer.values]
        return ServerFacts(capabilities, batch_size, encoding, model.backend, samples)

    async def _takes_base64(self, deployment: DeploymentSettings, timeout_s: float) -> bool:
        try:
            await self.send(deployment, Request(trial_key(Task.EMBED), [SHORT], Encoding.BASE64), timeout_s)
        except _InternalError:
            return False
        return True

    async def _models(self, server: DeploymentSettings, timeout_s: float) -> list[codec.Model]:
        place, tried = server.place, self._base(server)
        try:
            body = await self._get(self._target(server, "/models"), timeout_s)
        except _NotFound:
            if self._base(server) == tried:  # else another deployment of this server was quicker
                if tried.endswith("/v1"):
                    self._bases.pop(place, None)
                    self._drop_targets(place)
                    raise
                # Started with `--url-prefix /v1`, and the configuration names only the host.
                self._bases[place] = f"{server.api_base}/v1"
                self._drop_targets(place)
            body = await self._get(self._target(server, "/models"), timeout_s)
        return codec.decode_models(body)

    def _target(self, server: DeploymentSettings, path: str) -> Target:
        kept = server.api_base, server.address, path, server.api_key
        target = self._targets.get(kept)
        if target is None:
            key = server.api_key.reveal() if server.api_key else None
            target = self._targets[kept] = Target(self._base(server) + path, key, server.address)
        return target

    def _drop_targets(self, place: Place) -> set[Origin]:
        """Where they led to."""
        gone = [key for key in self._targets if key[:2] == place]
        return {self._targets.pop(key).origin for key in gone}

    def _base(self, server: DeploymentSettings) -> str:
        return self._bases.get(server.place, server.api_base)

    async def _get(self, target: Target, timeout_s: float) -> bytes:
        headers = {"Host": target.host}
        if target.authorization:
            headers["Authorization"] = target.authorization
        secure = target.origin.scheme == "https"
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._session.get(
                    target.url,
                    headers=headers,
                    allow_redirects=False,
                    ssl=self._tls.context() if secure else True,
                    server_hostname=target.origin.host if secure else None,
                ) as response,
            ):
                return _accepted(response.status, await _read(response))
        except TimeoutError as error:
            if isinstance(error, aiohttp.ConnectionTimeoutError):
                raise SendError(Failure.REFUSED, f"no connection within {wire.CONNECT_S:g} s") from error
            raise SendError(Failure.TIMEOUT, f"no answer within {timeout_s:.3g} s") from error
        except aiohttp.ClientConnectorError as error:
            cause = error.os_error if isinstance(error, aiohttp.ClientConnectorDNSError) else error
            raise SendError(Failure.REFUSED, f"no connection: {wire.words(cause)}") from error
        except (aiohttp.ClientResponseError, ValueError) as error:  # ValueError: an address that is none
            not_http = SendError(Failure.BAD_ANSWER, f"not HTTP: {type(error).__name__}", reason="http")
        except aiohttp.ClientError as error:
            raise SendError(Failure.DISCONNECTED, f"connection lost: {wire.words(error)}") from error
        # Out here it has no cause, whose repr would hold our request's headers and so the key.
        raise not_http


class _Resolving(AbstractResolver):
    """Our resolver, for aiohttp."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,  # noqa: ARG002 - aiohttp's signature
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address.numeric,
                port=address.port,
                family=socket.AF_INET6 if ":" in address.host else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in await self._resolver.addresses(Endpoint(host, port))
        ]

    async def close(self) -> None:
        pass


class _InternalError(SendError):
    """Status 500: among others what a model with a binary dtype answers to base64."""


class _NotFound(SendError):
    pass


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The body, unless it is larger than any list of models can be."""
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > _MODELS_BYTES_MAX:
            raise SendError(Failure.BAD_ANSWER, f"more than {_MODELS_BYTES_MAX} bytes", reason="size")
    return bytes(body)


def _accepted(status: int, body: bytes) -> bytes:
    """The body of an answer with status 200; the failure that any other status means."""
    if status == 200:
        return body
    message = _message(body)
    match status:
        case 400 | 413 | 422 if not message.startswith("Invalid model"):
            raise SendError(Failure.REJECTED, message)
        case 401 | 403:
            raise SendError(Failure.UNAUTHORIZED, f"the server does not accept our key (status {status})")
        case 404:
            raise _NotFound(
                Failure.SERVER_ERROR, "the server has no such route (status 404); is api_base right?"
            )
        case 429:
            raise SendError(Failure.OVERLOADED, "overloaded (status 429)")
        case 500:
            raise _InternalError(Failure.SERVER_ERROR, f"status {status}: {message}", may_be_input=True)
        case _ if status >= 400:
            raise SendError(Failure.SERVER_ERROR, f"status {status}: {message}")
        case _:
            raise SendError(Failure.BAD_ANSWER, f"status {status}", reason="status")


def _message(body: bytes) -> str:
    """What a server said went wrong, on one line, without what it may mention of the network inside."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return "no reason given"
    match parsed:
        case {"error": {"message": str(message)}} | {"detail": str(message)}:
            pass
        case {"detail": [{"msg": str(message)}, *_]}:
            pass
        case _:
            return "no reason given"
    if "Traceback (most recent call last)" in message:
        return "no reason given"
    message = _UNPRINTABLE.sub(" ", message[:_MESSAGE_CHARS_READ])
    return _INSIDE.sub("…", message)[:_MESSAGE_CHARS_MAX]


def _choose(deployment: DeploymentSettings, models: Sequence[codec.Model]) -> codec.Model:
    """The model meant. A server with one model ignores the name, and so must we."""
    for model in models:
        if model.id == deployment.server_model:
            return model
    if len(models) == 1:
        return models[0]
    served = _UNPRINTABLE.sub(" ", ", ".join(model.id for model in models))
    raise SendError(
        Failure.SERVER_ERROR, f"serves {served[:_MESSAGE_CHARS_MAX]}, not {deployment.server_model}"
    )
