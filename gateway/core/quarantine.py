"""Inputs that may kill servers.

What was under way at a server that died is suspected: it is sent once more, each item alone. One that is
there when a second server dies is refused for a while, so that no input walks through all servers.

Where it does not show at once whether a server died of what it had, the next that is heard of it decides.
And where servers die again and again of whatever they have, it is not the inputs.
"""

import hashlib
from enum import Enum
from typing import TypeVar

from gateway.core.lanes import BatchKey

_Item = TypeVar("_Item")

_SUSPECTED_S = 60.0
REFUSED_S = 300.0
_WELL_S = 60.0
"""A server that has died since, and of something else, is no witness."""
_ONE_DEATH_S = 0.5
"""Connections break one after the other when a server dies."""
_KNOWN_MAX = 4096
_PENDING_MAX = 256


class Verdict(Enum):
    SUSPECTED = "suspected"
    REFUSED = "refused"


class Quarantine:
    """What is known of such inputs. False when that is nothing."""

    __slots__ = ("_accused", "_deaths", "_unanswered", "_until")

    def __init__(self) -> None:
        self._until: dict[bytes, tuple[Verdict, float]] = {}
        """In the order of the verdicts; the oldest go when there are too many."""
        self._deaths: dict[str, _Death] = {}
        """Deployment → its last."""
        self._accused: dict[str, list[bytes]] = {}
        """Deployment → what it failed on, alone. To blame, if the deployment is well."""
        self._unanswered: dict[str, list[tuple[bytes, Verdict]]] = {}
        """Deployment → what it had when it did not answer, and what that means if it answers no more."""

    def __bool__(self) -> bool:
        return bool(self._until or self._accused or self._unanswered)

    def on_death(self, deployment: str, key: BatchKey, text: str, alone: bool, now: float) -> None:
        """A server died while it had `text`, which was `alone` among suspects."""
        self._on_death(deployment, fingerprint(key, text), _verdict(alone), now)

    def on_error(self, deployment: str, key: BatchKey, text: str, alone: bool, now: float) -> None:
        """A server said that it failed. Twice for the same may be the input's fault, if the second server is
        well otherwise."""
        print_ = fingerprint(key, text)
        if alone:
            _put(self._accused, deployment, print_)
        else:
            self._judge(print_, Verdict.SUSPECTED, now)

    def on_silence(self, deployment: str, key: BatchKey, text: str, alone: bool) -> None:
        """A server did not answer in time, and nobody knows yet whether it ever will."""
        _put(self._unanswered, deployment, (fingerprint(key, text), _verdict(alone)))

    def on_answer(self, key: BatchKey, text: str) -> None:
        """`text` was answered."""
        self._until.pop(fingerprint(key, text), None)

    def on_alive(self, deployment: str, now: float) -> None:
        """It has answered something."""
        self._unanswered.pop(deployment, None)
        for print_ in self._accused.pop(deployment, ()):
            self._judge(print_, Verdict.REFUSED, now)

    def on_dead(self, deployment: str, now: float) -> None:
        """It has gone down."""
        self._accused.pop(deployment, None)
        for print_, verdict in self._unanswered.pop(deployment, ()):
            self._on_death(deployment, print_, verdict, now)

    def on_gone(self, deployment: str) -> None:
        """It is no more."""
        for known in (self._accused, self._unanswered, self._deaths):
            known.pop(deployment, None)

    def verdict(self, key: BatchKey, text: str, now: float) -> Verdict | None:
        self._forget(now)
        verdict, until = self._until.get(fingerprint(key, text), (None, 0.0))
        return verdict if until > now else None

    def _on_death(self, deployment: str, print_: bytes, verdict: Verdict, now: float) -> None:
        death = self._deaths.get(deployment)
        if death is None or now > death.at + _ONE_DEATH_S:
            death = self._deaths[deployment] = _Death(now, death)
        before = death.before
        if before and before.at > now - _WELL_S and print_ not in before.had:
            verdict = Verdict.SUSPECTED
        if len(death.had) < _PENDING_MAX:
            death.had.add(print_)
        self._judge(print_, verdict, now)

    def _judge(self, print_: bytes, verdict: Verdict, now: float) -> None:
        self._until.pop(print_, None)
        self._until[print_] = verdict, now + (REFUSED_S if verdict is Verdict.REFUSED else _SUSPECTED_S)
        if len(self._until) > _KNOWN_MAX:
            del self._until[next(iter(self._until))]

    def _forget(self, now: float) -> None:
        """As far as the oldest are over."""
        while self._until:
            oldest = next(iter(self._until))
            if self._until[oldest][1] > now:
                return
            del self._until[oldest]


class _Death:
    """Of a server: when, what it had, and the one before that."""

    __slots__ = ("at", "before", "had")

    def __init__(self, at: float, before: "_Death | None") -> None:
        self.at = at
        self.had: set[bytes] = set()
        self.before = before
        if before:
            before.before = None


def fingerprint(key: BatchKey, text: str) -> bytes:
    """Of what the model sees; parameters do not change that."""
    seen = f"{key.task}\0{key.modality}\0{key.query or ''}\0{text}"
    return hashlib.blake2b(seen.encode(errors="surrogatepass"), digest_size=16).digest()


def _verdict(alone: bool) -> Verdict:
    return Verdict.REFUSED if alone else Verdict.SUSPECTED


def _put(lists: dict[str, list[_Item]], name: str, item: _Item) -> None:
    found = lists.setdefault(name, [])
    if len(found) < _PENDING_MAX:
        found.append(item)
