"""One call from start to end: which pool, what goes in, what comes out, and who stands in on failure."""

import asyncio
import math
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from itertools import count
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar, cast

import orjson

from gateway import vectors
from gateway.core.events import CallServed, DeploymentChanged, DeploymentGone, Event, FellBack, Observer
from gateway.core.lanes import BatchKey, Ticket
from gateway.core.router import UNNAMED, Router, capability
from gateway.core.settings import DeploymentSettings, EngineSettings, PoolSettings
from gateway.errors import (
    DeadlineExceeded,
    Draining,
    GatewayError,
    NoDeployment,
    TemporaryError,
    UnknownModel,
    UpstreamError,
)
from gateway.messages import (
    Call,
    ClassifyCall,
    ClassifyResult,
    EmbeddingCall,
    EmbeddingResult,
    Modality,
    ModelCard,
    RerankCall,
    RerankResult,
    Scalar,
    Task,
    Timings,
)
from gateway.pool import Pool, PoolStats, SendError, Upstream

_Asked = TypeVar("_Asked", bound=Call)
_Result = TypeVar("_Result")

BY_EMBEDDING = "scored by cosine similarity of embeddings, since no reranker is configured for this model"

_EMBED, _RERANK, _CLASSIFY = (capability(task) for task in (Task.EMBED, Task.RERANK, Task.CLASSIFY))
_TEXTS = BatchKey(Task.EMBED)
"""What texts have in common with which nothing else is sent."""


class Directory(Upstream, Protocol):
    """Servers that can also be asked which models they serve."""

    async def models(self, server: DeploymentSettings, timeout_s: float) -> Sequence[str]: ...


class Gateway:
    """The engine: pools, and the calls for them. An async context manager; the pools run inside it."""

    def __init__(
        self,
        settings: EngineSettings,
        upstream: Directory,
        observe: Observer,
        rng: random.Random | None = None,
    ) -> None:
        self.settings = settings
        self._upstream = upstream
        self._listener = observe
        self._rng = rng or random.Random()
        self._router = Router(settings.router)
        self._pools: dict[str, Pool] = {}
        self._resolved: dict[tuple[str | None, str], str] = {}
        """Model and capability → the pool that is meant, as long as no pool changes."""
        self._learning: list[asyncio.Task[None]] = []
        self._alone = count(1)
        self._answered = asyncio.Event()
        self._untold = {server.name: "has not answered yet" for server in settings.servers}

    async def __aenter__(self) -> Self:
        for settings in self.settings.pools:
            self._open(settings)
        self._learning = [asyncio.create_task(self._learn(server)) for server in self.settings.servers]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._learning:
            task.cancel()
        if self._learning:
            await asyncio.wait(self._learning)
        for pool in self._pools.values():
            await pool.close()

    @property
    def ready(self) -> bool:
        """Whether a deployment has ever answered. It stays so: one outage of the servers must not take every
        gateway out of service.
        """
        return self._answered.is_set()

    async def wait_ready(self) -> None:
        await self._answered.wait()

    def _observe(self, event: Event) -> None:
        kind = type(event)
        if kind is DeploymentChanged or kind is DeploymentGone:
            self._resolved.clear()  # what a server can do is learned just before it is up
            if isinstance(event, DeploymentChanged) and event.up:
                self._answered.set()
        self._listener(event)

    def stats(self) -> list[PoolStats]:
        return [pool.stats() for pool in self._pools.values()]

    def untold(self) -> Mapping[str, str]:
        """Servers that have not told their models yet, and why."""
        return self._untold

    def models(self) -> list[ModelCard]:
        """Every name that callers may use, aliases too."""
        able = self._able()
        return [ModelCard(name, tuple(sorted(able[pool]))) for name, pool in self._router.names(able).items()]

    # The three tasks

    def embed(self, call: EmbeddingCall) -> Coroutine[Any, Any, EmbeddingResult]:
        needed = _EMBED if call.modality is Modality.TEXT else capability(Task.EMBED, call.modality)
        return self._serve(call, needed, self._embed)

    def rerank(self, call: RerankCall) -> Coroutine[Any, Any, RerankResult]:
        return self._serve(call, _RERANK, self._rerank)

    def classify(self, call: ClassifyCall) -> Coroutine[Any, Any, ClassifyResult]:
        return self._serve(call, _CLASSIFY, self._classify)

    async def _embed(self, pool: Pool, model: str, call: EmbeddingCall, deadline: float) -> EmbeddingResult:
        items = _with_prefix(call.inputs, pool.settings.prefixes.get(call.role or ""))
        params = _params(pool, call)
        if call.modality is not Modality.TEXT:
            key = BatchKey(Task.EMBED, params, None, call.modality, next(self._alone))
        else:
            key = BatchKey(Task.EMBED, params) if params else _TEXTS
        ticket = self._served(pool, await pool.ask(key, items, deadline, call.caller))
        found = cast("list[bytes]", ticket.answers)
        if call.dimensions is not None:
            found = vectors.cut(found, call.dimensions)
        return EmbeddingResult(model, found, ticket.tokens, _timings(ticket))

    async def _rerank(self, pool: Pool, model: str, call: RerankCall, deadline: float) -> RerankResult:
        if self._by_embedding and _RERANK not in pool.capabilities:
            return await self._rerank_by_embedding(pool, model, call, deadline)
        key = BatchKey(Task.RERANK, _params(pool, call), call.query)
        ticket = self._served(pool, await pool.ask(key, list(call.documents), deadline, call.caller))
        scores = cast("list[float]", ticket.answers)
        return RerankResult(model, _rank(scores, call.top_n), ticket.tokens, _timings(ticket))

    async def _classify(self, pool: Pool, model: str, call: ClassifyCall, deadline: float) -> ClassifyResult:
        key = BatchKey(Task.CLASSIFY, _params(pool, call))
        ticket = self._served(pool, await pool.ask(key, list(call.inputs), deadline, call.caller))
        labels = cast("list[bytes]", ticket.answers)
        return ClassifyResult(model, labels, ticket.tokens, _timings(ticket))

    @property
    def _by_embedding(self) -> bool:
        return self.settings.rerank_by_embedding

    async def _rerank_by_embedding(
        self, pool: Pool, model: str, call: RerankCall, deadline: float
    ) -> RerankResult:
        prefixes = pool.settings.prefixes
        items = _with_prefix([call.query], prefixes.get("query"))
        items += _with_prefix(call.documents, prefixes.get("document"))
        key = BatchKey(Task.EMBED, _params(pool, call))
        ticket = self._served(pool, await pool.ask(key, items, deadline, call.caller))
        query, *documents = cast("list[bytes]", ticket.answers)
        scores = vectors.cosine(query, documents)
        return RerankResult(
            model, _rank(scores, call.top_n), ticket.tokens, _timings(ticket), warnings=[BY_EMBEDDING]
        )

    async def _serve(
        self,
        call: _Asked,
        needed: str,
        answer: Callable[[Pool, str, _Asked, float], Coroutine[Any, Any, _Result]],
    ) -> _Result:
        """The answer of the pool that is meant, or of the first fallback that can give one.

        Answers carry the name that the caller used; after a fallback, the name of who answered.
        """
        limits = self.settings.limits
        timeout_s = min(call.timeout_s or limits.timeout_s, limits.timeout_s_max)
        deadline = asyncio.get_running_loop().time() + timeout_s
        meant = self._resolved.get((call.model, needed)) or self._resolve(call.model, needed)
        asked = meant if call.model is None or call.model == UNNAMED else call.model
        failed: GatewayError | None = None
        for name in self._router.with_fallbacks(meant):
            pool = self._pools.get(name)
            if pool is None:  # a fallback that no server has told of yet
                continue
            if failed:
                self._observe(FellBack(meant, name))
            try:
                return await answer(pool, asked if name == meant else name, call, deadline)
            except (TemporaryError, UpstreamError) as error:
                if isinstance(error, DeadlineExceeded | Draining):
                    raise
                failed = failed or error
        assert failed is not None
        raise failed

    def _resolve(self, model: str | None, needed: str) -> str:
        """The pool that is meant by a call's model, or by none."""
        able = self._able()
        named = model is not None and model != UNNAMED
        # Who names no model means a reranker as long as there is one.
        if self._by_embedding and (named or not any(_RERANK in can for can in able.values())):
            able = {name: can | {_RERANK} if _EMBED in can else can for name, can in able.items()}
        try:
            meant = self._router.resolve(model, needed, able)
        except UnknownModel as error:
            if not self._untold:
                raise
            # It may be one of theirs. Callers give up on 404, and try again on 503.
            raise NoDeployment(f"{error}, and not every server has told its models yet") from None
        self._resolved[model, needed] = meant  # errors are not kept: callers can make up names without end
        return meant

    def label(self, model: str | None) -> str:
        """The model's name for a metric: what callers may use, else nothing."""
        return model if model is not None and self._router.knows(model, self._pools) else ""

    def _served(self, pool: Pool, ticket: Ticket) -> Ticket:
        """Report a ticket that has all its answers."""
        self._listener(
            CallServed(
                pool.settings.name,
                ticket.call_class,
                len(ticket.items),
                ticket.tokens,
                ticket.left - ticket.arrived,
            )
        )
        return ticket

    # Pools

    def _able(self) -> dict[str, frozenset[str]]:
        return {name: pool.capabilities for name, pool in self._pools.items()}

    def _open(self, settings: PoolSettings) -> Pool:
        pool = Pool(settings, self.settings, self._upstream, self._observe, self._rng)
        self._pools[settings.name] = pool
        self._resolved.clear()
        return pool

    async def _learn(self, server: DeploymentSettings) -> None:
        """Ask a server for its models until it tells, then let it join the pool of each."""
        health = self.settings.health
        while True:
            try:
                names = await self._upstream.models(server, health.probe_timeout_s)
                break
            except SendError as error:
                if str(error) != self._untold[server.name]:
                    self._untold[server.name] = str(error)
                    self._observe(DeploymentChanged("", server.name, up=False, why=str(error)))
            except Exception as error:  # A bug, which must not lose the server.
                asyncio.get_running_loop().call_exception_handler(
                    {"message": f"asking {server.name} for its models failed", "exception": error}
                )
            await asyncio.sleep(health.probe_interval_s)
        for name in dict.fromkeys(names):
            pool = self._pools.get(name) or self._open(PoolSettings(name, ()))
            pool.add(_serving(server, name))
        del self._untold[server.name]


def _serving(server: DeploymentSettings, model: str) -> DeploymentSettings:
    return DeploymentSettings(
        server.name, server.api_base, model, server.api_key, server.weight, server.timeout_s
    )


def _params(pool: Pool, call: Call) -> bytes:
    """The call's provider parameters over the configured ones, as a batch key holds them."""
    params: Mapping[str, Scalar] = pool.settings.params
    if call.params:
        params = {**params, **call.params}
    return orjson.dumps(params, option=orjson.OPT_SORT_KEYS) if params else b""


def _with_prefix(texts: Sequence[str], prefix: str | None) -> list[str]:
    return [prefix + text for text in texts] if prefix else list(texts)


def _rank(scores: Sequence[float], top_n: int | None) -> list[tuple[int, float]]:
    # NaN compares with nothing; last is the only place where it disturbs no one.
    order = sorted(
        range(len(scores)), key=lambda i: -math.inf if math.isnan(scores[i]) else scores[i], reverse=True
    )
    return [(i, scores[i]) for i in order[:top_n]]


def _timings(ticket: Ticket) -> Timings:
    return Timings(ticket.left - ticket.arrived, ticket.upstream_s)
