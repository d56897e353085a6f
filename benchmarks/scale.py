"""What would many servers and several gateways do? A simulation that drives the very code of `gateway/core/`.

    python -m benchmarks.scale [--policies one,ours,…] [--loads 0.4,0.7,0.9] [--deployments 64] [--gateways 8]
        [--seconds 8] [--seed 1] [--quick] [--json FILE]

No sockets and no clock: a heap of what is due, and simulated time. Each policy meets the same arrivals,
deaths and returns. `ours` is gateways that do not know of each other; `one` is a single gateway in front of
all servers, with the same code and nothing hidden from it. The others choose as nginx, HAProxy or nobody do:
`least` requests under way, `turn` and `random`, each call alone and at once. `least+` and so on leave the
time and the company to our core and choose the deployment alone. They all share its health and its retries.

A server is one Infinity: it takes what waits there, at most 8 x 32 texts, by length, and works off one batch
after the other, each for o + a·n + b·n·longest, by its speed and some noise. l passes half before and half
after. Requests that wait there together are mixed. One server in ten is three times slower, and about one in
twenty-five is dead. The load is a day, by night half as high; `--loads` is its peak, as a share of what the
servers could do with full batches of one length each.

Simplified: all servers have answered a probe when the day begins, and a probe is one short text. Nothing else
is known of them: how fast they are is learned from answers and canaries.
"""

import argparse
import math
import random
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from heapq import heappop, heappush
from itertools import count, repeat
from operator import itemgetter
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from benchmarks import record
from benchmarks.texts import mixed_lengths
from gateway.core.balancer import Balancer, Deployment, Permit
from gateway.core.dispatcher import Dispatcher
from gateway.core.health import Health
from gateway.core.lanes import Batch, BatchKey, Lanes, Ticket
from gateway.core.packing import tokens_of
from gateway.core.retry import Failure, RetryBudget
from gateway.core.service_time import Shape
from gateway.core.settings import HealthSettings, RetrySettings
from gateway.errors import DeadlineExceeded, ServerFailed
from gateway.messages import Task
from gateway.pool.others import ASK_EVERY_S

_L, _O, _A, _B = 0.012, 0.020, 0.004, 0.0002
"""Seconds: latency, for each batch, for each text, for each padded token: a large model on a small GPU."""
_NOISE = 0.15
"""The deviation of the logarithm of the work."""
_SLOW_SHARE, _SLOWNESS = 0.1, 3.0
_UP_S, _DOWN_S = 48.0, 2.0
"""Means of how long servers live, and stay away."""
_ITEMS_MAX, _PASSES_MAX = 32, 8
_TIMEOUT_S = 5.0
"""How long a caller waits."""
_TURN_S = 0.001
"""One turn of a gateway's event loop: what happens in it is decided together."""
_WARM_UP = 0.25
"""The share of the day that is not counted: its night, in which speeds are learned."""
_EXPIRE_EVERY_S = 0.05
_KEY = BatchKey(Task.EMBED)
_HEALTH, _RETRY = HealthSettings(), RetrySettings()
_QUICK = {"loads": "0.3,0.6", "deployments": 24, "gateways": 4, "seconds": 6.0}
_HEAD = (
    *("load", "policy", "calls/s", "p50 ms", "p95 ms", "p99 ms", "p99 x", "lost %", "sent", "batch"),
    *("busiest", "idlest", "µs/batch", "µs/call"),
)
_ROW = "{:>5} {:<8} {:>8} {:>7} {:>7} {:>7} {:>6} {:>7} {:>5} {:>6} {:>8} {:>6} {:>9} {:>8}"


class Simulation:
    """Simulated time: what is due happens in order and takes no time of its own."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = count()

    def at(self, due: float, act: Callable[..., None], *arguments: Any) -> None:
        heappush(self._due, (due, next(self._order), act, arguments))

    def run(self, until: float) -> None:
        while self._due[0][0] < until:
            self.now, _, act, arguments = heappop(self._due)
            act(*arguments)


class Request:
    """What was sent to a server. It ends once: answered, failed or given up."""

    __slots__ = ("_on_end", "missing", "open", "tokens")

    def __init__(self, tokens: Sequence[int], on_end: Callable[[Failure | None], None]) -> None:
        self.tokens = tokens
        self.missing = len(tokens)
        self.open = True
        self._on_end = on_end

    def end(self, failure: Failure | None) -> None:
        if self.open:
            self.open = False
            self._on_end(failure)


class Server:
    """One Infinity. It does not know who asks, and never cancels."""

    def __init__(self, simulation: Simulation, speed: float, rng: random.Random, window: "Window") -> None:
        self.speed = speed
        self.busy_s = self.served_s = 0.0
        self.batches = self.items = self.deaths = 0
        self._simulation = simulation
        self._rng = rng
        self._window = window
        self._is_up = True
        self._held: dict[Request, float] = {}
        self._queue: list[tuple[int, Request]] = []
        self._passes: deque[list[tuple[int, Request]]] = deque()
        self._works = False

    def receive(self, request: Request) -> None:
        if not self._is_up:
            request.end(Failure.REFUSED)
            return
        self._held[request] = self._simulation.now
        self._queue += [(tokens, request) for tokens in request.tokens]
        if not self._works:
            self._work()

    def die(self) -> None:
        self._is_up = self._works = False
        self.deaths += 1
        for request in self._held:
            self._simulation.at(self._simulation.now + _L / 2, request.end, Failure.DISCONNECTED)
        for held in (self._held, self._queue, self._passes):
            held.clear()

    def come_back(self) -> None:
        self._is_up = True

    def _work(self) -> None:
        if not self._passes:
            most = _ITEMS_MAX * _PASSES_MAX
            taken = sorted(self._queue[:most], key=itemgetter(0))
            del self._queue[:most]
            self._passes.extend(taken[at : at + _ITEMS_MAX] for at in range(0, len(taken), _ITEMS_MAX))
        batch = self._passes.popleft()
        now = self._simulation.now
        work_s = _work_s([tokens for tokens, _ in batch]) / self.speed * self._rng.lognormvariate(0, _NOISE)
        self._works = True
        self.busy_s += self._window.overlap_s(now, now + work_s)
        self.batches += 1
        self.items += len(batch)
        self._simulation.at(now + work_s, self._done, batch, self.deaths)

    def _done(self, batch: list[tuple[int, Request]], deaths: int) -> None:
        if deaths != self.deaths:
            return
        for _, request in batch:
            request.missing -= 1
            if not request.missing:
                self.served_s += self._simulation.now - self._held.pop(request)
                self._simulation.at(self._simulation.now + _L / 2, request.end, None)
        self._works = False
        if self._passes or self._queue:
            self._work()


def _work_s(tokens: Sequence[int]) -> float:
    return _O + _A * len(tokens) + _B * len(tokens) * max(tokens)


class Window(NamedTuple):
    """The time that counts, and how long it is."""

    start: float
    end: float

    def overlap_s(self, start: float, end: float) -> float:
        return max(0.0, min(self.end, end) - max(self.start, start))


class Tally:
    """What became of the calls that arrived within the window."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.waited_s: list[float] = []
        """What has failed or came too late counts as the whole time that its caller waits."""
        self.answered = 0
        self.lost = 0
        self.batches = self.items = self.calls = 0
        self.core_s = 0.0

    def ended(self, ticket: Ticket, now: float) -> None:
        start, end = self.window
        self.calls += 1
        self.answered += ticket.error is None and start <= now < end
        if start <= ticket.arrived < end:
            self.lost += ticket.error is not None
            self.waited_s.append(_TIMEOUT_S if ticket.error else now - ticket.arrived)


class Gateway:
    """One pool, as gateway/pool/pool.py drives it."""

    items_max = _ITEMS_MAX

    def __init__(
        self,
        simulation: Simulation,
        servers: Sequence[Server],
        balancer: Balancer,
        tally: Tally,
        counts_at: float,
    ) -> None:
        self._simulation = simulation
        self._balancer = balancer
        self._tally = tally
        self._lanes = Lanes(items_max=self.items_max)
        self._budget = RetryBudget(_RETRY)
        self._dispatcher = Dispatcher(self._lanes, balancer, _give_up)
        self._scheduled = False
        self._wakes_at = math.inf
        self._servers: dict[Deployment, Server] = {}
        self._looks_at: dict[Deployment, float] = {}
        simulation.at(counts_at, self._ask_sums)
        for number, server in enumerate(servers):
            health = Health(_HEALTH, 0.0)
            health.on_probe_answer(0.0)
            deployment = Deployment(str(number), health)
            self._servers[deployment] = server
            self._balancer.add(deployment)
            self._look_later(deployment)

    def _ask_sums(self) -> None:
        """As gateway/pool/others.py does."""
        now = self._simulation.now
        for deployment, server in self._servers.items():
            deployment.on_sum(server.served_s, now)
        self._balancer.settle()
        self._simulation.at(now + ASK_EVERY_S, self._ask_sums)

    def ask(self, ticket: Ticket) -> None:
        started = perf_counter()
        ticket.on_end = self._ended
        self._lanes.add(ticket)
        self._tally.core_s += perf_counter() - started
        self._schedule()

    def _ended(self, ticket: Ticket) -> None:
        self._lanes.forget(ticket)
        self._tally.ended(ticket, self._simulation.now)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._simulation.at(self._simulation.now + _TURN_S, self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        started = perf_counter()
        self._dispatch(self._simulation.now)
        self._tally.core_s += perf_counter() - started

    def _dispatch(self, now: float) -> None:
        for batch, permit in self._dispatcher.dispatch(now):
            self._send(batch, permit)
        at = self._dispatcher.wakes_at
        if at < self._wakes_at:
            self._wakes_at = at
            self._simulation.at(at, self._wake, at)

    def _wake(self, at: float) -> None:
        if at == self._wakes_at:
            self._wakes_at = math.inf
            self._turn()

    def _send(self, batch: Batch, permit: Permit) -> None:
        now = permit.sent
        self._budget.on_batch(now)
        self._tally.batches += 1
        self._tally.items += len(batch)

        def on_end(failure: Failure | None) -> None:
            self._answered(batch, permit, failure)

        request = Request([entry.tokens for entry in batch.entries], on_end)
        self._simulation.at(now + _L / 2, self._servers[permit.deployment].receive, request)
        self._simulation.at(batch.deadline, request.end, Failure.TIMEOUT)

    def _answered(self, batch: Batch, permit: Permit, failure: Failure | None) -> None:
        started = perf_counter()
        now = self._simulation.now
        if failure is None:
            permit.deployment.health.on_answer(now)
            for entry in batch.entries:
                entry.put(b"", 1, now - permit.sent)
        else:
            self._failed(batch, permit, failure, now)
        permit.finish(now, tells=failure is None)
        self._tally.core_s += perf_counter() - started
        self._schedule()

    def _failed(self, batch: Batch, permit: Permit, failure: Failure, now: float) -> None:
        deployment = permit.deployment
        batch.drop_ended()
        if failure is Failure.TIMEOUT:
            deployment.health.suspect()
        else:
            refused = failure is Failure.REFUSED
            deployment.health.on_failure(now, failure.value, refused=refused, asked=permit.sent)
        self._look_later(deployment)
        batch.tries += 1
        batch.avoid = (*batch.avoid, deployment.name)
        if batch.entries and self._budget.allows(failure, batch.tries, now):
            self._dispatcher.again(batch)
        else:
            _give_up(batch)

    def _look_later(self, deployment: Deployment) -> None:
        """As gateway/pool/member.py watches."""
        due = max(deployment.health.probe_at(), self._simulation.now)
        self._looks_at[deployment] = due
        self._simulation.at(due, self._look, deployment, due)

    def _look(self, deployment: Deployment, due: float) -> None:
        if due != self._looks_at[deployment]:
            return
        now = self._simulation.now
        if deployment.health.probe_at() > now:
            self._look_later(deployment)
            return
        was_up = deployment.health.is_up

        def on_end(failure: Failure | None) -> None:
            self._probed(deployment, now, was_up, failure)

        self._looks_at[deployment] = math.inf
        request = Request([tokens_of("ping")], on_end)
        self._simulation.at(now + _L / 2, self._servers[deployment].receive, request)
        self._simulation.at(now + _HEALTH.probe_timeout_s, request.end, Failure.TIMEOUT)

    def _probed(self, deployment: Deployment, asked: float, was_up: bool, failure: Failure | None) -> None:
        health, now = deployment.health, self._simulation.now
        if failure:
            if health.is_up and health.has_answered_since(asked):
                health.on_answer(now)
            else:
                health.on_failure(now, failure.value, refused=True)
        elif not was_up:
            if health.on_probe_answer(now):
                deployment.restart(now)
        elif health.is_up:
            deployment.on_canary(asked, now)
            health.on_probe_answer(now)
        self._look_later(deployment)
        self._schedule()


def _give_up(batch: Batch) -> None:
    for entry in batch.entries:
        entry.fail(ServerFailed("given up"))


class Proxy(Gateway):
    """As a reverse proxy works: each call leaves alone and at once, for a server that is up."""

    items_max = 1

    def _dispatch(self, now: float) -> None:
        for failed in self._dispatcher.take_again():
            failed.drop_ended()
            if failed.entries:
                up = [d for d in self._balancer.rooms(now, full=True) if d.name not in failed.avoid]
                self._leave(failed, up, now)
        up = self._balancer.rooms(now, full=True)
        while up and (batch := self._lanes.take(1, 0.0, now)):
            self._leave(batch, up, now)

    def _leave(self, batch: Batch, up: list[Deployment], now: float) -> None:
        deployment = self._balancer.pick(up, batch.shape(), now) if up else None
        if deployment is None:
            _give_up(batch)
        else:
            self._send(batch, Permit(deployment, batch.shape(), now))


class Blind(Balancer):
    """Chooses any, and knows no speeds; `at_once` nor whether one has room."""

    def __init__(self, rng: random.Random, *, at_once: bool) -> None:
        super().__init__(rng)
        self._at_once = at_once

    def rooms(self, now: float, full: bool) -> list[Deployment]:
        if self._at_once:
            return [deployment for deployment in self if deployment.health.is_up]
        return super().rooms(now, full)

    def speeds(self, rooms: Sequence[Deployment]) -> dict[Deployment, float]:
        return dict.fromkeys(rooms, 1.0)

    def pick(
        self, rooms: Sequence[Deployment], _shape: Shape, _now: float, _rest: Shape | None = None
    ) -> Deployment:
        return self._rng.choice(rooms)


class LeastRequests(Blind):
    def pick(
        self, rooms: Sequence[Deployment], _shape: Shape, _now: float, _rest: Shape | None = None
    ) -> Deployment:
        least = min(deployment.items for deployment in rooms)
        return self._rng.choice([deployment for deployment in rooms if deployment.items == least])


class RoundRobin(Blind):
    def __init__(self, rng: random.Random, *, at_once: bool) -> None:
        super().__init__(rng, at_once=at_once)
        self._order: deque[Deployment] = deque()

    def add(self, deployment: Deployment) -> None:
        super().add(deployment)
        self._order.insert(self._rng.randint(0, len(self._order)), deployment)

    def pick(
        self, rooms: Sequence[Deployment], _shape: Shape, _now: float, _rest: Shape | None = None
    ) -> Deployment:
        order = self._order
        while order[0] not in rooms:
            order.rotate(-1)
        order.rotate(-1)
        return order[-1]


POLICIES: dict[str, tuple[type[Gateway], Callable[[random.Random], Balancer]]] = {
    "one": (Gateway, Balancer),
    "ours": (Gateway, Balancer),
    "least": (Proxy, partial(LeastRequests, at_once=True)),
    "turn": (Proxy, partial(RoundRobin, at_once=True)),
    "random": (Proxy, partial(Blind, at_once=True)),
    "least+": (Gateway, partial(LeastRequests, at_once=False)),
    "turn+": (Gateway, partial(RoundRobin, at_once=False)),
    "random+": (Gateway, partial(Blind, at_once=False)),
}


def simulate(policy: str, load: float, options: argparse.Namespace) -> dict[str, Any]:
    """One day under one policy. What befalls it depends on the seed and the load alone."""
    seconds, number = options.seconds, options.deployments
    window = Window(_WARM_UP * seconds, seconds)
    simulation, tally = Simulation(), Tally(window)
    rngs = {name: random.Random(f"{name} {options.seed}") for name in ("calls", "callers", "deaths", "noise")}
    servers = [
        Server(simulation, 1 / _SLOWNESS if at < _SLOW_SHARE * number else 1.0, rngs["noise"], window)
        for at in range(number)
    ]
    for server in servers:
        at = rngs["deaths"].expovariate(1 / _UP_S)
        while at < seconds:
            simulation.at(at, server.die)
            at += rngs["deaths"].expovariate(1 / _DOWN_S)
            simulation.at(at, server.come_back)
            at += rngs["deaths"].expovariate(1 / _UP_S)
    driver, balancer = POLICIES[policy]
    gateways = [
        driver(
            simulation,
            servers,
            balancer(random.Random(f"{options.seed} {at}")),
            tally,
            ASK_EVERY_S * at / options.gateways,
        )
        for at in range(1 if policy == "one" else options.gateways)
    ]
    texts = mixed_lengths(8192)
    peak = load * sum(server.speed for server in servers) * _rate(texts)
    calls = _calls(peak, seconds, rngs["calls"])
    waiting: deque[Ticket] = deque()

    def arrive(serial: int) -> None:
        now = simulation.now
        text = f"{texts[serial % len(texts)]} {serial}"
        ticket = Ticket(_KEY, [text], now, now + _TIMEOUT_S)
        waiting.append(ticket)
        rngs["callers"].choice(gateways).ask(ticket)
        simulation.at(next(calls), arrive, serial + 1)

    def expire() -> None:
        while waiting and waiting[0].deadline <= simulation.now:
            waiting.popleft().fail(DeadlineExceeded("too late"))
        simulation.at(simulation.now + _EXPIRE_EVERY_S, expire)

    simulation.at(next(calls), arrive, 0)
    expire()
    simulation.run(seconds + _TIMEOUT_S + 1)
    return _row(policy, load, tally, servers)


def _rate(texts: Sequence[str]) -> float:
    """Texts a second of a server of speed 1 if each batch is full and of one length."""
    tokens = sorted(map(tokens_of, texts))
    return len(tokens) / sum(
        _work_s(tokens[at : at + _ITEMS_MAX]) for at in range(0, len(tokens), _ITEMS_MAX)
    )


def _calls(peak: float, seconds: float, rng: random.Random) -> Iterator[float]:
    """When calls arrive: half as many at midnight as at noon, `peak` a second; from then on never."""
    at = 0.0
    while (at := at + rng.expovariate(peak)) < seconds:
        if rng.random() < 0.75 - 0.25 * math.cos(2 * math.pi * at / seconds):
            yield at
    yield from repeat(math.inf)


def _row(policy: str, load: float, tally: Tally, servers: Sequence[Server]) -> dict[str, Any]:
    waited_s = sorted(tally.waited_s)
    start, end = tally.window
    busy = [server.busy_s / (end - start) for server in servers if not server.deaths]
    return {
        "load": load,
        "policy": policy,
        "rate": tally.answered / (end - start),
        **{f"p{p}_ms": 1e3 * waited_s[len(waited_s) * p // 100] for p in (50, 95, 99)},
        "lost_percent": 100 * tally.lost / len(waited_s),
        "sent": tally.items / tally.batches,
        "batch": sum(server.items for server in servers) / sum(server.batches for server in servers),
        "busiest": max(busy),
        "idlest": min(busy),
        "core_us_batch": 1e6 * tally.core_s / tally.batches,
        "core_us_call": 1e6 * tally.core_s / tally.calls,
    }


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    print(_ROW.format(*_HEAD), flush=True)
    for load in map(float, options.loads.split(",")):
        best = math.nan
        for policy in options.policies.split(","):
            row = simulate(policy, load, options)
            if policy == "one":
                best = row["p99_ms"]
            row["p99_ratio"] = row["p99_ms"] / best
            rows.append(row)
            print(
                _ROW.format(
                    f"{load:.0%}", policy, f"{row['rate']:.0f}",
                    *(f"{row[f'p{p}_ms']:.0f}" for p in (50, 95, 99)), f"{row['p99_ratio']:.2f}",
                    f"{row['lost_percent']:.3f}", f"{row['sent']:.1f}", f"{row['batch']:.1f}",
                    f"{row['busiest']:.2f}", f"{row['idlest']:.2f}", f"{row['core_us_batch']:.0f}",
                    f"{row['core_us_call']:.0f}",
                ),
                flush=True,
            )  # fmt: skip
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument("--loads", default="0.4,0.7,0.9")
    parser.add_argument("--deployments", type=int, default=64)
    parser.add_argument("--gateways", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.quick:
        vars(options).update(_QUICK)
    rows = measure(options)
    if options.json:
        record.write(options.json, rows, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
