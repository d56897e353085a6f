"""How much the caller with one key may ask for: requests and items a minute, and calls at once."""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from gateway.core.settings import KeySettings
from gateway.errors import BadRequest, RateLimited, TooManyCalls

_MINUTE_S = 60.0


class Bucket:
    """A token bucket that holds what comes in a minute, and is full at first: in no time t does it let more
    through than `limit` · (1 + t / 60 s).

    Its state is the moment at which it is full again, so it need not be filled.
    """

    __slots__ = ("_each_s", "_full_at", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._each_s = _MINUTE_S / limit
        self._full_at = -math.inf

    def full_s(self, now: float) -> float:
        """Until it is full."""
        return max(0.0, self._full_at - now)

    def left(self, now: float) -> int:
        """How many it lets through now."""
        return int((_MINUTE_S - self.full_s(now)) / self._each_s + 1e-6)

    def wait_s(self, count: int, now: float) -> float:
        """Until it lets `count` through, at most `limit`."""
        return max(0.0, self.full_s(now) + count * self._each_s - _MINUTE_S - 1e-6)

    def take(self, count: int, now: float) -> None:
        """To be called when there is nothing to wait for."""
        self._full_at = max(self._full_at, now) + count * self._each_s

    def give_back(self, count: int, taken: float, now: float) -> None:
        """What was taken then, less what may have come in its place since: a full bucket gets no more."""
        self._full_at -= max(0.0, count * self._each_s - (now - taken))


class Level(NamedTuple):
    """Where a bucket stands."""

    kind: str
    limit: int
    left: int
    full_s: float


class Quota:
    """One key, with what its calls use now."""

    __slots__ = ("items", "key", "requests", "under_way")

    def __init__(self, key: KeySettings) -> None:
        self.key = key
        self.requests = _bucket(key.requests_per_minute, None)
        self.items = _bucket(key.items_per_minute, None)
        self.under_way = 0

    def become(self, key: KeySettings) -> None:
        """The same caller by other rules. What is used stays used, unless its limit is another."""
        self.key = key
        self.requests = _bucket(key.requests_per_minute, self.requests)
        self.items = _bucket(key.items_per_minute, self.items)

    def levels(self, now: float) -> Iterator[Level]:
        for kind, bucket in (("requests", self.requests), ("items", self.items)):
            if bucket:
                yield Level(kind, bucket.limit, bucket.left(now), bucket.full_s(now))


class Claim:
    """What one call has of its key's quota, from its head to its end: `begin`, then `hold`, and in any case
    `end`, once.
    """

    __slots__ = ("_held", "_taken", "quota")

    def __init__(self, quota: Quota) -> None:
        self.quota = quota
        self._held = False
        self._taken: list[tuple[Bucket, int, float]] = []

    def begin(self, now: float) -> None:
        """Its head is here; RateLimited when it is one request too many."""
        if bucket := self.quota.requests:
            if wait_s := bucket.wait_s(1, now):
                raise _limited(f"this key may send {bucket.limit} requests a minute", wait_s)
            self._take(bucket, 1, now)

    def hold(self, items: int, now: float) -> None:
        """Its items are known, and it is to be answered. Takes nothing when it raises.

        Raises:
            BadRequest: it has more items than the key may ever send at once.
            TooManyCalls: others are under way.
            RateLimited: it is too early.
        """
        quota, most = self.quota, self.quota.key.concurrency
        bucket = quota.items
        if bucket and items > bucket.limit:
            raise BadRequest(
                f"this call has {items} items, and this key may send {bucket.limit} a minute; "
                "send them in smaller calls, a minute's worth at most"
            )
        if most is not None and quota.under_way >= most:
            raise TooManyCalls(f"this key may have {most} calls under way at once, and so many are")
        if bucket:
            if wait_s := bucket.wait_s(items, now):
                raise _limited(
                    f"this call has {items} items, and this key may send {bucket.limit} a minute", wait_s
                )
            self._take(bucket, items, now)
        self._held = True
        quota.under_way += 1

    def end(self, now: float, *, refused: bool) -> None:
        """Give its place back and, when it was refused for no fault of its own, all that it took."""
        if self._held:
            self._held = False
            self.quota.under_way -= 1
            assert self.quota.under_way >= 0
        taken, self._taken = self._taken, []
        if refused:
            for bucket, count, at in taken:
                bucket.give_back(count, at, now)

    def _take(self, bucket: Bucket, count: int, now: float) -> None:
        bucket.take(count, now)
        self._taken.append((bucket, count, now))


class Quotas:
    """The named keys, by the SHA-256 of each."""

    def __init__(self, keys: Iterable[KeySettings]) -> None:
        self._of: dict[bytes, Quota] = {}
        self.replace(keys)

    def find(self, digest: bytes) -> Quota | None:
        return self._of.get(digest)

    def replace(self, keys: Iterable[KeySettings]) -> None:
        """These keys and no others count from now on. Who keeps a name keeps what is used under it."""
        known = {quota.key.name: quota for quota in self._of.values()}
        found: dict[bytes, Quota] = {}
        for key in keys:
            quota = known.get(key.name)
            if quota:
                quota.become(key)
            found[key.digest] = quota or Quota(key)
        self._of = found


def _bucket(limit: int | None, known: Bucket | None) -> Bucket | None:
    if limit is None:
        return None
    return known if known and known.limit == limit else Bucket(limit)


def _limited(rule: str, wait_s: float) -> RateLimited:
    return RateLimited(f"{rule}; try again in {math.ceil(wait_s)} s", retry_after_s=wait_s)
