"""May this call come in? Not past the hard bounds on what one pool holds, nor when it would come too late."""

from collections.abc import Iterable

from gateway.core.backlog import Backlog
from gateway.core.balancer import Deployment
from gateway.core.fairness import SHARES
from gateway.core.service_time import Shape
from gateway.core.settings import AdmissionSettings, BatchingSettings
from gateway.errors import Overloaded

SMALL_BODY_BYTES = 64 * 1024
_FOR_SMALL = 0.125
"""Of what all bodies may take, the part that large ones leave to small ones."""
_LOOK_EVERY_S = 0.1
_MEMORY = 0.95
_BYTES_A_TOKEN = 4
_OVERTAKEN_TIMES = 2.0
"""Who has more waiting than others is overtaken by what they send later, and waits for so much more."""
_LATE, _IN_TIME, _CAUTION_MAX = 1.02, 0.999, 3.0
"""Forecasts grow so with each call that was taken and came too late, and shrink with each that did not, until
one in twenty is late: servers fail, and turns are not exactly fair."""
_DOUBTFUL = 0.5
_ITEMS = 16.0
"""In a batch, as long as none has left."""


class Admission:
    """Counts what is held, from `admit` to `release`."""

    __slots__ = ("_settings", "held_bytes", "held_items")

    def __init__(self, settings: AdmissionSettings) -> None:
        self._settings = settings
        self.held_items = 0
        self.held_bytes = 0

    def become(self, settings: AdmissionSettings) -> None:
        """By other bounds from now on; what is held stays."""
        self._settings = settings

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


class Bodies:
    """Bytes of the bodies of all calls, from when they come until their calls are answered."""

    __slots__ = ("_most", "_most_of_large", "held")

    def __init__(self, most: int) -> None:
        self.become(most)
        self.held = 0

    def become(self, most: int) -> None:
        """So many from now on; what is held stays."""
        self._most = most
        self._most_of_large = most - int(_FOR_SMALL * most)

    def are_too_many(self, size: int, more: int = 0) -> bool:
        """Whether there is no room for one of `size` bytes, of which `more` are not counted yet. A part is
        kept for small ones.
        """
        return self.held + more > (self._most if size <= SMALL_BODY_BYTES else self._most_of_large)


class Forecast:
    """When a call would be answered: what waits before it, over the speeds of the deployments together.

    It errs towards too soon: deployments of which little is known count as fast as the others, and what comes
    later and goes first does not count. Where nothing waits, or no speed is known, nobody is refused.
    """

    __slots__ = (
        "_backlog", "_batches", "_caution", "_deployments", "_fixed_s", "_item_s", "_items", "_known",
        "_looks_at", "_padded", "_servers", "_share_max", "_token_s", "_tokens", "_tokens_max",
    )  # fmt: skip

    def __init__(
        self,
        settings: AdmissionSettings,
        batching: BatchingSettings,
        backlog: Backlog,
        deployments: Iterable[Deployment],
    ) -> None:
        self.become(settings, batching)
        self._backlog = backlog
        self._deployments = deployments
        # Of the last batches that left while more waited.
        self._batches, self._items = 1.0, _ITEMS
        self._tokens = self._padded = 1.0
        self._caution = 1.0
        self._looks_at = 0.0
        self._known: set[Deployment] = set()
        """Whose speed is known, if only from before its last outage."""
        self._servers = 0.0
        """How many they are, in servers of the mean speed; 0 when no speed is known."""
        self._item_s = self._token_s = self._fixed_s = 0.0
        """What an item and a token cost such a server, and what each call waits beside that."""

    def become(self, settings: AdmissionSettings, batching: BatchingSettings) -> None:
        """By other settings from now on; what is known stays."""
        self._share_max = settings.deadline_share_max
        self._tokens_max = batching.tokens_max

    def on_batch(self, shape: Shape, tokens: int) -> None:
        """A batch of so many tokens, without padding, has left while more waits."""
        self._batches = _MEMORY * self._batches + shape.requests
        self._items = _MEMORY * self._items + shape.items
        self._tokens = _MEMORY * self._tokens + tokens
        self._padded = _MEMORY * self._padded + shape.padded

    def on_end(self, *, late: bool) -> None:
        """A call has ended that was taken although it was `doubtful`."""
        self._caution = min(_CAUTION_MAX, max(1.0, self._caution * (_LATE if late else _IN_TIME)))

    def is_too_late(self, answer_s: float, time_s: float) -> bool:
        """Whether a call that has `time_s` left should not be taken. (One that has none ends by itself.)"""
        return 0 < self._share_max * time_s < answer_s

    def is_doubtful(self, answer_s: float, time_s: float) -> bool:
        """Whether it is expected so late that how it ends says how good the forecasts are."""
        return 0 < _DOUBTFUL * self._share_max * time_s < answer_s

    def answer_s(self, call_class: str, caller: str, items: int, size: int, now: float) -> float:
        """How long until a call would be answered; 0 when that is not known.

        When what its caller has waiting is done, at the part that callers and classes get of the servers; but
        the others have only so much waiting themselves.
        """
        if now >= self._looks_at:
            self._look(now)
        if not self._servers:
            return 0.0
        tokens = min(size // _BYTES_A_TOKEN, items * self._tokens_max)
        in_class = self._backlog.classes[call_class]
        own = in_class.accounts.get(caller)
        callers = len(in_class.accounts) + (own is None)
        own_s = in_all_s = self._work_s(items, tokens)
        if own:
            own_s += self._work_s(own.items, own.tokens)
        share = 1.0
        for each in self._backlog.classes.values():
            in_all_s += self._work_s(each.items, each.tokens)
            if each.items and each is not in_class:
                share = SHARES[call_class]
        work_s = min(own_s * callers / share, _OVERTAKEN_TIMES * in_all_s)
        return self._fixed_s + self._caution * work_s / self._servers

    def _work_s(self, items: int, tokens: int) -> float:
        return items * self._item_s + tokens * self._token_s

    def _look(self, now: float) -> None:
        """Look at the deployments anew."""
        self._looks_at = now + _LOOK_EVERY_S
        self._known = {each for each in self._deployments if not each.is_new or each in self._known}
        working = [each for each in self._deployments if each.health.takes_work]
        known = [each for each in working if each in self._known]
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
