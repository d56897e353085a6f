"""One call from start to end: which pool, what goes in, what comes out, and who stands in on failure."""

import asyncio
import math
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count
from types import TracebackType
from typing import Protocol, Self, TypeVar, cast

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

_Outcome = TypeVar("_Outcome")
Result = EmbeddingResult | RerankResult | ClassifyResult

BY_EMBEDDING = "scored by cosine similarity of embeddings, since no reranker is configured for this model"

_EMBED, _RERANK, _CLASSIFY = (capability(task) for task in (Task.EMBED, Task.RERANK, Task.CLASSIFY))
_TEXTS = BatchKey(Task.EMBED)
"""What texts have in common with which nothing else is sent."""
_alone = count(1)


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
        self.listener = observe
        self._rng = rng or random.Random()
        self.router = Router(settings.router)
        self.pools: dict[str, Pool] = {}
        self._resolved: dict[tuple[str | None, str, tuple[str, ...]], Sequence[str]] = {}
        """Model, capability and what is permitted → the pool that is meant and its fallbacks, as long as no
        pool changes.
        """
        self._learning: list[asyncio.Task[None]] = []
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
        for pool in self.pools.values():
            await pool.close()

    @property
    def ready(self) -> bool:
        """Whether a deployment has ever answered. It stays so: one outage of the servers must not take every
        gateway out of service.
        """
        return self._answered.is_set()

    async def wait_ready(self) -> None:
        await self._answered.wait()

    def observe(self, event: Event) -> None:
        kind = type(event)
        if kind is DeploymentChanged or kind is DeploymentGone:
            self._resolved.clear()  # what a server can do is learned just before it is up
            if isinstance(event, DeploymentChanged) and event.up:
                self._answered.set()
        self.listener(event)

    def stats(self) -> list[PoolStats]:
        return [pool.stats() for pool in self.pools.values()]

    def untold(self) -> Mapping[str, str]:
        """Servers that have not told their models yet, and why."""
        return self._untold

    def models(self, permitted: Sequence[str] = ()) -> list[ModelCard]:
        """Every name that callers may use, aliases too; those who are permitted only some, only theirs."""
        able, router = self._able(), self.router
        return [
            ModelCard(name, tuple(sorted(able[pool])))
            for name, pool in router.names(able).items()
            if router.permits(permitted, name)
        ]

    # Calls

    def begin(self, call: Call, done: Callable[[Result | Exception], None]) -> "Serving":
        """Have a call answered: `done` gets the result or the error, once, and maybe at once."""
        return Serving(self, call, done)

    async def embed(self, call: EmbeddingCall) -> EmbeddingResult:
        return cast("EmbeddingResult", await self._outcome(call))

    async def rerank(self, call: RerankCall) -> RerankResult:
        return cast("RerankResult", await self._outcome(call))

    async def classify(self, call: ClassifyCall) -> ClassifyResult:
        return cast("ClassifyResult", await self._outcome(call))

    async def _outcome(self, call: Call) -> Result:
        answered: asyncio.Future[Result | Exception] = asyncio.get_running_loop().create_future()
        serving = self.begin(call, partial(settle, answered))
        try:
            outcome = await answered
        finally:
            serving.leave()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    # For a call on its way

    def deadline_of(self, call: Call) -> float:
        limits = self.settings.limits
        timeout_s = min(call.timeout_s or limits.timeout_s, limits.timeout_s_max)
        return asyncio.get_running_loop().time() + timeout_s

    def pools_for(self, call: Call) -> Sequence[str]:
        """The pool that is meant by a call's model, or by none; then those that stand in for it, in order."""
        needed = _capability(call)
        found = self._resolved.get((call.model, needed, call.models))
        return found or self._resolve(call.model, needed, call.models)

    def _resolve(self, model: str | None, needed: str, permitted: tuple[str, ...]) -> Sequence[str]:
        able = self._able()
        named = model is not None and model != UNNAMED
        # Who names no model means a reranker as long as there is one.
        ranked = any(_RERANK in can for name, can in able.items() if self.router.permits(permitted, name))
        if self.settings.rerank_by_embedding and (named or not ranked):
            able = {name: can | {_RERANK} if _EMBED in can else can for name, can in able.items()}
        try:
            meant = self.router.resolve(model, needed, able, permitted)
        except UnknownModel as error:
            if not self._untold:
                raise
            # It may be one of theirs. Callers give up on 404, and try again on 503.
            raise NoDeployment(f"{error}, and not every server has told its models yet") from None
        names = self.router.with_fallbacks(meant, permitted)
        # Errors are not kept: callers can make up names without end.
        self._resolved[model, needed, permitted] = names
        return names

    def label(self, model: str | None) -> str:
        """The model's name for a metric: what callers may use, else nothing."""
        return model if model is not None and self.router.knows(model, self.pools) else ""

    # Pools

    def _able(self) -> dict[str, frozenset[str]]:
        return {name: pool.capabilities for name, pool in self.pools.items()}

    def _open(self, settings: PoolSettings) -> Pool:
        pool = Pool(settings, self.settings, self._upstream, self.observe, self._rng)
        self.pools[settings.name] = pool
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
                    self.observe(DeploymentChanged("", server.name, up=False, why=str(error)))
            except Exception as error:  # A bug, which must not lose the server.
                asyncio.get_running_loop().call_exception_handler(
                    {"message": f"asking {server.name} for its models failed", "exception": error}
                )
            await asyncio.sleep(health.probe_interval_s)
        for name in dict.fromkeys(names):
            pool = self.pools.get(name) or self._open(PoolSettings(name, ()))
            pool.add(_serving(server, name))
        del self._untold[server.name]


def _serving(server: DeploymentSettings, model: str) -> DeploymentSettings:
    return DeploymentSettings(
        server.name, server.api_base, model, server.api_key, server.weight, server.timeout_s
    )


def settle(future: "asyncio.Future[_Outcome]", outcome: _Outcome) -> None:
    """Set what a future waits for, unless it has been cancelled: who awaited it has yet to leave."""
    if not future.done():
        future.set_result(outcome)


class Serving:
    """One call on its way: through the pool that is meant or, where that fails for a while, through the first
    fallback that can give an answer. Answers carry the name that the caller used; after a fallback, the name
    of who answered.
    """

    __slots__ = (
        "_call", "_deadline", "_done", "_failed", "_gateway", "_meant", "_names", "_pool", "_ticket",
    )  # fmt: skip

    def __init__(self, gateway: Gateway, call: Call, done: Callable[[Result | Exception], None]) -> None:
        self._gateway = gateway
        self._call = call
        self._done: Callable[[Result | Exception], None] | None = done
        self._failed: GatewayError | None = None
        self._ticket: Ticket | None = None
        self._pool: Pool
        try:
            self._deadline = gateway.deadline_of(call)
            names = gateway.pools_for(call)
            self._meant = names[0]
            self._names = iter(names)
            self._ask()
        except Exception as error:
            self._end(error)

    def leave(self) -> None:
        """Nobody wants the answer any more, and `done` is not called."""
        self._done = None
        ticket, self._ticket = self._ticket, None
        if ticket:
            ticket.leave()

    def _end(self, outcome: Result | Exception) -> None:
        # Who is done holds on to nothing: calls that hold each other would have to be found by the collector.
        done, self._done = self._done, None
        self._ticket = None
        if done:
            done(outcome)

    def _ask(self) -> None:
        """Queue the call in the next pool that takes it; when none does, it ends with the first error."""
        gateway, call = self._gateway, self._call
        for name in self._names:
            pool = gateway.pools.get(name)
            if pool is None:  # a fallback that no server has told of yet
                continue
            if self._failed:
                gateway.observe(FellBack(self._meant, name))
            self._pool = pool
            try:
                key, items = _question(call, pool, gateway.settings)
                self._ticket = pool.ask(
                    key, items, self._deadline, call.caller, self._answered, bulk=call.bulk
                )
                return
            except GatewayError as error:
                if _lasts(error):
                    self._end(error)
                    return
                self._failed = self._failed or error
        assert self._failed is not None
        self._end(self._failed)

    def _answered(self, ticket: Ticket) -> None:
        try:
            if error := ticket.error:
                if _lasts(error):
                    self._end(error)
                else:
                    self._failed = self._failed or error
                    self._ask()
                return
            call, pool = self._call, self._pool.settings.name
            queue_s = ticket.left - ticket.arrived
            self._gateway.listener(
                CallServed(pool, ticket.call_class, len(ticket.items), ticket.tokens, queue_s)
            )
            named = call.model
            model = named if named is not None and named != UNNAMED and pool == self._meant else pool
            outcome: Result | Exception = _result(call, ticket, model, Timings(queue_s, ticket.upstream_s))
        except Exception as bad:
            outcome = bad
        self._end(outcome)


def _lasts(error: GatewayError) -> bool:
    """Whether another pool would not mend it, or there is no time left for one."""
    mends = isinstance(error, TemporaryError | UpstreamError)
    return not mends or isinstance(error, DeadlineExceeded | Draining)


def _capability(call: Call) -> str:
    """What a pool must be able to do for it."""
    match call:
        case EmbeddingCall():
            return _EMBED if call.modality is Modality.TEXT else capability(Task.EMBED, call.modality)
        case RerankCall():
            return _RERANK
        case ClassifyCall():
            return _CLASSIFY


def _question(call: Call, pool: Pool, settings: EngineSettings) -> tuple[BatchKey, list[str]]:
    """What a pool is asked."""
    params = _params(pool, call)
    match call:
        case EmbeddingCall():
            items = _with_prefix(call.inputs, pool.settings.prefixes.get(call.role or ""))
            if call.modality is not Modality.TEXT:
                return BatchKey(Task.EMBED, params, None, call.modality, next(_alone)), items
            return BatchKey(Task.EMBED, params) if params else _TEXTS, items
        case RerankCall():
            if settings.rerank_by_embedding and _RERANK not in pool.capabilities:
                prefixes = pool.settings.prefixes
                items = _with_prefix([call.query], prefixes.get("query"))
                items += _with_prefix(call.documents, prefixes.get("document"))
                return BatchKey(Task.EMBED, params), items
            return BatchKey(Task.RERANK, params, call.query), list(call.documents)
        case ClassifyCall():
            return BatchKey(Task.CLASSIFY, params), list(call.inputs)


def _result(call: Call, ticket: Ticket, model: str, timings: Timings) -> Result:
    """What the answers of its pool mean for a call."""
    match call:
        case EmbeddingCall():
            found: list[bytes] = ticket.answers  # type: ignore[assignment]
            if call.dimensions is not None:
                found = vectors.cut(found, call.dimensions)
            return EmbeddingResult(model, found, ticket.tokens, timings)
        case RerankCall():
            warnings: Sequence[str] = ()
            if ticket.key.task is Task.RERANK:
                scores = cast("list[float]", ticket.answers)
            else:
                query, *documents = cast("list[bytes]", ticket.answers)
                scores = vectors.cosine(query, documents)
                warnings = [BY_EMBEDDING]
            return RerankResult(model, _rank(scores, call.top_n), ticket.tokens, timings, warnings)
        case ClassifyCall():
            return ClassifyResult(model, cast("list[bytes]", ticket.answers), ticket.tokens, timings)


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
