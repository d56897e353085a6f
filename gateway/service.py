"""One call from start to end: which pool, what goes in, what comes out, and who stands in on failure."""

import asyncio
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from types import TracebackType
from typing import Protocol, Self, TypeVar, cast

import orjson

from gateway import vectors
from gateway.core.events import CallServed, DeploymentChanged, DeploymentGone, Event, FellBack, Observer
from gateway.core.lanes import BatchKey, Ticket
from gateway.core.router import UNNAMED, Router, capability
from gateway.core.settings import DeploymentSettings, EngineSettings, NameSettings, Place, PoolSettings
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

    def forget(self, place: Place) -> None:
        """A server is not asked any more; what is under way there ends."""
        ...


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
        self._found: dict[NameSettings, Sequence[str]] = {}
        """The addresses of each name, once they are known."""
        self._learning: dict[str, _Learning] = {}
        """By the name of the server."""
        self._told: dict[Place, Sequence[str]] = {}
        """The models of each server that has told them."""
        self._learned: set[str] = set()
        """Pools that are there since a server told of their models."""
        self._retiring: dict[asyncio.Task[None], Pool] = {}
        self._places: set[Place] = set()
        self._tidying: asyncio.Handle | None = None
        self._any_answered = False
        self._ready = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._settle()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pools = [*self.pools.values(), *self._retiring.values()]
        tasks = [*(each.task for each in self._learning.values()), *self._retiring]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for pool in pools:
            await pool.close()
        if self._tidying:
            self._tidying.cancel()

    def become(self, settings: EngineSettings) -> None:
        """By other settings from now on, all at once. Calls that have begun end by those of before; servers
        that stay keep what is known of them.
        """
        self.settings = settings
        self.router = Router(settings.router)
        self._found = {name: found for name, found in self._found.items() if name in settings.names}
        self._settle()

    def find(self, name: NameSettings, addresses: Sequence[str]) -> None:
        """These are the addresses of a name from now on."""
        self._found[name] = addresses
        self._settle()

    @property
    def ready(self) -> bool:
        """Whether a deployment has answered, and every model been asked for. It stays so: one outage of the
        servers must not take every gateway out of service.
        """
        return self._ready.is_set()

    async def wait_ready(self) -> None:
        await self._ready.wait()

    def observe(self, event: Event) -> None:
        kind = type(event)
        if kind is DeploymentChanged or kind is DeploymentGone:
            self._resolved.clear()  # what a server can do is learned just before it is up
            if isinstance(event, DeploymentChanged):
                self._any_answered |= event.up
            else:
                self._tidy_soon()
            if self._any_answered and not any(pool.is_unknown for pool in self.pools.values()):
                self._ready.set()
        self.listener(event)

    def stats(self) -> list[PoolStats]:
        return [pool.stats() for pool in self.pools.values()]

    def untold(self) -> Mapping[str, str]:
        """Servers that have not told their models yet, and why."""
        untold = {name: each.why for name, each in self._learning.items() if not each.has_told}
        for name in self.settings.discovery.names:
            if name not in self._found:
                untold[str(name)] = "no address is known yet"
        return untold

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
            if not self.untold():
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

    def _settle(self) -> None:
        """Have the pools be as settings, names and servers say now."""
        settings = self.settings
        servers = self._at(settings.servers, settings.discovery.names)
        self._ask(servers)
        wanted = {
            pool.name: replace(pool, deployments=self._at(pool.deployments, pool.names))
            for pool in settings.pools
        }
        learned = {
            model: PoolSettings(model, ()) for each in servers for model in self._told.get(each.place, ())
        }
        if self.untold():  # one of which may tell of a model that nobody else has at the moment
            learned |= {name: PoolSettings(name, ()) for name in self._learned if name not in wanted}
        self._learned = set(learned)
        wanted = learned | wanted
        for server in servers:
            for model in dict.fromkeys(self._told.get(server.place, ())):
                pool = wanted[model]
                wanted[model] = replace(
                    pool, deployments=(*pool.deployments, replace(server, server_model=model))
                )
        for name, known in list(self.pools.items()):
            if name not in wanted or _serves_another(known.settings, wanted[name]):
                del self.pools[name]
                self._retire(known)
        for name, pool in wanted.items():
            if there := self.pools.get(name):
                there.become(pool, settings)
            else:
                self.pools[name] = Pool(pool, settings, self._upstream, self.observe, self._rng)
        self._resolved.clear()
        self._places |= self._used()
        self._tidy_soon()

    def _at(
        self, deployments: Sequence[DeploymentSettings], names: Sequence[NameSettings]
    ) -> tuple[DeploymentSettings, ...]:
        """All of them, and those at the addresses of names; each server once."""
        found = {each.name: each for each in deployments}
        for name in names:
            for address in self._found.get(name, ()):
                each = name.deployment(address)
                found.setdefault(each.name, each)
        return tuple(found.values())

    def _retire(self, pool: Pool) -> None:
        task = asyncio.get_running_loop().create_task(pool.retire())
        self._retiring[task] = pool
        task.add_done_callback(self._retired)

    def _retired(self, task: asyncio.Task[None]) -> None:
        pool = self._retiring.pop(task)
        if task.cancelled():
            return  # This gateway is closing.
        # One of the same name may have come in its place.
        model = pool.settings.name
        there = self.pools[model].deployments if model in self.pools else frozenset[str]()
        for name in pool.deployments - there:
            self.observe(DeploymentGone(model, name))
        self._tidy_soon()

    def _used(self) -> set[Place]:
        places = {each.settings.place for each in self._learning.values()}
        return places.union(*(pool.places for pool in (*self.pools.values(), *self._retiring.values())))

    def _tidy_soon(self) -> None:
        if self._tidying is None:
            self._tidying = asyncio.get_running_loop().call_soon(self._tidy)

    def _tidy(self) -> None:
        """Forget servers that are asked by nobody any more."""
        self._tidying = None
        used = self._used()
        for place in self._places - used:
            self._told.pop(place, None)
            self._upstream.forget(place)
        self._places = used

    def _ask(self, servers: Sequence[DeploymentSettings]) -> None:
        """Ask those for their models that have not told them, and none else."""
        wanted = {server.name: server for server in servers}
        for name, each in list(self._learning.items()):
            if wanted.get(name) != each.settings:
                each.task.cancel()
                del self._learning[name]
        for name, server in wanted.items():
            if name not in self._learning:
                each = self._learning[name] = _Learning(server)
                each.has_told = server.place in self._told
                each.task = asyncio.get_running_loop().create_task(self._learn(each))

    async def _learn(self, learning: "_Learning") -> None:
        """Ask a server for its models until it tells, then let it join the pool of each."""
        server = learning.settings
        while not learning.has_told:
            # As they are by now.
            health = self.settings.health
            try:
                self._told[server.place] = await self._upstream.models(server, health.probe_timeout_s)
                learning.has_told = True
                self._settle()
                break
            except SendError as error:
                if str(error) != learning.why:
                    learning.why = str(error)
                    self.observe(DeploymentChanged("", server.name, up=False, why=str(error)))
            except Exception as bug:  # A bug, which must not lose the server.
                asyncio.get_running_loop().call_exception_handler(
                    {"message": f"asking {server.name} for its models failed", "exception": bug}
                )
            await asyncio.sleep(health.probe_interval_s)


class _Learning:
    """A server that is asked for its models."""

    __slots__ = ("has_told", "settings", "task", "why")

    task: asyncio.Task[None]

    def __init__(self, settings: DeploymentSettings) -> None:
        self.settings = settings
        self.why = "has not answered yet"
        self.has_told = False


def _serves_another(known: PoolSettings, wanted: PoolSettings) -> bool:
    """Whether the models differ, and with them the vectors."""
    return None not in (known.server_model, wanted.server_model) and known.server_model != wanted.server_model


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
                ticket = self._ticket = pool.ask(
                    key, items, self._deadline, call.caller, self._answered, bulk=call.bulk
                )
                if call.trace is not None:  # what leaves does so in a later turn
                    ticket.trace = call.trace
                    pool.is_traced = True
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
