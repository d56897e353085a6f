"""Inputs that may kill servers.

What was under way at a server that died is suspected: it is sent once more, alone, and to one server at a
time. One that had two servers die is refused for a while, so that no input walks through all of them.

Where it does not show at once whether a server died of what it had, the next that is heard of it decides:
as long as a server owes an answer to an input, and has answered nothing that it was asked later, it may have
died of it.
"""

import hashlib
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from gateway.core.lanes import BatchKey

_DEATHS_MAX = 2
REFUSED_S = 300.0
_DOUBTED_S = 10.0
"""For so long only, where the second server lost the connection and lives."""
_ONE_DEATH_S = 0.5
"""Connections break one after the other when a server dies."""
_KNOWN_MAX = 4096
_PENDING_MAX = 256


class Verdict(Enum):
    SUSPECTED = "suspected"
    REFUSED = "refused"


class Quarantine:
    """What is known of such inputs. False when that is nothing."""

    __slots__ = ("_accused", "_cases", "_convicted", "_on_refused", "_trials", "_unanswered")

    def __init__(self, on_refused: Callable[[bytes], None] = lambda _: None) -> None:
        """`on_refused` gets the fingerprint of what is refused from now on."""
        self._on_refused = on_refused
        self._cases: dict[bytes, _Case] = {}
        """In the order of their last deaths; the oldest go when there are too many."""
        self._accused: dict[str, list[_Pending]] = {}
        """Deployment → what it failed on, alone. To blame, if the deployment is well."""
        self._unanswered: dict[str, list[_Pending]] = {}
        """Deployment → what it had when it did not answer."""
        self._convicted: dict[str, list[_Pending]] = {}
        """Deployment → what is refused since it lost the connection, and may have done so and live."""
        self._trials: set[bytes] = set()
        """What is under way alone."""

    def __bool__(self) -> bool:
        return bool(self._cases or self._accused or self._unanswered)

    def on_death(self, deployment: str, key: BatchKey, text: str, now: float) -> None:
        """A server died while it had `text`, or lost the connection."""
        print_ = fingerprint(key, text)
        if self._count(deployment, print_, now).is_refused(now):
            _put(self._convicted, deployment, print_, now)

    def on_error(self, deployment: str, key: BatchKey, text: str, alone: bool, now: float) -> None:
        """A server said that it failed. Twice for the same may be the input's fault, if the second server is
        well otherwise."""
        print_ = fingerprint(key, text)
        if alone:
            _put(self._accused, deployment, print_, now)
        elif print_ not in self._cases:
            self._count(deployment, print_, now)

    def on_silence(self, deployment: str, key: BatchKey, text: str, sent: float) -> None:
        """A server did not answer in time, and nobody knows yet whether it ever will."""
        _put(self._unanswered, deployment, fingerprint(key, text), sent)

    def on_answer(self, key: BatchKey, text: str) -> None:
        """`text` was answered."""
        self._cases.pop(fingerprint(key, text), None)

    def on_alive(self, deployment: str, asked: float, now: float) -> None:
        """It has answered something that it was asked then."""
        _take_before(self._unanswered, deployment, asked)
        for accused in _take_before(self._accused, deployment, asked):
            self._refuse(accused.print_, REFUSED_S, now)
        for convicted in _take_before(self._convicted, deployment, asked):
            if case := self._cases.get(convicted.print_):
                # A connection was lost and no server. Another such loss, and it is refused again.
                case.refused_until = min(case.refused_until, now + _DOUBTED_S)
                del case.deaths[1:]

    def on_dead(self, deployment: str, now: float) -> None:
        """It has gone down."""
        self._accused.pop(deployment, None)
        self._convicted.pop(deployment, None)
        for silent in self._unanswered.pop(deployment, ()):
            self._count(deployment, silent.print_, now)

    def on_gone(self, deployment: str) -> None:
        """It is no more."""
        for known in (self._accused, self._unanswered, self._convicted):
            known.pop(deployment, None)

    def verdict(self, key: BatchKey, text: str, now: float) -> Verdict | None:
        self._forget(now)
        print_ = fingerprint(key, text)
        case = self._cases.get(print_)
        if case and case.is_refused(now):
            return Verdict.REFUSED
        return Verdict.SUSPECTED if case or self._silences(print_) else None

    def deaths(self, key: BatchKey, text: str) -> int:
        """How many servers have died while they had it."""
        case = self._cases.get(fingerprint(key, text))
        return len(case.deaths) if case else 0

    def begin_trial(self, key: BatchKey, text: str) -> None:
        """It is under way alone."""
        self._trials.add(fingerprint(key, text))

    def end_trial(self, key: BatchKey, text: str) -> None:
        self._trials.discard(fingerprint(key, text))

    def may_try(self, key: BatchKey, text: str, now: float) -> bool:
        """Whether a suspect may be sent now, alone: not while it is under way so, or could be what two
        servers are silent about. True also once it is refused, for then there is nothing to wait for."""
        print_ = fingerprint(key, text)
        if print_ in self._trials:
            return False
        case = self._cases.get(print_)
        if case and case.is_refused(now):
            return True
        return (len(case.deaths) if case else 0) + self._silences(print_) < _DEATHS_MAX

    def _silences(self, print_: bytes) -> int:
        return sum(
            any(pending.print_ == print_ for pending in silent) for silent in self._unanswered.values()
        )

    def _count(self, deployment: str, print_: bytes, now: float) -> "_Case":
        """One more server has died of it, maybe."""
        case = self._cases.pop(print_, None) or _Case()
        self._cases[print_] = case
        case.until = now + REFUSED_S
        if not any(
            death.deployment == deployment and now <= death.at + _ONE_DEATH_S for death in case.deaths
        ):
            case.deaths.append(_Death(deployment, now))
        if len(case.deaths) >= _DEATHS_MAX:
            self._refuse(print_, REFUSED_S, now)
        if len(self._cases) > _KNOWN_MAX:
            del self._cases[next(iter(self._cases))]
        return case

    def _refuse(self, print_: bytes, for_s: float, now: float) -> None:
        case = self._cases.setdefault(print_, _Case())
        if not case.is_refused(now):
            self._on_refused(print_)
        case.until = case.refused_until = now + for_s

    def _forget(self, now: float) -> None:
        """As far as the oldest are over."""
        while self._cases:
            oldest = next(iter(self._cases))
            if self._cases[oldest].until > now:
                return
            del self._cases[oldest]


class _Death(NamedTuple):
    deployment: str
    at: float


class _Case:
    """An input, and the servers that died while they had it."""

    __slots__ = ("deaths", "refused_until", "until")

    def __init__(self) -> None:
        self.deaths: list[_Death] = []
        self.until = 0.0
        self.refused_until = 0.0

    def is_refused(self, now: float) -> bool:
        return self.refused_until > now


class _Pending(NamedTuple):
    print_: bytes
    at: float
    """What the server is asked later says something about it."""


def fingerprint(key: BatchKey, text: str) -> bytes:
    """Of what the model sees; parameters do not change that."""
    seen = f"{key.task}\0{key.modality}\0{key.query or ''}\0{text}"
    return hashlib.blake2b(seen.encode(errors="surrogatepass"), digest_size=16).digest()


def _put(pending: dict[str, list[_Pending]], deployment: str, print_: bytes, at: float) -> None:
    found = pending.setdefault(deployment, [])
    if len(found) < _PENDING_MAX:
        found.append(_Pending(print_, at))


def _take_before(pending: dict[str, list[_Pending]], deployment: str, asked: float) -> list[_Pending]:
    """Take out what is older than that."""
    found = pending.pop(deployment, [])
    if left := [each for each in found if each.at >= asked]:
        pending[deployment] = left
    return [each for each in found if each.at < asked]
