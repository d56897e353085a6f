"""May this call come in? Not past the hard bounds on what one pool holds, nor when it would come too late."""

from collections.abc import Iterable

from gateway.core.backlog import Backlog
from gateway.core.balancer import Deployment
from gateway.core.fairness import SHARES
from gateway.core.service_time import Shape
from gateway.core.settings import AdmissionSettings, BatchingSettings
from gateway.errors import Overloaded

_LOOK_EVERY_S = 0.1
_MEMORY = 0.95
_BYTES_A_TOKEN = 4
_ITEMS = 16.0
"""In a batch, as long as none has left."""


class Admission:
    """Counts what is held, from `admit` to `release`."""

    __slots__ = ("_settings", "held_bytes", "held_items")

    def __init__(self, settings: AdmissionSettings) -> None:
        self._settings = settings
        self.held_items = 0
        self.held_bytes = 0

    def admit(self, items: int, size: int) -> None:
        """Count `items` items of `size` bytes together as held.

        Raises Overloaded, and counts nothing, when that would pass a bound.
        """
        settings = self._settings
        if self.held_items + items > settings.queued_items_max:
            raise Overloaded(f"{self.held_items} items are waiting for this model already; try again later")
        if self.held_bytes + size > settings.queued_bytes_max:
            raise Overloaded("too much text is waiting for this model already; try again later")
        self.held_items += items
        self.held_bytes += size

    def release(self, items: int, size: int) -> None:
        self.held_items -= items
        self.held_bytes -= size
        assert self.held_items >= 0 <= self.held_bytes


class Forecast:
    """When a call would be answered: what waits before it, over the speeds of the deployments together.

    It errs towards too soon: deployments of which little is known count as fast as the others, and what comes
    later and goes first does not count. Where nothing waits, or no speed is known, nobody is refused.
    """

    __slots__ = (
        "_backlog", "_batches", "_deployments", "_fixed_s", "_item_s", "_items", "_looks_at", "_padded",
        "_servers", "_share_max", "_token_s", "_tokens", "_tokens_max",
    )  # fmt: skip

    def __init__(
        self,
        settings: AdmissionSettings,
        batching: BatchingSettings,
        backlog: Backlog,
        deployments: Iterable[Deployment],
    ) -> None:
        self._share_max = settings.deadline_share_max
        self._tokens_max = batching.tokens_max
        self._backlog = backlog
        self._deployments = deployments
        # Of the last batches that left while more waited.
        self._batches, self._items = 1.0, _ITEMS
        self._tokens = self._padded = 1.0
        self._looks_at = 0.0
        self._servers = 0.0
        """How many they are, in servers of the mean speed; 0 when no speed is known."""
        self._item_s = self._token_s = self._fixed_s = 0.0
        """What an item and a token cost such a server, and what each call waits beside that."""

    def on_batch(self, shape: Shape, tokens: int) -> None:
        """A batch of so many tokens, without padding, has left while more waits."""
        self._batches = _MEMORY * self._batches + shape.requests
        self._items = _MEMORY * self._items + shape.items
        self._tokens = _MEMORY * self._tokens + tokens
        self._padded = _MEMORY * self._padded + shape.padded

    def late_s(
        self, call_class: str, caller: str, items: int, size: int, now: float, deadline: float
    ) -> float:
        """How long until a call of so many items and bytes would be answered; 0 if that is soon enough."""
        answer_s = self.answer_s(call_class, caller, items, size, now)
        return answer_s if answer_s > self._share_max * (deadline - now) else 0.0

    def answer_s(self, call_class: str, caller: str, items: int, size: int, now: float) -> float:
        """How long until a call would be answered; 0 when that is not known.

        At the latest when all that waits is done; when its class is, at its share of the servers; or when
        what its caller has there is, at his.
        """
        if now >= self._looks_at:
            self._look(now)
        if not self._servers:
            return 0.0
        tokens = min(size // _BYTES_A_TOKEN, items * self._tokens_max)
        classes = self._backlog.classes
        in_class, share = classes[call_class], SHARES[call_class]
        own = in_class.accounts.get(caller)
        callers = len(in_class.accounts) + (own is None)
        in_all_items = in_all_tokens = 0
        for each in classes.values():
            in_all_items += each.items
            in_all_tokens += each.tokens
        work_s = min(
            self._work_s(in_all_items + items, in_all_tokens + tokens),
            self._work_s(in_class.items + items, in_class.tokens + tokens) / share,
            self._work_s(own.items + items if own else items, own.tokens + tokens if own else tokens)
            * callers / share,
        )  # fmt: skip
        return self._fixed_s + work_s / self._servers

    def _work_s(self, items: int, tokens: int) -> float:
        return items * self._item_s + tokens * self._token_s

    def _look(self, now: float) -> None:
        """Look at the deployments anew."""
        self._looks_at = now + _LOOK_EVERY_S
        working = [each for each in self._deployments if each.health.takes_work]
        known = [each for each in working if not each.is_new]
        self._servers = 0.0
        if not known:
            return
        batches, padding = self._batches / self._items, self._padded / self._tokens
        tokens = self._tokens / self._items
        item_s, token_s = [], []
        for each in known:
            parameters = each.service.parameters
            item_s.append(parameters["o"] * batches + parameters["a"])
            token_s.append(parameters["b"] * padding)
        count = len(known)
        self._item_s, self._token_s = sum(item_s) / count, sum(token_s) / count
        mean_s = self._item_s + self._token_s * tokens
        if mean_s <= 0:
            return
        speeds = sum(
            mean_s / max(1e-9, own_s + of_token_s * tokens)
            for own_s, of_token_s in zip(item_s, token_s, strict=True)
        )
        self._servers = speeds * len(working) / count
        self._fixed_s = sum(d.remaining_s(now) + d.service.latency_s for d in known) / count
