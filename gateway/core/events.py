"""What happened, as frozen records. The parts below the edge report; metrics and the log listen.

A listener is called in the event loop and must neither block nor raise.
"""

from collections.abc import Callable
from typing import NamedTuple

from gateway.core.balancer import Outcome


class RequestEnded(NamedTuple):
    """One HTTP request of a caller was answered, or its caller left (status 499)."""

    route: str
    model: str
    status: int
    duration_s: float
    items: int
    queue_s: float
    upstream_s: float


class CallServed(NamedTuple):
    """A call got its answer."""

    model: str
    call_class: str
    items: int
    tokens: int
    queue_s: float


class BatchEnded(NamedTuple):
    model: str
    deployment: str
    outcome: Outcome
    reason: str
    """Empty on success, else the kind of failure."""
    items: int
    calls: int
    fill_ratio: float
    padding_ratio: float
    """The share of a padded batch that is padding: 1 - sum of lengths / (items x longest)."""
    duration_s: float


class BadAnswerSeen(NamedTuple):
    model: str
    deployment: str
    reason: str


class BatchRetried(NamedTuple):
    model: str
    reason: str


class Hedged(NamedTuple):
    """A batch that was late had been sent to a second deployment as well, and one of the two is answered."""

    model: str
    outcome: str
    """`won` when the second was sooner, `lost` when the first was, `failed` when neither gave an answer."""


class ItemsShared(NamedTuple):
    """Items of a call that somebody else had asked for already, and that are not sent again."""

    model: str
    items: int


class CacheUsed(NamedTuple):
    """A call's items were looked up in the cache."""

    model: str
    hits: int
    misses: int


class FellBack(NamedTuple):
    model: str
    to: str


class CallRejected(NamedTuple):
    reason: str


class InputRefused(NamedTuple):
    """An input that made servers fail is refused for a while."""

    model: str
    fingerprint: str
    """Hexadecimal; it tells nothing of the input but whether another is the same."""
    seconds: float


class KeysRead(NamedTuple):
    """The file of keys was read, at the start or since it has changed."""

    path: str
    keys: int
    problem: str = ""
    """Why it cannot be used; the keys of before stay."""


class ConfigRead(NamedTuple):
    """The configuration was read again."""

    path: str
    problems: tuple[str, ...] = ()
    """Why it cannot be used; that of before stays."""
    fixed: tuple[str, ...] = ()
    """Settings that differ and need a restart; those of before stay."""
    changed: bool = True


class AddressesFound(NamedTuple):
    """A name has other addresses than before."""

    name: str
    addresses: int
    come: tuple[str, ...]
    gone: tuple[str, ...]


class LookUpFailed(NamedTuple):
    """A name could not be looked up; the addresses of before stay."""

    name: str
    addresses: int
    why: str


class NameGone(NamedTuple):
    """A name is not looked up any more."""

    name: str


class DeploymentChanged(NamedTuple):
    model: str
    deployment: str
    up: bool
    why: str


class VectorsReplaced(NamedTuple):
    """What the vectors of a pool must be is another than before: as this deployment gives them."""

    model: str
    deployment: str


class DeploymentGone(NamedTuple):
    model: str
    deployment: str


Event = (
    RequestEnded
    | CallServed
    | BatchEnded
    | BadAnswerSeen
    | BatchRetried
    | Hedged
    | ItemsShared
    | CacheUsed
    | FellBack
    | CallRejected
    | InputRefused
    | KeysRead
    | ConfigRead
    | AddressesFound
    | LookUpFailed
    | NameGone
    | DeploymentChanged
    | DeploymentGone
    | VectorsReplaced
)
Observer = Callable[[Event], None]
