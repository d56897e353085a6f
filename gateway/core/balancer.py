"""Which deployment takes the next batch: the least busy one that has room.

Busy is counted in outstanding items, since a batch of 32 is more work than a batch of one. The count
belongs to a `Permit`, which exists from the moment of the choice: whatever is decided before the bytes
leave already sees it.
"""

import random
from collections.abc import Collection, Iterator
from enum import Enum

from gateway.core.health import Health


class Outcome(Enum):
    SUCCESS = "success"
    FAILURE = "failure"
    IGNORED = "ignored"
    """Says nothing about the deployment: a caller's bad input, or we ended it ourselves."""


class Deployment:
    """What the balancer knows of one server: its health, its room and its work under way."""

    __slots__ = ("batches", "health", "in_flight_max", "items", "name", "weight")

    def __init__(self, name: str, health: Health, *, in_flight_max: int, weight: float = 1.0) -> None:
        self.name = name
        self.health = health
        self.in_flight_max = in_flight_max
        self.weight = weight
        self.batches = 0
        self.items = 0

    @property
    def has_room(self) -> bool:
        return self.health.is_up and self.batches < self.in_flight_max

    def __repr__(self) -> str:
        return (
            f"<Deployment {self.name} {self.health.state.value}, {self.batches} batches, {self.items} items>"
        )


class Permit:
    """The right to send one batch to `deployment`. Finish it exactly once, on every path."""

    __slots__ = ("_open", "deployment", "items")

    def __init__(self, deployment: Deployment, items: int) -> None:
        self.deployment = deployment
        self.items = items
        self._open = True
        deployment.batches += 1
        deployment.items += items

    def finish(self) -> None:
        assert self._open, "a permit is finished once"
        self._open = False
        self.deployment.batches -= 1
        self.deployment.items -= self.items


class Balancer:
    """The deployments of one pool."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._deployments: dict[str, Deployment] = {}

    def __iter__(self) -> Iterator[Deployment]:
        return iter(self._deployments.values())

    def __len__(self) -> int:
        return len(self._deployments)

    def add(self, deployment: Deployment) -> None:
        assert deployment.name not in self._deployments
        self._deployments[deployment.name] = deployment

    def remove(self, name: str) -> None:
        del self._deployments[name]

    @property
    def any_up(self) -> bool:
        return any(d.health.is_up for d in self._deployments.values())

    def up_besides(self, avoid: Collection[str]) -> bool:
        """Whether a deployment outside `avoid` is up, with room or not."""
        return any(d.health.is_up and d.name not in avoid for d in self._deployments.values())

    def rooms(self) -> int:
        """How many deployments could take a batch now."""
        return sum(d.has_room for d in self._deployments.values())

    def pick(self, items: int, avoid: Collection[str] = ()) -> Permit | None:
        """A permit for `items` items at the least busy deployment, or None when none has room.

        Ties are broken at random: in a fixed order the first deployment would get every batch of a
        lightly loaded pool.
        """
        best: list[Deployment] = []
        least = float("inf")
        for deployment in self._deployments.values():
            if not deployment.has_room or deployment.name in avoid:
                continue
            busy = deployment.items / deployment.weight
            if busy < least:
                best, least = [deployment], busy
            elif busy == least:
                best.append(deployment)
        if not best:
            return None
        if len(best) == 1 or least > 0:
            chosen = best[0] if len(best) == 1 else self._rng.choice(best)
        else:
            chosen = self._rng.choices(best, [d.weight for d in best])[0]
        return Permit(chosen, items)
