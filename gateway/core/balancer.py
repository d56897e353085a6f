"""Which deployment takes the next batch, and when it has room: the least expected time to an answer.

A deployment has room when it is idle, and before it gets idle: as soon as the work that it still has lasts
no longer than what a batch needs to get there (`Deployment.lead_s`). Sent earlier, a batch would only stand
in the server's own queue, and what arrives meanwhile could not join it. A full batch has nothing to wait for,
so one may stand there.

The count of work belongs to a `Permit`, which exists from the moment of the choice: whatever is decided
before the bytes leave already sees it.
"""

import math
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from enum import Enum

from gateway.core.health import Health
from gateway.core.lateness import Lateness
from gateway.core.service_time import ServiceTime, Shape
from gateway.core.sharing import Sharing

_IN_FLIGHT_MAX = 64
_BUSY_S = 10.0
_LEARNING = 4
_RUN_DRY_S = 5.0
"""So often a server is let get idle where much is sent ahead: only an idle one shows its latency, and by one
that is far too long it would never be idle again."""
_SAME_PASS = 0.25
"""An answer that comes so much sooner after the last than its work takes was made together with it."""
_TYPICAL = Shape(1, 8, 8 * 24)
_LOOKED_AT = 16
"""Of more deployments than that, so many are drawn at random and compared."""
_CONTESTED = 0.1
_CROWDED = 5
"""So many times that many others more than of ours, and beyond, are all alike: where all are crowded, to move
is no help."""
_NEARLY = 2.0
"""Where servers are shared, one is as good as another that would answer in so many times its time."""
_CANARY = Shape(1, 1, 3)
_SOONER, _SLOWER_MAX = 0.25, 0.02
_STALLED_S = 1.0
_STALLED_TIMES = 3.0
"""A deployment owes an answer for too long after so many times the 99th percentile, and a second."""
_LATE_TIMES = 3.0
"""What counts as that percentile, in expected times, while too few answers are known."""
_CANARY_TIMES, _CANARY_S_MIN = 8.0, 4.0
_LONGER_MAX = 3.0
"""So many times as long as any other probe a canary may take behind our own work."""
_PATIENCE_MAX, _PATIENCE_TIMES = 4.0, 2.0
_QUICK = 0.25
"""Who answers canaries behind our work in so much of that time needs less of it."""
_HEDGE_QUANTILE = 0.95

BREAKER_STATES = ("closed", "open", "half_open")


class Outcome(Enum):
    SUCCESS = "success"
    FAILURE = "failure"
    IGNORED = "ignored"
    """Says nothing about the deployment: a caller's bad input, or we ended it ourselves."""


class Deployment:
    """What the balancer knows of one server: its health, its speed and its work under way."""

    __slots__ = (
        "_alone", "_answered_at", "_busy", "_busy_at", "_free_at", "_idle_at", "_patience_s", "_permits",
        "_silent_since", "_since", "_suspect", "_work_s", "health", "in_flight_max", "items", "lateness",
        "name", "passed_over", "rank", "service", "sharing", "weight",
    )  # fmt: skip

    def __init__(
        self, name: str, health: Health, *, in_flight_max: int | None = None, weight: float = 1.0
    ) -> None:
        self.name = name
        self.health = health
        self.service = ServiceTime()
        self.lateness = Lateness()
        self.limit_to(in_flight_max)
        self.weight = weight
        self.items = 0
        self._permits: dict[Permit, None] = {}
        """Batches under way, in the order in which they were sent."""
        self._work_s = 0.0
        """Theirs."""
        self._free_at = 0.0
        """When the server will have done it."""
        self._answered_at = -math.inf
        self._idle_at = 0.0
        """When a batch was answered that had been sent while there was no other."""
        self._since = -math.inf
        """When it came up; what was sent before is of a process that is gone."""
        self._busy = 0.0
        self._busy_at = 0.0
        self.sharing = Sharing()
        self.rank = 0.0
        """Its place in the order in which this gateway goes where servers are shared."""
        self._alone: Mapping[str, float] | None = None
        """How fast it was when nobody else used it, if that is known."""
        self.passed_over = False
        """It stands idle though there is work, since others look so much faster."""
        self._patience_s = 0.0
        """For so long at least it may be silent, since it was taken for dead and had only been slow."""
        self._silent_since: float | None = None
        """When the canary was sent that it did not answer."""
        self._suspect: Permit | None = None
        """The batch under way that may be what killed another."""

    def limit_to(self, in_flight_max: int | None) -> None:
        """Most batches under way from now on; None: as many as keep it busy."""
        self.in_flight_max = in_flight_max or _IN_FLIGHT_MAX

    @property
    def batches(self) -> int:
        return len(self._permits)

    @property
    def speed(self) -> float:
        """Typical batches a second."""
        return 1 / max(1e-6, self.service.work_s(_TYPICAL))

    @property
    def is_new(self) -> bool:
        """Whether too little is known of it: then it gets one batch at a time."""
        return self.service.answers < _LEARNING

    @property
    def is_untried(self) -> bool:
        """Whether nothing at all is known of it: then it is asked before any other."""
        return not self.service.answers

    @property
    def lead_s(self) -> float:
        """How long before the server gets idle the next batch should leave: the time to get there, which is
        half of what a batch needs beside the work on it."""
        return self.service.latency_s / 2

    def remaining_s(self, now: float) -> float:
        """The work that the server still has. Of several batches only the first can be done without our
        having heard of it."""
        if not self._permits:
            return 0.0
        first = next(iter(self._permits))
        return max(self._free_at - now, self._work_s - first.work_s - self.service.latency_s, 0.0)

    def overdue_s(self, now: float) -> float:
        """How long ago the first batch should have been answered."""
        if not self._permits:
            return 0.0
        first = next(iter(self._permits))
        return max(0.0, now - first.sent - first.expected_s)

    @property
    def late_at(self) -> float:
        """When the first batch under way will be late; infinity if there is none."""
        first = next(iter(self._permits), None)
        return first.sent + _LATE_TIMES * first.expected_s if first else math.inf

    @property
    def breaker(self) -> str:
        """`closed` while it gets work, `open` while it does not, `half_open` while it has to prove itself."""
        if not self.health.is_up:
            return "open"
        return "closed" if self.health.takes_work and self.is_proven else "half_open"

    @property
    def is_proven(self) -> bool:
        """It has never gone down, or has answered some since."""
        return not (self.is_new and self.health.outages)

    @property
    def has_suspect(self) -> bool:
        """Whether it has a batch that may be what killed another."""
        return self._suspect is not None

    def is_stalled(self, now: float) -> bool:
        """Whether it has answered nothing for longer than its slowness explains."""
        if not self._permits:
            return False
        first = next(iter(self._permits))
        times = _STALLED_TIMES * (self.lateness.quantile(0.99) or _LATE_TIMES)
        return now - max(first.sent, self.health.answered_at) > max(_STALLED_S, times * first.expected_s)

    def canary_s(self, most: float) -> float:
        """How long a single short item may take: `most` as a rule, and longer behind much work of ours."""
        usual_s = most
        if not (self.is_new or self.sharing.is_shared):
            expected_s = self._work_s + self.service.work_s(_TYPICAL) + self.service.latency_s
            usual_s = min(_LONGER_MAX * most, max(_CANARY_S_MIN, _CANARY_TIMES * expected_s))
        return max(usual_s, min(_PATIENCE_MAX * usual_s, self._patience_s))

    def on_hang(self, asked: float) -> None:
        """It did not answer the canary of then. If it comes back and had not ended, it was slow: more
        patience then, by how long that took, or it would be taken out and back for as long as it is."""
        self._silent_since = asked

    def on_end(self) -> None:
        """It has ended, so that it was dead."""
        self._patience_s, self._silent_since = 0.0, None

    def is_late(self, permit: "Permit", now: float) -> bool:
        """Whether a batch under way takes longer than 95 of 100."""
        times = self.lateness.quantile(_HEDGE_QUANTILE)
        return times is not None and now - permit.sent > times * permit.expected_s

    def has_room(self, now: float, full: bool) -> bool:
        """Whether it may take a batch; `full` when there is enough for a full one."""
        if not self.health.takes_work:
            return False
        if not self._permits:
            return True
        count = len(self._permits)
        if count >= self.in_flight_max:
            return False
        if self.is_new:
            return all(permit.sent < self._since for permit in self._permits)
        if self.sharing.is_shared:
            return False  # When it gets idle is not ours to know, and what waits there, waits for others.
        if self._runs_dry(now):
            return False
        return (full and count < 2) or self.remaining_s(now) <= self.lead_s + 1e-9

    def room_at(self, now: float) -> float:
        """When it will have room again by itself; infinity if only an answer can tell."""
        if not self.health.takes_work or not 0 < len(self._permits) < self.in_flight_max:
            return math.inf
        if self.is_new or self.sharing.is_shared or self._runs_dry(now):
            return math.inf
        at = self._free_at - self.lead_s
        return at if at > now else math.inf

    def _runs_dry(self, now: float) -> bool:
        """Whether it is to get idle, so that its latency shows."""
        return now >= self._idle_at + _RUN_DRY_S and self.lead_s > self.service.work_s(_TYPICAL)

    def answer_s(self, shape: Shape, now: float, weight: float = 1.0) -> float:
        """How long until a batch of that shape would be answered, if it is sent now."""
        service = self.service
        if self.is_untried and not self._permits:
            return 0.0  # Or it would never be known, beside others that are. One answer shows who is slow.
        wait_s = self.remaining_s(now) + self.overdue_s(now)
        if self.sharing.others:
            wait_s += self.sharing.ahead * service.work_s(_TYPICAL)
        return (wait_s + service.work_s(shape)) / weight + service.latency_s

    def busy_ratio(self, now: float) -> float:
        """The share of the last seconds in which it had work: an exponential average over ten."""
        kept = math.exp((self._busy_at - now) / _BUSY_S)
        self._busy = self._busy * kept + bool(self._permits) * (1 - kept)
        self._busy_at = now
        return self._busy

    def begin(self, permit: "Permit", suspect: bool) -> float:
        """A batch is on its way; when it should be answered. Called by Permit alone."""
        self.busy_ratio(permit.sent)
        self._permits[permit] = None
        if suspect:
            self._suspect = permit
        self._work_s += permit.work_s
        self.items += permit.shape.items
        self._free_at = max(permit.sent, self._free_at) + permit.work_s
        return self._free_at + self.service.latency_s

    def on_sum(self, spent_s: float, now: float) -> None:
        """Requests, ours and those of others, have been with the server for `spent_s` in all."""
        sharing, service = self.sharing, self.service
        was_shared = sharing.is_shared
        sharing.on_sum(spent_s, now)
        if sharing.is_alone:
            self._alone = service.parameters
        elif sharing.is_shared and not was_shared:
            # What was learned since it was ours alone is mixed with the work for others.
            service.begin_anew(self._alone, sharing.others)

    def restart(self, now: float) -> None:
        """It came up: it may be another than it was."""
        if self._silent_since is not None:
            self._patience_s = _PATIENCE_TIMES * (now - self._silent_since)
            self._silent_since = None
        self._since = now
        self.sharing = Sharing()
        self.service.restart()

    def on_canary(self, sent: float, now: float) -> None:
        """A single short item was answered beside the batches. It says how fast a deployment is that stands
        idle because others look faster; nothing else would. Of any other it says less than the next batch:
        who comes to a server that others have had for a while would think it slow. One that came back
        proves itself by it.
        """
        self.sharing.on_answered(now - sent)
        if self._permits and now - sent < _QUICK * self._patience_s:
            self._patience_s /= 2
        service = self.service
        if self._permits or self._answered_at >= sent:
            return
        if not self.passed_over:
            if not self.is_proven:
                service.answers += 1
            return
        ratio = (now - sent) / max(1e-6, service.latency_s + service.work_s(_CANARY))
        if ratio < _SOONER:
            # What was learned was of another time, as that when its model was not warm yet. A single short
            # item says little of what longer ones cost, so that the proportions are kept.
            ratio = max(ratio, _SLOWER_MAX)
            service.begin_anew({name: value * ratio for name, value in service.parameters.items()})
        self.passed_over = False
        service.learn(_CANARY, True, now - sent)

    def end(self, permit: "Permit", now: float, *, tells: bool) -> None:
        """It has ended. Called by Permit alone."""
        self.busy_ratio(now)
        service = self.service
        del self._permits[permit]
        self.items -= permit.shape.items
        # (Not by subtraction: what is added and subtracted a million times drifts.)
        self._work_s = sum([other.work_s for other in self._permits])
        if self._suspect is permit:
            self._suspect = None
        self.sharing.on_answered(permit.shape.requests * (now - permit.sent))
        is_new = self.is_new
        if tells and not is_new:
            self.lateness.add((now - permit.sent) / max(1e-6, permit.expected_s))
        others = self.sharing.others if self.sharing.is_shared else 0.0
        if tells and (is_new or not others):  # or it would be the work for others that is learned
            # The server was done a latency ago, and before that with what was answered before.
            idle = permit.sent >= self._answered_at - service.latency_s
            if permit.met_idle:
                self._idle_at = now
                service.bound_latency(now - permit.sent)
            took_s = now - (permit.sent if idle else self._answered_at)
            # A server mixes what waits there. Of two batches that it did in one pass the second took no time:
            # learned, that would turn work into latency, and the longer lead have more of them wait there.
            if idle or took_s > _SAME_PASS * permit.work_s:
                # Who is new to a shared server learns a first guess: less the others' part (Little's law).
                service.learn(permit.shape, idle, took_s / (1 + others))
        self._answered_at = now
        self._free_at = now - service.latency_s + self._work_s

    @property
    def limit(self) -> int:
        """How many typical batches may be under way at once."""
        typical_s = max(1e-4, self.service.work_s(_TYPICAL))
        return int(min(self.in_flight_max, max(2, 1 + math.ceil(self.lead_s / typical_s))))

    def __repr__(self) -> str:
        return (
            f"<Deployment {self.name} {self.health.state.value}, {self.batches} batches, {self.items} items>"
        )


class Permit:
    """The right to send one batch to `deployment`. Finish it exactly once, on every path."""

    __slots__ = ("deployment", "expected_s", "met_idle", "open", "sent", "shape", "work_s")

    def __init__(self, deployment: Deployment, shape: Shape, now: float, *, suspect: bool = False) -> None:
        self.deployment = deployment
        self.shape = shape
        self.sent = now
        self.work_s = deployment.service.work_s(shape)
        self.met_idle = not deployment.batches
        self.expected_s = deployment.begin(self, suspect) - now
        self.open = True

    def finish(self, now: float, *, tells: bool = False) -> None:
        """The batch has ended; `tells` when how long it took says how fast the deployment is."""
        assert self.open, "a permit is finished once"
        self.open = False
        self.deployment.end(self, now, tells=tells)


class Balancer:
    """The deployments of one pool."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._deployments: dict[str, Deployment] = {}
        self._all: list[Deployment] = []
        self._contested = False
        """Whether others use some of them."""

    def __iter__(self) -> Iterator[Deployment]:
        return iter(self._deployments.values())

    def __len__(self) -> int:
        return len(self._deployments)

    def add(self, deployment: Deployment) -> None:
        assert deployment.name not in self._deployments
        self._deployments[deployment.name] = deployment
        self._all.append(deployment)
        deployment.rank = self._rng.random()

    def remove(self, name: str) -> None:
        self._all.remove(self._deployments.pop(name))

    @property
    def any_up(self) -> bool:
        for deployment in self._deployments.values():  # noqa: SIM110 - asked for each call, and twice as fast
            if deployment.health.is_up:
                return True
        return False

    def may_eject(self) -> bool:
        """Whether errors may take one more deployment out: half of them at most."""
        ejected = sum(d.health.is_ejected for d in self._all)
        return 2 * (ejected + 1) <= len(self._all)

    def idle(self) -> list[Deployment]:
        """Those that could work and have nothing to do, as far as they are known."""
        return [d for d in self._all if not d.batches and d.health.takes_work and not d.is_untried]

    def up_besides(self, avoid: Collection[str]) -> bool:
        """Whether a deployment outside `avoid` is up, with room or not."""
        return any(d.health.is_up and d.name not in avoid for d in self._deployments.values())

    def rooms(self, now: float, full: bool) -> list[Deployment]:
        """Those that could take a batch now, in no order."""
        return [d for d in self._all if d.has_room(now, full)]

    def settle(self) -> None:
        """Others may use the same servers, and know as little of us as we of them. What is known of them has
        changed: so that we meet less, each prefers servers that it uses itself and others use little, and
        among those has an order of its own.
        """
        self._contested = any(d.sharing.others > _CONTESTED for d in self._all if d.health.is_up)

    def speeds(self, rooms: Sequence[Deployment]) -> dict[Deployment, float]:
        """What each of `rooms` does a second, in typical batches; untried ones count as the slowest known."""
        if len(rooms) == 1:
            return dict.fromkeys(rooms, 1.0)
        known = {d: d.weight * d.speed for d in rooms if not d.is_untried}
        least = min((d.speed for d in known), default=1.0)
        return {d: known.get(d, d.weight * least) for d in rooms}

    def room_at(self, now: float) -> float:
        """When the next one will have room by itself."""
        return min((d.room_at(now) for d in self._all if d.batches), default=math.inf)

    def pick(
        self, rooms: Sequence[Deployment], shape: Shape, now: float, rest: Shape | None = None
    ) -> Deployment | None:
        """The one of `rooms` that would answer a batch of that shape first; where others use them too, of
        those that would answer nearly as soon one that is idle and that others use least.

        None when a deployment without room would be done with all that waits, `rest`, before that one
        answers: a slow server that stands idle is no help then.

        Ties are broken at random: in a fixed order the first deployment would get every batch of a
        lightly loaded pool.
        """
        looked_at = rooms if self._contested else self._some(rooms)
        finish = [(d.answer_s(shape, now, d.weight), d) for d in looked_at]
        least = min(time for time, _ in finish)
        if rest:
            soonest = min(d.answer_s(shape, now) for d in looked_at)
            for d in self._some(self._all):
                if d.batches and d.health.takes_work and d.answer_s(rest, now) < soonest and d not in rooms:
                    return None
        if self._contested:
            return min((d for time, d in finish if time <= _NEARLY * least), key=_preference)
        best = [d for time, d in finish if time <= least]
        if len(best) == 1:
            return best[0]
        return self._rng.choices(best, [d.weight for d in best])[0]

    def _some(self, deployments: Sequence[Deployment]) -> Sequence[Deployment]:
        return deployments if len(deployments) <= _LOOKED_AT else self._rng.sample(deployments, _LOOKED_AT)


def _preference(deployment: Deployment) -> tuple[bool, int, float]:
    """The idle first, and those that others use little, or less than we do: who is met by those who use a
    server more goes elsewhere, and they stay, so that gateways part the servers among them.
    """
    sharing = deployment.sharing
    steps = min(math.floor((sharing.others - sharing.own) / _CONTESTED), _CROWDED)
    return bool(deployment.batches), steps, deployment.rank
