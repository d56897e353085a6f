"""The two ways of loading a server: calls that come when they come, and callers who wait for each answer.

Times are those of the event loop, in seconds.
"""

import asyncio
import itertools
import math
import random
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, cast

from gateway.bench.wire import Connection, Destination

OK = 200
TOO_MANY = 429
# In place of a status, beside LOST.
REFUSED, TIMED_OUT, UNSENT = -1, -2, -3

_TICK_S = 0.01
_TICKS_A_LOOK = 10
_TIMER_S = 0.001
_KEEP_ALIVE_S = 4.0  # uvicorn closes a connection after 5 s without a request, and one used just then breaks
_AGAIN_S = 0.1  # before a caller whose connection was refused tries again
_AT_ONCE = 64  # connections that are opened together


@dataclass(frozen=True, slots=True)
class Result:
    connections: int
    """Most that were open at once."""
    seconds: float
    calls: int
    """Good answers that came within the measured time."""
    latencies_s: Sequence[float]
    """Sorted. Of good answers; a call without any counts with the time for which it was waited."""
    statuses: Counter[int] = field(default_factory=Counter)
    """What else calls ended with: other statuses than 200, LOST, REFUSED, TIMED_OUT, UNSENT."""
    ended: int = 0
    """Calls that ended, those before and after the measured time too."""
    waited: int = 0
    """Calls that had to wait for a connection, since as many as allowed were taken."""
    lag_s: float = 0.0
    """How late the load itself was: the 99th percentile of its event loop's lag."""
    core: float = 0.0
    """The share of a core that the load used."""

    @property
    def rate(self) -> float:
        """Calls answered a second."""
        return self.calls / self.seconds if self.seconds else 0.0

    @property
    def errors(self) -> int:
        return self.statuses.total()

    def percentile_ms(self, percent: float) -> float:
        return 1e3 * percentile(self.latencies_s, percent)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """NaN of nothing."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else math.nan


class Load(ABC):
    """Run once. When `run` is cancelled, `result` tells what there is."""

    _by_begin: ClassVar[bool]
    """Whether a call is of the measured time that began in it, or that ended in it."""

    def __init__(
        self, to: Destination, bodies: Iterator[bytes], seconds: float, warm_up_s: float, timeout_s: float
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._to = to
        self._bodies = bodies
        self._seconds = seconds
        self._warm_up_s = warm_up_s
        self._timeout_s = timeout_s
        self._done = self._loop.create_future()
        self._from = self._until = math.inf
        """The measured time, once it is known."""
        self._begun: dict[Connection, float] = {}
        """Calls under way: when each began."""
        self._tasks: set[asyncio.Task[None]] = set()
        """Each opens a connection."""
        self._open = self._open_max = 0
        self._latencies_s: list[float] = []
        self._statuses: Counter[int] = Counter()
        self._calls = self._ended = self._waited = 0
        self._lags_s: list[float] = []
        self._core = 0.0

    async def run(self) -> Result:
        watching = self._loop.create_task(self._watch())
        started, used_s = self._loop.time(), time.process_time()
        try:
            await self._start()
            await self._done
        finally:
            self._until = min(self._until, self._loop.time())
            self._core = (time.process_time() - used_s) / max(_TICK_S, self._loop.time() - started)
            self._stop()
            under_way, self._begun = self._begun, {}
            for connection in under_way:
                connection.close()
            tasks = [watching, *self._tasks]
            for task in tasks:
                task.cancel()
            # Transports close their sockets one turn later; so long this takes at least.
            await asyncio.gather(*tasks, return_exceptions=True)
        return self.result()

    def result(self) -> Result:
        return Result(
            connections=self._open_max,
            seconds=max(0.0, min(self._until, self._loop.time()) - self._from),
            calls=self._calls,
            latencies_s=sorted(self._latencies_s),
            statuses=self._statuses,
            ended=self._ended,
            waited=self._waited,
            lag_s=percentile(sorted(self._lags_s), 99) if self._lags_s else 0.0,
            core=self._core,
        )

    @abstractmethod
    async def _start(self) -> None: ...

    @abstractmethod
    def _stop(self) -> None:
        """Close what is idle, and let go of what waits."""

    @abstractmethod
    def _answered(self, connection: Connection, status: int) -> None:
        """A call has ended, or a connection is lost whose call was given up."""

    def _count(self, begun: float, status: int) -> None:
        now = self._loop.time()
        self._ended += 1
        self._calls += status == OK and self._from <= now <= self._until
        if self._from <= (begun if self._by_begin else now) <= self._until:
            if status != OK:
                self._statuses[status] += 1
            if status in (OK, TIMED_OUT, UNSENT):
                self._latencies_s.append(now - begun)

    def _expire(self, before: float) -> None:
        """Give up the calls that began `before`."""
        for connection in [each for each, begun in self._begun.items() if begun <= before]:
            self._count(self._begun.pop(connection), TIMED_OUT)
            connection.close()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connected(self) -> Connection | None:
        """A new connection, or None when there is none to be had."""
        try:
            async with asyncio.timeout(self._timeout_s):
                connection = await self._to.connect(self._answered)
        except OSError:  # of which TimeoutError is one
            return None
        self._open += 1
        self._open_max = max(self._open_max, self._open)
        return connection

    async def _watch(self) -> None:
        for tick in itertools.count(1):
            due = self._loop.time() + _TICK_S
            await asyncio.sleep(_TICK_S)
            now = self._loop.time()
            if self._from <= now:
                self._lags_s.append(max(0.0, now - due))
            if tick % _TICKS_A_LOOK == 0:
                self._expire(now - self._timeout_s)


class ClosedLoop(Load):
    """So many callers: each sends its next call when it has its answer.

    Latencies are those of callers who wait; they say nothing about what an open stream of calls would meet
    past the saturation point. Measuring begins when each caller has had an answer. A call that began before
    counts too when it ends: else slow answers would be missing from rate and latencies.
    """

    _by_begin = False

    def __init__(
        self,
        to: Destination,
        bodies: Iterator[bytes],
        callers: int,
        seconds: float,
        warm_up_s: float = 1.0,
        *,
        timeout_s: float = 60.0,
    ) -> None:
        super().__init__(to, bodies, seconds, warm_up_s, timeout_s)
        self._callers = callers
        self._cold: set[Connection] = set()
        """Those whose first answer is awaited."""
        self._started = 0.0

    async def _start(self) -> None:
        # All before the first call: a server on uvloop accepts one a turn, so later ones would be late.
        opened: list[Connection | None] = []
        while left := self._callers - len(opened):
            opened += await asyncio.gather(*(self._connected() for _ in range(min(left, _AT_ONCE))))
        self._started = self._loop.time()
        self._cold.update(connection for connection in opened if connection)
        for connection in opened:
            self._go_on(connection)

    def _stop(self) -> None:
        """Nothing is idle, and nothing waits."""

    def _answered(self, connection: Connection, status: int) -> None:
        begun = self._begun.pop(connection, None)
        if begun is not None:
            self._count(begun, status)
        self._warm(connection)
        self._go_on(connection)

    def _go_on(self, connection: Connection | None) -> None:
        """Let a caller send the next call, on another connection if need be, or leave."""
        now = self._loop.time()
        if now >= self._until:
            self._leave(connection)
        elif connection is None:
            self._count(now, REFUSED)
            self._warm(None)
            self._spawn(self._come_back(_AGAIN_S))
        elif connection.is_usable:
            request = self._to.request(next(self._bodies))
            self._begun[connection] = self._loop.time()
            connection.send(request)
        else:
            self._open -= 1
            self._spawn(self._come_back(0.0))

    async def _come_back(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        self._go_on(await self._connected())

    def _leave(self, connection: Connection | None) -> None:
        if connection:
            connection.close()
        self._callers -= 1
        if not self._callers and not self._done.done():
            self._done.set_result(None)

    def _warm(self, connection: Connection | None) -> None:
        """A caller may have had its first answer. After the last of these measuring begins at the end of a
        whole number of warm-ups, not with that answer: servers answer in bursts, and rates would show it."""
        if connection:
            self._cold.discard(connection)
        if not self._cold and self._from == math.inf:
            taken_s = self._loop.time() - self._started
            step_s = max(_TICK_S, self._warm_up_s)
            self._from = self._started + math.ceil(taken_s / step_s) * step_s
            self._until = self._from + self._seconds


class OpenLoop(Load):
    """Calls at random times, `rate` a second on average, whether or not those before have been answered.

    A latency counts from the moment at which the call was due. When no connection is free and no more may be
    opened, calls wait here, since their callers would have waited as well.
    """

    _by_begin = True

    def __init__(
        self,
        to: Destination,
        bodies: Iterator[bytes],
        rate: float,
        seconds: float,
        warm_up_s: float = 1.0,
        *,
        connections_max: int = 512,
        timeout_s: float = 30.0,
        seed: int = 1,
    ) -> None:
        super().__init__(to, bodies, seconds, warm_up_s, timeout_s)
        self._rate = rate
        self._connections_max = connections_max
        self._rng = random.Random(seed)
        self._due = 0.0
        self._idle: list[tuple[Connection, float]] = []
        """And since when; the last one is used next."""
        self._waiting: deque[tuple[float, bytes]] = deque()
        """Calls that were due, and when."""

    async def _start(self) -> None:
        now = self._loop.time()
        self._from = now + self._warm_up_s
        self._until = self._from + self._seconds
        self._due = now + self._rng.expovariate(self._rate)
        self._loop.call_at(min(self._due, self._until), self._arrive)

    def _stop(self) -> None:
        for connection, _ in self._idle:
            connection.close()
        self._idle.clear()
        self._waiting.clear()

    def _arrive(self) -> None:
        """Begin what is due by now."""
        now, arrived = self._loop.time(), 0
        while self._due <= now and self._due < self._until:
            # Timers are no finer than a millisecond; so much late is not the server's doing.
            begun = now if now - self._due <= _TIMER_S else self._due
            self._waiting.append((begun, next(self._bodies)))
            self._due += self._rng.expovariate(self._rate)
            arrived += 1
        if self._due < self._until:
            self._loop.call_at(self._due, self._arrive)
        elif now < self._until:
            self._loop.call_at(self._until, self._arrive)
        self._flow()
        if self._is_full():
            self._waited += min(arrived, max(0, len(self._waiting) - len(self._tasks)))

    def _is_full(self) -> bool:
        return self._open + len(self._tasks) >= self._connections_max

    def _flow(self) -> None:
        """Send what waits, as far as there are connections, and open what may be opened for the rest."""
        now = self._loop.time()
        while self._waiting and self._idle:
            connection, since = self._idle.pop()
            if connection.is_usable and now - since <= _KEEP_ALIVE_S:
                begun, body = self._waiting.popleft()
                self._begun[connection] = begun
                connection.send(self._to.request(body))
            else:
                self._open -= 1
                connection.close()
        while len(self._tasks) < len(self._waiting) and not self._is_full():
            self._spawn(self._open_one())
        over = now >= self._until and not (self._waiting or self._begun)
        if over and not self._done.done():
            self._done.set_result(None)

    async def _open_one(self) -> None:
        connection = await self._connected()
        self._tasks.discard(cast("asyncio.Task[None]", asyncio.current_task()))
        if connection:
            self._idle.append((connection, self._loop.time()))
        elif self._waiting:
            self._count(self._waiting.popleft()[0], REFUSED)
        self._flow()

    def _answered(self, connection: Connection, status: int) -> None:
        begun = self._begun.pop(connection, None)
        if begun is not None:
            self._count(begun, status)
        if connection.is_usable:
            self._idle.append((connection, self._loop.time()))
        else:
            self._open -= 1
        self._flow()

    def _expire(self, before: float) -> None:
        super()._expire(before)
        while self._waiting and self._waiting[0][0] <= before:
            self._count(self._waiting.popleft()[0], UNSENT)
        self._flow()
