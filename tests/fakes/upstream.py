"""The servers, in memory and on the event loop's clock: they remember what they got and fail as told.

    upstream = RecordingUpstream(latency_s=1)
    upstream.faults.append(Fault(Failure.DISCONNECTED, deployment="a", times=1))
    ...
    assert upstream.batches == [(0.0, "a", ["x"]), (1.0, "b", ["x"])]

Every answer is made from the item's text and from what is sent along with it, so one that reaches the wrong
caller, or the right one in the wrong place, shows.
"""

import asyncio
import base64
import hashlib
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import NamedTuple

import orjson

from gateway.core.lanes import BatchKey, Value
from gateway.core.retry import Failure
from gateway.core.settings import DeploymentSettings, Place
from gateway.messages import Task
from gateway.pool import Answer, Encoding, Request, SendError, ServerFacts
from gateway.pool.samples import LONG, SHORT, sample_of, trial_key

DIMENSIONS = 4
PING = SHORT
"""The text of a canary. No test uses it for anything else."""

EMBEDS = ServerFacts(frozenset({"embed"}))
RERANKS = ServerFacts(frozenset({"rerank"}))
CLASSIFIES = ServerFacts(frozenset({"classify"}))
DOES_ALL = ServerFacts(frozenset({"embed", "rerank", "classify", "image_embed", "audio_embed"}))


class Sent(NamedTuple):
    """One batch as a server got it."""

    at: float
    deployment: str
    items: list[str]


class Probed(NamedTuple):
    at: float
    deployment: str
    kind: str
    """`inspect`, or `canary` for a call of one item to a server that is up."""


@dataclass
class Fault:
    """Makes batches fail. The first that fits is used, and leaves after it was used `times` times."""

    failure: Failure
    deployment: str | None = None
    """The server that it befalls; None: every one."""
    on: Callable[[Request], bool] = lambda _: True
    times: int | None = None
    message: str = "as told"


@dataclass
class RecordingUpstream:
    """Fulfils `Upstream` and `Directory`."""

    latency_s: float = 0.0
    """How long a batch takes, on servers that `latencies` does not name."""
    latencies: dict[str, float] = field(default_factory=dict)
    latency_of: Callable[[str, Request], float] | None = None
    """Comes before both."""
    serial: bool = False
    """Servers do one thing after the other, as Infinity does; also what the gateway has given up."""
    facts: dict[str, ServerFacts] = field(default_factory=dict)
    """What a server tells of itself; one that is not named does everything."""
    spaces: dict[str, str] = field(default_factory=dict)
    """What makes the vectors of a server others than those of the rest, as another model would."""
    spent_of: Callable[[str], float] | None = None
    """How long requests were with a server in all; None: it does not tell."""
    served: dict[str, list[str]] = field(default_factory=dict)
    """Server → the models it serves."""
    scripted: dict[str, Value] = field(default_factory=dict)
    """Item → its answer, for tests that need a certain one."""
    tokens_of: Callable[[Request], int] | None = None
    """What is counted for a batch; None: its characters, as Infinity does."""
    faults: list[Fault] = field(default_factory=list)
    """Befall batches, not probes."""
    down: set[str] = field(default_factory=set)
    """Servers where nothing listens."""
    hung: set[str] = field(default_factory=set)
    """Servers that take everything and answer nothing."""
    full: set[str] = field(default_factory=set)
    """Servers that answer everything with 429."""

    batches: list[Sent] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    """What was in `batches`, with its key and encoding."""
    timeouts: list[float] = field(default_factory=list)
    """How long each of `batches` was given."""
    probes: list[Probed] = field(default_factory=list)
    forgotten: list[Place] = field(default_factory=list)
    in_flight: Counter[str] = field(default_factory=Counter)
    """Batches under way at each server."""
    in_flight_most: Counter[str] = field(default_factory=Counter)
    free_at: dict[str, float] = field(default_factory=dict)
    """When each server will have done all that it has been given, if it is serial."""

    async def inspect(self, deployment: DeploymentSettings, timeout_s: float) -> ServerFacts:
        name = deployment.name
        self.probes.append(Probed(_now(), name, "inspect"))
        await self._reach(name, timeout_s)
        facts = self.facts.get(name, DOES_ALL)
        answers = self._answer(name, Request(trial_key(Task.EMBED), [PING, LONG], Encoding.BASE64)).values
        return replace(facts, samples=[sample_of(Task.EMBED, answer) for answer in answers])

    async def spent_s(
        self, deployment: DeploymentSettings, capabilities: frozenset[str], timeout_s: float
    ) -> float | None:
        return self.spent_of(deployment.name) if self.spent_of else None

    async def models(self, server: DeploymentSettings, timeout_s: float) -> Sequence[str]:
        await self._reach(server.name, timeout_s)
        return self.served[server.name]

    def forget(self, place: Place) -> None:
        self.forgotten.append(place)

    async def send(self, deployment: DeploymentSettings, request: Request, timeout_s: float) -> Answer:
        name = deployment.name
        if request.items == [PING]:
            self.probes.append(Probed(_now(), name, "canary"))
            await self._reach(name, timeout_s)
            own_s = self.latency_of(name, request) if self.latency_of else 0.0
            await self._take(max(own_s, self.free_at.get(name, 0.0) - _now()), timeout_s)
            return self._answer(name, request)
        # Copies: a test may want to see when the gateway itself lets go of a text.
        self.batches.append(Sent(_now(), name, [str(item) for item in request.items]))
        self.requests.append(Request(request.key, self.batches[-1].items, request.encoding))
        self.timeouts.append(timeout_s)
        self.in_flight[name] += 1
        self.in_flight_most[name] = max(self.in_flight_most[name], self.in_flight[name])
        try:
            return await self._serve(name, request, timeout_s)
        finally:
            self.in_flight[name] -= 1

    async def _serve(self, name: str, request: Request, timeout_s: float) -> Answer:
        fault = self._fault(name, request)
        if fault and fault.failure is Failure.REFUSED:
            raise SendError(fault.failure, fault.message)
        await self._reach(name, timeout_s)
        latency_s = self._latency_s(name, request)
        if self.serial:
            self.free_at[name] = max(_now(), self.free_at.get(name, 0.0)) + latency_s
            latency_s = self.free_at[name] - _now()
        await self._take(inf if fault and fault.failure is Failure.TIMEOUT else latency_s, timeout_s)
        if fault:
            raise SendError(fault.failure, fault.message)
        return self._answer(name, request)

    async def _take(self, latency_s: float, timeout_s: float) -> None:
        if latency_s > timeout_s:
            await asyncio.sleep(timeout_s)
            raise SendError(Failure.TIMEOUT, f"no answer within {timeout_s:.3g} s")
        await asyncio.sleep(latency_s)

    async def _reach(self, name: str, timeout_s: float) -> None:
        if name in self.down:
            raise SendError(Failure.REFUSED, "no connection: refused")
        if name in self.full:
            raise SendError(Failure.OVERLOADED, "overloaded (status 429)")
        if name in self.hung:
            await self._take(inf, timeout_s)

    def _latency_s(self, name: str, request: Request) -> float:
        if self.latency_of:
            return self.latency_of(name, request)
        return self.latencies.get(name, self.latency_s)

    def _fault(self, name: str, request: Request) -> Fault | None:
        for fault in self.faults:
            if fault.deployment in (None, name) and fault.on(request):
                if fault.times is not None:
                    fault.times -= 1
                    if not fault.times:
                        self.faults.remove(fault)
                return fault
        return None

    def _answer(self, name: str, request: Request) -> Answer:
        query = len(request.key.query or "")
        tokens = sum(query + len(item) for item in request.items)
        if self.tokens_of:
            tokens = self.tokens_of(request)
        values = [
            self.scripted[item]
            if item in self.scripted
            else value_of(request.key, self.spaces.get(name, "") + item, request.encoding)
            for item in request.items
        ]
        return Answer(values, tokens)


def value_of(key: BatchKey, item: str, encoding: Encoding = Encoding.BASE64) -> Value:
    """The answer to `item` in a batch with this key."""
    told = f"{key.task}|{key.params!r}|{key.query}|{key.modality}|{item}".encode()
    digest = hashlib.blake2b(told, digest_size=DIMENSIONS * 2).digest()
    numbers: list[float] = [number / 32768 for number in struct.unpack(f"<{DIMENSIONS}h", digest)]
    match key.task:
        case Task.RERANK:
            return numbers[0]
        case Task.CLASSIFY:
            return orjson.dumps([{"label": digest.hex(), "score": numbers[0]}])
        case Task.EMBED:
            as_list: bytes = orjson.dumps(numbers)
            return base64_of(numbers) if encoding is Encoding.BASE64 else as_list


def base64_of(numbers: Sequence[float]) -> bytes:
    """A vector as Infinity writes it: a quoted base64 string of float32 little-endian."""
    return b'"' + base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)) + b'"'


def _now() -> float:
    return asyncio.get_running_loop().time()
