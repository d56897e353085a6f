"""What the tests of the pool share."""

import asyncio
import random
import weakref
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial

from gateway.core.events import Event
from gateway.core.lanes import BatchKey, Ticket
from gateway.core.settings import DeploymentSettings, EngineSettings, PoolSettings
from gateway.errors import GatewayError
from gateway.messages import Modality, Task
from gateway.pool import Pool, Upstream
from gateway.service import settle
from tests.fakes.time import idle
from tests.fakes.upstream import RecordingUpstream, value_of

EMBED = BatchKey(Task.EMBED)
SOON_S = 1000.0
"""The deadline of a call that is in no hurry."""


def deployment(name: str, *, weight: float = 1.0, timeout_s: float = 30.0) -> DeploymentSettings:
    return DeploymentSettings(name, f"http://{name}", weight=weight, timeout_s=timeout_s)


@asynccontextmanager
async def running(
    upstream: Upstream,
    deployments: Iterable[str | DeploymentSettings] = "a",
    settings: EngineSettings | None = None,
    events: list[Event] | None = None,
    seed: int = 0,
) -> AsyncIterator[Pool]:
    """A pool in which every server that answers has been seen to do so; closed at the end."""
    members = [deployment(each) if isinstance(each, str) else each for each in deployments]
    pool = Pool(
        PoolSettings("model", tuple(members)),
        settings or EngineSettings(),
        upstream,
        (events if events is not None else []).append,
        random.Random(seed),
    )
    try:
        await idle()
        yield pool
    finally:
        await pool.close()


def ask(
    pool: Pool, items: str | Sequence[str], key: BatchKey = EMBED, *, within_s: float = SOON_S
) -> "asyncio.Task[Ticket]":
    """A caller of its own for `items`."""
    texts = [items] if isinstance(items, str) else list(items)
    return asyncio.get_running_loop().create_task(_ask(pool, texts, key, within_s))


async def _ask(pool: Pool, texts: list[str], key: BatchKey, within_s: float) -> Ticket:
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[Ticket] = loop.create_future()
    ticket = pool.ask(key, texts, loop.time() + within_s, "", partial(settle, answered))
    try:
        await answered
    finally:
        ticket.leave()
    if ticket.error:
        raise ticket.error
    return ticket


async def acquaint(pool: Pool) -> None:
    """Ask each server until it is known how long it takes: before that it gets one batch at a time."""
    for i in range(10):
        for call in [ask(pool, f"acquaints {i} {at}") for at in range(len(pool.stats().deployments))]:
            await call
    assert not any(each.is_new for each in pool._balancer)


async def at(time: float) -> None:
    """Wait for that moment, and for all that happens in it by itself."""
    await asyncio.sleep(time - now())
    await idle()


def now() -> float:
    return asyncio.get_running_loop().time()


async def failure(call: "asyncio.Task[Ticket]") -> GatewayError:
    """The error that the call ends with."""
    try:
        await call
    except GatewayError as error:
        return error
    raise AssertionError("the call was answered")


async def outcome(call: "asyncio.Task[Ticket]") -> str:
    """`answered` with the right answers, or the kind of error, or `cancelled`."""
    try:
        ticket = await call
    except GatewayError as error:
        return type(error).__name__
    except asyncio.CancelledError:
        return "cancelled"
    assert_answered(ticket)
    return "answered"


def assert_answered(ticket: Ticket) -> None:
    """Every item has the answer that was made for it."""
    expected = [value_of(ticket.key, item) for item in ticket.items]
    assert ticket.answers == expected


def sizes(upstream: RecordingUpstream) -> list[int]:
    return [len(batch.items) for batch in upstream.batches]


def items_sent(upstream: RecordingUpstream) -> list[str]:
    return [item for batch in upstream.batches for item in batch.items]


def states(pool: Pool) -> dict[str, str]:
    return {each.name: each.state for each in pool.stats().deployments}


def rerank(query: str) -> BatchKey:
    return BatchKey(Task.RERANK, query=query)


def image(call: int) -> BatchKey:
    return BatchKey(Task.EMBED, modality=Modality.IMAGE, alone=call)


def texts(count: int, prefix: str = "t") -> list[str]:
    return [f"{prefix}{i}" for i in range(count)]


def assert_at_rest(pool: Pool) -> None:
    """Nothing waits and nothing is under way."""
    stats = pool.stats()
    assert stats.in_flight_calls == 0
    assert not any(stats.queued_items.values())
    assert all((each.batches, each.items) == (0, 0) for each in stats.deployments)
    assert not any(
        each.items or each.tokens or each.accounts for each in pool._lanes.backlog.classes.values()
    )


def others() -> set["asyncio.Task[object]"]:
    """Every task but the one that asks."""
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}


class Text(str):
    """A text that can be watched: a plain string takes no weak reference."""


def watched(count: int, prefix: str) -> tuple[list[str], "list[weakref.ref[Text]]"]:
    made = [Text(f"{prefix}{i}") for i in range(count)]
    return list(made), [weakref.ref(text) for text in made]


async def cancel(call: "asyncio.Task[Ticket]") -> None:
    """The caller leaves."""
    call.cancel()
    with suppress(asyncio.CancelledError):
        await call
