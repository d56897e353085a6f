"""The engine in a caller's own process, in LiteLLM's call shapes.

    from gateway import embedding, rerank

    response = embedding(model="infinity/bge-small", input=["good morning"])
    response.data[0].embedding  # or response["data"][0]["embedding"]

The functions find the servers in `api_base` (one or more, comma-separated), else in INFINITY_API_BASE when
they are called, and the servers' key likewise. All calls, from every thread and every event loop, share one
background thread with one event loop, and so their batches; a forked child has one of its own. Whoever wants
an engine in the loop that runs holds a `Gateway`.

What they raise is in `gateway.errors`: `CallerError` for a call that can never succeed, `TemporaryError` for
one that may succeed later, `UpstreamError` for a server that fails; making a `Gateway` raises `ConfigError`.
"""

import asyncio
import atexit
import concurrent.futures
import copy
import logging
import os
import threading
import uuid
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, NamedTuple, Self, TypeVar, cast

import orjson

from gateway import vectors
from gateway.api.cohere import Rerank
from gateway.api.openai import Embeddings
from gateway.bootstrap import EventLoop, Runtime
from gateway.config import Config, from_servers, load
from gateway.config.litellm import PARAMS_IDLE
from gateway.config.reader import matching, nearest
from gateway.core.events import DeploymentChanged, Event
from gateway.core.settings import LimitsSettings, Secret
from gateway.errors import BadRequest, ConfigError, Draining, GatewayError, NoDeployment, UnknownModel
from gateway.messages import Call, EmbeddingCall, EmbeddingResult, RerankResult
from gateway.service import Result, settle

_log = logging.getLogger("gateway")

_LIMITS = LimitsSettings(timeout_s=600.0)  # LiteLLM's own default
_BATCH_S = 120.0
"""How long a server may take for one batch: slow ones exist, and behind one that hangs others wait."""
_ENGINES_MAX = 8
"""Engines kept for further calls; of more, those that nobody uses are closed, the longest unused first."""
_STOP_S_MAX = 5.0
_TOLD_MAX = 100

_PREFIX = "infinity/"
_ADDRESSES = ("base_url", "url", "api_bases")
_PLACES = ("api_base", "api_key", "timeout", "extra_body")
_EMBEDDING = (
    *("model", "input", "dimensions", "encoding_format", "modality", "user", "input_type", "task"),
    *("output_dimension", "output_dtype"),
)
_RERANK = (
    *("model", "query", "documents", "top_n", "top_k", "return_documents", "raw_scores", "rank_fields"),
    *("max_chunks_per_doc", "max_tokens_per_doc", "user"),
)


# Answers


@dataclass(slots=True)
class Record(Mapping[str, Any]):
    """A part of an answer. Its fields are attributes, and keys as well; what is None is no key."""

    def __getitem__(self, key: str) -> Any:
        value = getattr(self, key) if key in self.__dataclass_fields__ else None
        if value is None:
            raise KeyError(key)
        return value

    def __iter__(self) -> Iterator[str]:
        return (each.name for each in fields(self) if getattr(self, each.name) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def model_dump(self) -> dict[str, Any]:
        """The same as plain dicts and lists, fit for JSON."""
        return {key: _plain(value) for key, value in self.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.model_dump()
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


@dataclass(slots=True)
class Usage(Record):
    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0


@dataclass(slots=True)
class Embedding(Record):
    embedding: Any
    """`list[float]`; a list of those from a model with several vectors for one input; with
    `encoding_format="base64"` a string, float32 little-endian."""
    index: int
    object: str = "embedding"


@dataclass(slots=True)
class EmbeddingResponse(Record):
    model: str
    data: list[Embedding]
    """One for each input, in order."""
    usage: Usage
    object: str = "list"


@dataclass(slots=True)
class RerankDocument(Record):
    text: str


@dataclass(slots=True)
class RerankResponseResult(Record):
    index: int
    relevance_score: float
    document: RerankDocument | None = None


@dataclass(slots=True)
class RerankBilledUnits(Record):
    total_tokens: int


@dataclass(slots=True)
class RerankTokens(Record):
    input_tokens: int
    output_tokens: int = 0


@dataclass(slots=True)
class RerankMeta(Record):
    billed_units: RerankBilledUnits
    tokens: RerankTokens
    warnings: Sequence[str] | None = None


@dataclass(slots=True)
class RerankResponse(Record):
    id: str
    results: list[RerankResponseResult]
    """In falling order of score."""
    meta: RerankMeta
    model: str
    usage: Usage
    object: str = "rerank"


# Calls

_Response = TypeVar("_Response")


@dataclass(slots=True)
class _Asked(Generic[_Response]):
    call: Call
    answer: Callable[[Any], _Response]
    """What its result is to the caller. It computes, so it is for the caller's own thread."""


def _embedding(
    limits: LimitsSettings, timeout: float | None, params: dict[str, Any], **named: Any
) -> _Asked[EmbeddingResponse]:
    exchange = Embeddings(limits)(_fields(named, params, _EMBEDDING), {})
    exchange.call.timeout_s = _seconds(timeout)
    as_base64 = exchange.convert is vectors.as_base64

    def value(fragment: bytes) -> Any:
        return vectors.as_base64(fragment)[1:-1].decode() if as_base64 else vectors.floats(fragment).tolist()

    def answer(result: EmbeddingResult) -> EmbeddingResponse:
        data = [Embedding(value(fragment), index) for index, fragment in enumerate(result.vectors)]
        return EmbeddingResponse(result.model, data, Usage(result.tokens, result.tokens))

    return _Asked(exchange.call, answer)


def _rerank(
    limits: LimitsSettings, timeout: float | None, params: dict[str, Any], **named: Any
) -> _Asked[RerankResponse]:
    exchange = Rerank(limits, "object")(_fields(named, params, _RERANK), {})
    exchange.call.timeout_s = _seconds(timeout)
    echo = exchange.echo

    def answer(result: RerankResult) -> RerankResponse:
        results = [
            RerankResponseResult(index, score, RerankDocument(**echo(index)) if echo else None)
            for index, score in result.ranking
        ]
        meta = RerankMeta(
            RerankBilledUnits(result.tokens), RerankTokens(result.tokens), result.warnings or None
        )
        usage = Usage(result.tokens, result.tokens)
        return RerankResponse(f"infinity-{uuid.uuid4()}", results, meta, result.model, usage)

    return _Asked(exchange.call, answer)


def _fields(named: dict[str, Any], params: dict[str, Any], known: Sequence[str]) -> dict[str, Any]:
    """A call as its body in HTTP would be, so that it is read by the same rules."""
    body = params.pop("extra_body", None) or {}
    if not isinstance(body, Mapping):
        raise BadRequest("extra_body must be a mapping", param="extra_body")
    for name in list(params):
        if name in known:
            continue
        if matching(name, PARAMS_IDLE):
            del params[name]
            _tell_once(_told, name, "the parameter %s of LiteLLM has no effect here", name)
            continue
        hint = "did you mean api_base?" if name in _ADDRESSES else nearest(name, (*known, *_PLACES), 0.8)
        if hint:
            raise BadRequest(f"{name} is no parameter of this call; {hint}", param=name)
    return {name: _json(name, value) for name, value in {**named, **params, **body}.items()}


def _json(name: str, value: object) -> Any:
    """A value as JSON carries it: tuples, arrays and whatever can be gone through become lists."""
    try:
        return orjson.loads(orjson.dumps(value, default=list, option=orjson.OPT_SERIALIZE_NUMPY))
    except orjson.JSONEncodeError as error:
        raise BadRequest(f"{name} cannot be sent as JSON: {error}", param=name) from None


def _seconds(timeout: object) -> float | None:
    if timeout is None:
        return None
    if isinstance(timeout, int | float) and not isinstance(timeout, bool) and timeout > 0:
        return timeout
    raise BadRequest(f"timeout must be a number of seconds above 0, not {timeout!r}", param="timeout")


_told: set[str] = set()


def _tell_once(told: set[str], what: str, message: str, *arguments: object) -> None:
    """Warn of something unless that was done; what comes up in ever new forms is not told for ever."""
    if what not in told and len(told) < _TOLD_MAX:
        told.add(what)
        _log.warning(message, *arguments)


# Engines


class _Engine(Runtime):
    """A runtime that knows when each of its servers has said something for the first time."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.news = asyncio.Event()
        """Set at the next change of a deployment; after that there is another."""
        self.told = set[str]()
        """Unknown names of models that were warned of."""
        self._last: dict[tuple[str, str], DeploymentChanged] = {}

    def observe(self, event: Event) -> None:
        super().observe(event)
        if isinstance(event, DeploymentChanged):
            self._last[event.model, event.deployment] = event
            self.news.set()
            self.news = asyncio.Event()

    @property
    def settled(self) -> bool:
        """Whether each server has answered, or failed to, so that nothing is gained by waiting."""
        return all(place in self._last for place in self._places())

    def explained(self, error: NoDeployment) -> NoDeployment:
        """With what is wrong with each server: who calls here is who must mend it."""
        last = {place: self._last.get(place) for place in self._places()}
        whys = [f"{name}: {event.why}" for (_, name), event in last.items() if event and not event.up]
        return NoDeployment("; ".join([str(error), *dict.fromkeys(whys)]), retry_after_s=error.retry_after_s)

    def _places(self) -> list[tuple[str, str]]:
        served = [(pool.model, each.name) for pool in self.gateway.stats() for each in pool.deployments]
        return [*served, *(("", name) for name in self.gateway.untold())]


class Gateway:
    """An engine in the running event loop, for servers that hold one as long as they run:

        async with Gateway(api_base="http://infinity-0:7997,http://infinity-1:7997") as gateway:
            response = await gateway.embedding(model="bge-small", input=["good morning"])

    `config` is the path of a file as `infinity-gateway serve` takes it. Without it the servers are those of
    `api_base`, else of INFINITY_API_BASE, and their models are learned.

    Raises ConfigError for a configuration or an address that cannot be used.
    """

    def __init__(
        self,
        config: str | os.PathLike[str] | Config | None = None,
        *,
        api_base: str | None = None,
        api_key: str | None = None,
    ) -> None:
        if config is None:
            servers = _servers(api_base, api_key)
            config = from_servers(*servers, _BATCH_S, _LIMITS)
        elif api_base is not None or api_key is not None:
            raise ConfigError(["config: expected either config or api_base and api_key, got both"])
        elif not isinstance(config, Config):
            config = load(Path(config), os.environ)
        for warning in config.warnings:
            _log.warning("%s", warning)
        self._config = config
        self._engine: _Engine | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._engine = await self._stack.enter_async_context(_Engine(self._config))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def embedding(
        self,
        model: str | None,
        input: str | Iterable[str],  # noqa: A002 - LiteLLM's and OpenAI's name
        *,
        dimensions: int | None = None,
        encoding_format: str | None = None,
        modality: str | None = None,
        timeout: float | None = None,
        **params: Any,
    ) -> EmbeddingResponse:
        """As `aembedding`, by the servers of this gateway."""
        asked = _embedding(
            self._config.engine.limits,
            timeout,
            params,
            model=model,
            input=input,
            dimensions=dimensions,
            encoding_format=encoding_format,
            modality=modality,
        )
        return asked.answer(await self._ask(asked.call))

    async def rerank(
        self,
        model: str | None,
        query: str,
        documents: Iterable[str | Mapping[str, str]],
        *,
        top_n: int | None = None,
        return_documents: bool | None = None,
        timeout: float | None = None,
        **params: Any,
    ) -> RerankResponse:
        """As `arerank`, by the servers of this gateway."""
        asked = _rerank(
            self._config.engine.limits,
            timeout,
            params,
            model=model,
            query=query,
            documents=documents,
            top_n=top_n,
            return_documents=return_documents,
        )
        return asked.answer(await self._ask(asked.call))

    async def _ask(self, call: Call) -> Result:
        """The answer of the servers, once they have had the time to say what they serve."""
        engine = self._engine
        if engine is None:
            raise RuntimeError("use it inside `async with Gateway(...) as gateway:`")
        loop = asyncio.get_running_loop()
        deadline = engine.gateway.deadline_of(call)
        named = call.model
        if named and not engine.gateway.label(named):
            named = call.model = named.removeprefix(_PREFIX)
        while True:
            news = engine.news
            try:
                return await self._outcome(engine, call)
            except (NoDeployment, UnknownModel) as error:
                if engine.settled or loop.time() >= deadline:
                    if isinstance(error, NoDeployment):
                        raise engine.explained(error) from None
                    if call.model is None:
                        raise
                    return await self._only(engine, call, error)
            except GatewayError as error:
                # One error may end the calls of many, each of which adds to the trace of what it raises.
                raise copy.copy(error) from None
            with suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await news.wait()
            call.timeout_s = max(0.001, deadline - loop.time())

    async def _only(self, engine: _Engine, call: Call, error: UnknownModel) -> Result:
        """The answer of the only model that can do it. A server with one model ignores the name as well."""
        named, call.model = call.model, None
        try:
            result = await self._outcome(engine, call)
        except BadRequest:
            raise copy.copy(error) from None
        message = "model %r is not known here; %r answers, the only one that can"
        _tell_once(engine.told, str(named), message, named, result.model)
        return result

    async def _outcome(self, engine: _Engine, call: Call) -> Result:
        if isinstance(call, EmbeddingCall):
            return await engine.gateway.embed(call)
        return await engine.gateway.rerank(cast("Any", call))


# The background


class _Servers(NamedTuple):
    """Whom a call is for; each has an engine of its own."""

    api_base: str
    api_key: Secret | None


def _servers(api_base: str | None, api_key: str | None) -> _Servers:
    if api_base is None:
        api_base = os.environ.get("INFINITY_API_BASE")
    if api_key is None:
        api_key = os.environ.get("INFINITY_API_KEY")
    if not api_base or not isinstance(api_base, str):
        raise ConfigError(["api_base: no server is named; pass api_base, or set INFINITY_API_BASE"])
    return _Servers(api_base, Secret(api_key) if api_key else None)


@dataclass(slots=True)
class _Held:
    gateway: Gateway
    starting: "asyncio.Task[Gateway]"
    calls: int = field(default=0)

    async def close(self) -> None:
        await self.starting
        await self.gateway.__aexit__(None, None, None)


class _Background:
    """A thread with an event loop, in which the calls of all threads and of all other loops are answered."""

    def __init__(self) -> None:
        self._loop = EventLoop()
        self._held: dict[_Servers, _Held] = {}
        """The longest unused first."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending = asyncio.Event()
        # A daemon, since what waits for the others at exit comes before the callbacks that end this one.
        self._thread = threading.Thread(target=self._run, name="infinity-gateway", daemon=True)
        self._thread.start()

    def ask(
        self, servers: _Servers, call: Call, done: Callable[[Result | Exception], None]
    ) -> Callable[[], None]:
        """Have a call answered: `done` gets the outcome, in the background's thread.

        It returns what says that nobody wants the answer any more.
        """
        tasks: list[asyncio.Task[None]] = []

        def begin() -> None:
            tasks.append(self._spawn(self._answer(servers, call, done)))

        def leave() -> None:
            with suppress(RuntimeError):  # the background has ended, and the call with it
                self._loop.call_soon_threadsafe(lambda: [task.cancel() for task in tasks])

        try:
            self._loop.call_soon_threadsafe(begin)
        except RuntimeError:
            raise Draining("this process is ending") from None
        return leave

    def close(self) -> None:
        """End everything. Who still waits is not answered: at exit those are threads that end as well."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join(_STOP_S_MAX)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        await self._ending.wait()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for held in self._held.values():
            await held.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _answer(
        self, servers: _Servers, call: Call, done: Callable[[Result | Exception], None]
    ) -> None:
        try:
            outcome: Result | Exception = await self._outcome(servers, call)
        except Exception as error:
            outcome = error
        done(outcome)

    async def _outcome(self, servers: _Servers, call: Call) -> Result:
        held = self._hold(servers)
        held.calls += 1
        try:
            gateway = await asyncio.shield(held.starting)
            return await gateway._ask(call)  # noqa: SLF001 - its own module's
        finally:
            held.calls -= 1
            self._close_idle()

    def _hold(self, servers: _Servers) -> _Held:
        held = self._held.pop(servers, None)
        if held is None:
            gateway = Gateway(from_servers(*servers, _BATCH_S, _LIMITS))
            held = _Held(gateway, self._loop.create_task(gateway.__aenter__()))
        self._held[servers] = held
        return held

    def _close_idle(self) -> None:
        idle = [servers for servers, held in self._held.items() if not held.calls]
        for servers in idle[: max(0, len(self._held) - _ENGINES_MAX)]:
            self._spawn(self._held.pop(servers).close())


_background: _Background | None = None
_starting = threading.Lock()
_of_parents: list[_Background] = []
"""Never to be freed: their loops would close what the parent still uses."""


def _shared() -> _Background:
    global _background
    with _starting:
        if _background is None:
            _background = _Background()
        return _background


def _close() -> None:
    if _background is not None:
        _background.close()


def _forget() -> None:
    """In a forked child: its threads have not come along, and a lock may be held by one of them."""
    global _background, _starting
    _starting = threading.Lock()
    if _background is not None:
        _of_parents.append(_background)
        _background = None


atexit.register(_close)
os.register_at_fork(after_in_child=_forget)


def _call(asked: _Asked[_Response], api_base: str | None, api_key: str | None) -> _Response:
    answered: concurrent.futures.Future[Result | Exception] = concurrent.futures.Future()
    leave = _shared().ask(_place(api_base, api_key), asked.call, answered.set_result)
    try:
        outcome = answered.result()
    except BaseException:  # Ctrl-C
        leave()
        raise
    return _taken(asked, outcome)


async def _acall(asked: _Asked[_Response], api_base: str | None, api_key: str | None) -> _Response:
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[Result | Exception] = loop.create_future()

    def done(outcome: Result | Exception) -> None:
        with suppress(RuntimeError):  # the caller's loop has been closed
            loop.call_soon_threadsafe(settle, answered, outcome)

    leave = _shared().ask(_place(api_base, api_key), asked.call, done)
    try:
        outcome = await answered
    except BaseException:
        leave()
        raise
    return _taken(asked, outcome)


def _place(api_base: str | None, api_key: str | None) -> _Servers:
    try:
        return _servers(api_base, api_key)
    except ConfigError as error:
        raise BadRequest(str(error), param="api_base") from None


def _taken(asked: _Asked[_Response], outcome: Result | Exception) -> _Response:
    if isinstance(outcome, ConfigError):
        raise BadRequest(str(outcome), param="api_base")
    if isinstance(outcome, Exception):
        raise outcome
    return asked.answer(outcome)


# LiteLLM's functions


def embedding(
    model: str | None,
    input: str | Iterable[str],  # noqa: A002 - LiteLLM's and OpenAI's name
    *,
    dimensions: int | None = None,
    encoding_format: str | None = None,
    modality: str | None = None,
    api_base: str | None = None,
    api_key: str | None = None,
    timeout: float | None = None,
    **params: Any,
) -> EmbeddingResponse:
    """One vector for each input.

    `model` is "infinity/" and the server's name of it; an unknown one means the only model that can embed.
    `dimensions` keeps the first so many numbers of each vector. `modality` is text, image or audio; for the
    last two `input` holds data URIs. `timeout` is in seconds. Other parameters are passed on to the server.

    It blocks its thread, and is safe in any: also where an event loop runs.
    """
    asked = _embedding(
        _LIMITS,
        timeout,
        params,
        model=model,
        input=input,
        dimensions=dimensions,
        encoding_format=encoding_format,
        modality=modality,
    )
    return _call(asked, api_base, api_key)


async def aembedding(
    model: str | None,
    input: str | Iterable[str],  # noqa: A002 - LiteLLM's and OpenAI's name
    *,
    dimensions: int | None = None,
    encoding_format: str | None = None,
    modality: str | None = None,
    api_base: str | None = None,
    api_key: str | None = None,
    timeout: float | None = None,
    **params: Any,
) -> EmbeddingResponse:
    """As `embedding`, awaited. Cancelled, it leaves nothing behind."""
    asked = _embedding(
        _LIMITS,
        timeout,
        params,
        model=model,
        input=input,
        dimensions=dimensions,
        encoding_format=encoding_format,
        modality=modality,
    )
    return await _acall(asked, api_base, api_key)


def rerank(
    model: str | None,
    query: str,
    documents: Iterable[str | Mapping[str, str]],
    *,
    top_n: int | None = None,
    return_documents: bool | None = True,
    api_base: str | None = None,
    api_key: str | None = None,
    timeout: float | None = None,
    **params: Any,
) -> RerankResponse:
    """Score each of `documents`, texts or `{"text": …}`, against `query`; the best `top_n`, or all.

    Like `embedding` in all else. Infinity has `raw_scores=True`, for logits instead of probabilities.
    """
    asked = _rerank(
        _LIMITS,
        timeout,
        params,
        model=model,
        query=query,
        documents=documents,
        top_n=top_n,
        return_documents=return_documents,
    )
    return _call(asked, api_base, api_key)


async def arerank(
    model: str | None,
    query: str,
    documents: Iterable[str | Mapping[str, str]],
    *,
    top_n: int | None = None,
    return_documents: bool | None = None,
    api_base: str | None = None,
    api_key: str | None = None,
    timeout: float | None = None,
    **params: Any,
) -> RerankResponse:
    """As `rerank`, awaited; documents only come back with `return_documents=True`, as in LiteLLM."""
    asked = _rerank(
        _LIMITS,
        timeout,
        params,
        model=model,
        query=query,
        documents=documents,
        top_n=top_n,
        return_documents=return_documents,
    )
    return await _acall(asked, api_base, api_key)
