"""What leaves now, and for which deployment: the one place where lanes and balancer meet.

A batch leaves because a deployment has room. `dispatch` decides all that can be decided at one moment and
takes the permits at once; whoever drives it sends the batches, and asks again whenever a call arrives, a
batch ends, a deployment changes, or it is `wakes_at`.
"""

import math
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from gateway.core.balancer import Balancer, Deployment, Permit
from gateway.core.gathering import Gathering
from gateway.core.groups import Groups
from gateway.core.lanes import Batch, Lanes
from gateway.core.service_time import Shape
from gateway.errors import DeadlineExceeded

_LOOK_AGAIN_S = 0.05
_ALIVE_S = 0.1
"""A server that has answered so lately is taken to live."""
_TYPICAL_TOKENS = 24
"""Of one item, where a batch is not made yet."""


class Departure(NamedTuple):
    """A batch that leaves under a permit, which is taken already."""

    batch: Batch
    permit: Permit


class Dispatcher:
    """Decides for one pool. Times are those of the caller's clock, in seconds."""

    def __init__(
        self,
        lanes: Lanes,
        balancer: Balancer,
        give_up: Callable[[Batch], None],
        may_try: Callable[[Batch], bool] = lambda _: True,
        check: Callable[[Deployment], None] = lambda _: None,
    ) -> None:
        """`give_up` gets a batch that failed and that no other deployment is left for. `may_try` says
        whether a suspect may be sent now. `check` has a deployment asked whether it lives, since a suspect
        may go there.
        """
        self._lanes = lanes
        self._balancer = balancer
        self._give_up = give_up
        self._may_try = may_try
        self._check = check
        self._gathering = Gathering()
        self._groups = Groups()
        self._again: deque[Batch] = deque()
        """Batches that failed and wait for another deployment. They go before what is new."""
        self.wakes_at = math.inf
        """When to dispatch again though nothing has happened until then."""

    @property
    def has_work(self) -> bool:
        """Whether anything waits to be sent."""
        return self._lanes.waiting > 0 or bool(self._again)

    def on_call(self, now: float, items: int, *, idle: bool) -> None:
        """A call of so many items comes, which is to be queued next; `idle`: nothing is under way."""
        self._gathering.on_call(now, idle=idle and not self._lanes.waiting)
        self._groups.on_call(now, items)

    def on_answer(self, permit: Permit, items: int, now: float) -> None:
        """So many items of the batch of `permit`, which is not finished yet, were answered or have failed."""
        self._gathering.on_answer()
        if len(self._balancer) == 1:
            deployment, lanes = permit.deployment, self._lanes
            in_all = deployment.items + lanes.waiting
            is_one = in_all <= lanes.items_max and len(lanes) == 1 and not deployment.sharing.is_shared
            self._groups.on_answer(now, items, in_all if is_one else 0, permit.work_s)

    def again(self, batch: Batch) -> None:
        """Have a batch that failed sent elsewhere."""
        self._again.append(batch)

    def take_again(self) -> list[Batch]:
        """The batches that failed and were not sent elsewhere yet; they are the caller's now."""
        taken = list(self._again)
        self._again.clear()
        return taken

    def dispatch(self, now: float) -> list[Departure]:
        """What leaves now: failed batches first, then what waits, while a deployment has room."""
        self.wakes_at = math.inf
        leaving: list[Departure] = []
        if self._again:
            self._dispatch_again(now, leaving)
        lanes, balancer = self._lanes, self._balancer
        gathers_until = self._gathering.until(now)
        if gathers_until > now and lanes.waiting < lanes.items_max:
            self.wakes_at = gathers_until
            return leaving
        while lanes.waiting:
            rooms = balancer.rooms(now, full=False)
            if len(rooms) == len(balancer) == 1 and not lanes.full(now):
                leaves_at = self._groups.until(now, rooms[0].batches, rooms[0].late_at)
                if leaves_at > now:
                    self.wakes_at = leaves_at
                    break
            full = not rooms and lanes.full(now)
            if full:
                rooms = balancer.rooms(now, full=True)
            if not rooms or not self._dispatch_to(rooms, now, full, leaving):
                self.wakes_at = self._room_at(now, passed_over=bool(rooms))
                break
        return leaving

    def _dispatch_to(self, rooms: list[Deployment], now: float, full: bool, leaving: list[Departure]) -> bool:
        """A batch for each of `rooms`, as long as something waits; if they have room for `full` ones alone,
        as long as there is enough for one. False if nothing leaves.
        """
        lanes = self._lanes
        one = lanes.waiting == 1  # whose part is not to be asked for
        speeds = dict.fromkeys(rooms, 1.0) if one else self._balancer.speeds(rooms)
        together = sum(speeds.values())
        sent = False
        while rooms and (lanes.full(now) if full else lanes.waiting):
            waiting = lanes.waiting
            # Never more than a fair share: 32 items for four idle servers are answered sooner as 4 x 8.
            items = min(-(-waiting // len(rooms)), lanes.items_max)
            deployment = self._pick(rooms, items, waiting, now)
            if deployment is None:
                return sent
            part = speeds[deployment] / together
            share = waiting if full else max(1, math.ceil(waiting * part - 1e-9))
            if len(self._balancer) == 1:
                share = min(share, self._groups.items_max(deployment.items + waiting) or share)
            batch = lanes.take(share, deployment.service.ratio, now)
            if batch is None:
                return sent
            sent = True
            if deployment.batches:
                # Work that comes too late for everybody would make what follows late too. (A server that
                # stands idle is always asked: nothing else could tell that it is faster than was thought.)
                late = now + deployment.answer_s(batch.shape(), now)
                for entry in batch.drop_hopeless(late):
                    entry.fail(DeadlineExceeded("the servers have too much to do to answer in time"))
                if not batch.entries:
                    continue
            rooms.remove(deployment)
            together -= speeds[deployment]
            leaving.append(_departure(batch, deployment, now))
        return sent

    def _pick(self, rooms: list[Deployment], items: int, waiting: int, now: float) -> Deployment | None:
        """The one of `rooms` for so many items of those that wait; None when they had better wait on."""
        if len(self._balancer) == 1:
            return rooms[0]
        typical = Shape(1, items, items * _TYPICAL_TOKENS)
        rest = Shape(-(-waiting // self._lanes.items_max), waiting, waiting * _TYPICAL_TOKENS)
        return self._balancer.pick(rooms, typical, now, rest)

    def _dispatch_again(self, now: float, leaving: list[Departure]) -> None:
        balancer = self._balancer
        rooms: list[Deployment] | None = None
        for batch in self.take_again():
            batch.drop_ended()
            if not batch.entries:
                continue
            if rooms is None:
                rooms = balancer.rooms(now, full=True)
            able = [d for d in rooms if d.name not in batch.avoid]
            if batch.suspect:
                able = self._able_to_try(batch, able, now)
            if deployment := balancer.pick(able, batch.shape(), now) if able else None:
                leaving.append(_departure(batch, deployment, now))
                rooms = None
            elif balancer.up_besides(batch.avoid):
                self._again.append(batch)
            else:
                self._give_up(batch)

    def _able_to_try(self, suspect: Batch, able: list[Deployment], now: float) -> list[Deployment]:
        """Those that live for certain and have no other suspect: else nobody could tell what killed them."""
        able = [d for d in able if not d.has_suspect]
        if not able or not self._may_try(suspect):
            return []
        alive = [d for d in able if d.health.has_answered_since(now - _ALIVE_S)]
        if not alive:
            for deployment in able:
                self._check(deployment)
        return alive

    def _room_at(self, now: float, *, passed_over: bool) -> float:
        """When a deployment will have room, or what waits is ripe; and soon, when one that has room was
        passed over for one that looked better.
        """
        at = min(self._balancer.room_at(now), now + _LOOK_AGAIN_S if passed_over else math.inf)
        ripe_at = self._lanes.ripe_at()
        return min(at, ripe_at) if ripe_at is not None and ripe_at > now else at


def _departure(batch: Batch, deployment: Deployment, now: float) -> Departure:
    for entry in batch.entries:
        entry.early = len(entry.claims)
    return Departure(batch, Permit(deployment, batch.shape(), now, suspect=batch.suspect))
