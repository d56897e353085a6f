"""Core: what the caller with one key may ask for."""

import math
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from gateway.core.quota import Bucket, Claim, Quota, Quotas
from gateway.core.settings import KeySettings
from gateway.errors import BadRequest, RateLimited, TooManyCalls

A, B = b"a" * 32, b"b" * 32
CLOCK = 1e6
"""Any monotonic clock may be that late; its floats are still exact to a tenth of a nanosecond."""


def quota(
    requests: int | None = None, items: int | None = None, concurrency: int | None = None, name: str = "rag"
) -> Quota:
    return Quota(KeySettings(name, A, (), requests, items, concurrency))


def claim(of: Quota, items: int = 1, now: float = CLOCK) -> Claim:
    """One call, from its head to the queue."""
    made = Claim(of)
    made.begin(now)
    made.hold(items, now)
    return made


# The bucket


def test_a_bucket_holds_a_minutes_worth() -> None:
    """All of it may be asked for at once, and then nothing."""
    bucket = Bucket(60)

    assert bucket.wait_s(60, CLOCK) == 0
    bucket.take(60, CLOCK)

    assert bucket.left(CLOCK) == 0
    assert bucket.wait_s(1, CLOCK) == pytest.approx(1, abs=1e-5)
    assert bucket.wait_s(60, CLOCK) == pytest.approx(60, abs=1e-5)


def test_it_fills_evenly_and_not_beyond_its_limit() -> None:
    """One a second here, for a minute; an idle hour gives no more."""
    bucket = Bucket(60)
    bucket.take(60, CLOCK)

    assert [bucket.left(CLOCK + s) for s in (0.5, 1, 30.5, 60, 3600)] == [0, 1, 30, 60, 60]
    assert [bucket.full_s(CLOCK + s) for s in (0, 15, 60, 61)] == [60, 45, 0, 0]


@given(
    limit=st.integers(1, 10**6),
    taken=st.floats(0, 1),
    count=st.floats(0, 1),
    elapsed_s=st.floats(0, 120),
)
def test_the_time_to_wait_is_true(limit: int, taken: float, count: float, elapsed_s: float) -> None:
    """After it, and not a moment sooner, what is asked for is let through."""
    bucket, wanted = Bucket(limit), max(1, round(limit * count))
    bucket.take(round(limit * taken), CLOCK)
    now = CLOCK + elapsed_s

    wait_s = bucket.wait_s(wanted, now)

    assert bucket.wait_s(wanted, now + wait_s + 1e-5) == 0
    if wait_s > 1e-3:
        assert bucket.wait_s(wanted, now + wait_s - 1e-3) > 0


def test_what_is_given_back_is_not_there_twice() -> None:
    """What has come in its place since it was taken is not given back on top."""
    bucket = Bucket(60)
    bucket.take(60, CLOCK)
    bucket.take(30, CLOCK + 30)  # half of the first has come back

    bucket.give_back(60, CLOCK, CLOCK + 30)

    assert bucket.left(CLOCK + 30) == 30


class BucketMachine(RuleBasedStateMachine):
    """Takes, some of which are given back, at any pace."""

    takes: "Bundle[tuple[int, float]]" = Bundle("takes")

    @initialize(limit=st.sampled_from([1, 7, 60, 100_000]))
    def begin(self, limit: int) -> None:
        self.limit = limit
        self.now = CLOCK
        self.bucket = Bucket(limit)
        self.let_through: list[tuple[int, float]] = []

    @rule(seconds=st.one_of(st.floats(0, 0.01), st.floats(0, 5), st.floats(0, 200)))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(target=takes, share=st.floats(0, 1), patient=st.booleans())
    def take(self, share: float, patient: bool) -> tuple[int, float]:
        count = max(1, round(share * self.limit))
        if wait_s := self.bucket.wait_s(count, self.now):
            if not patient:
                return 0, self.now
            self.now += wait_s + 1e-5
            assert self.bucket.wait_s(count, self.now) == 0
        self.bucket.take(count, self.now)
        self.let_through.append((count, self.now))
        return count, self.now

    @rule(taken=consumes(takes))
    def give_back(self, taken: tuple[int, float]) -> None:
        count, at = taken
        if count:
            self.bucket.give_back(count, at, self.now)
            self.let_through.remove(taken)

    @invariant()
    def keeps_to_its_rate(self) -> None:
        """Between any two moments no more is let through than the limit and what comes in that time."""
        ends = self.let_through
        for first in range(len(ends)):
            through = 0
            for count, at in ends[first:]:
                through += count
                most = self.limit * (1 + (at - ends[first][1]) / 60)
                assert through <= most * (1 + 1e-6) + 1e-6

    @invariant()
    def is_never_more_than_full(self) -> None:
        assert 0 <= self.bucket.left(self.now) <= self.limit
        assert self.bucket.full_s(self.now) <= 60 + 1e-5


TestBucket = BucketMachine.TestCase
TestBucket.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


# The quota of a key


def test_requests_are_limited() -> None:
    """With the time until the next."""
    limited = quota(requests=2)
    claim(limited)
    claim(limited, now=CLOCK + 10)

    with pytest.raises(RateLimited, match=r"2 requests a minute; try again in 20 s") as caught:
        claim(limited, now=CLOCK + 10)

    assert caught.value.retry_after_s == pytest.approx(20, abs=1e-3)
    claim(limited, now=CLOCK + 30.001)


def test_items_are_limited() -> None:
    """However they are spread over calls."""
    limited = quota(items=100)
    claim(limited, 60)

    with pytest.raises(RateLimited, match=r"this call has 41 items, .* 100 a minute; try again in 1 s"):
        claim(limited, 41)
    claim(limited, 40)


def test_a_call_that_can_never_fit_is_told_so() -> None:
    """Later would be a lie."""
    limited = quota(items=100)

    with pytest.raises(BadRequest, match=r"101 items, and this key may send 100 a minute.*smaller calls"):
        claim(limited, 101)
    claim(limited, 100)


def test_calls_at_once_are_limited() -> None:
    """Whoever ends makes room for one."""
    limited = quota(concurrency=2)
    first, _ = claim(limited), claim(limited)

    with pytest.raises(TooManyCalls, match="2 calls under way"):
        claim(limited)
    first.end(CLOCK, refused=False)
    claim(limited)

    assert limited.under_way == 2


def test_a_place_is_given_back_once() -> None:
    """However often the end is said."""
    limited = quota(concurrency=1)
    held = claim(limited)
    held.end(CLOCK, refused=False)
    claim(limited)
    held.end(CLOCK, refused=True)

    assert limited.under_way == 1


@pytest.mark.parametrize("why", ["items", "concurrency", "size", "head"])
def test_a_refused_call_has_taken_nothing(why: str) -> None:
    """Whichever limit it met: a caller who comes again when told to is not refused for having asked."""
    limited = quota(requests=3, items=10, concurrency=1)
    busy = claim(limited, 9)
    if why != "concurrency":
        busy.end(CLOCK, refused=False)
    if why == "head":
        limited = quota(requests=1, items=10)
        claim(limited)
    before = list(limited.levels(CLOCK)), limited.under_way

    refused = Claim(limited)
    if why != "head":
        refused.begin(CLOCK)
    items = {"items": 2, "size": 11}.get(why, 1)
    step = partial(refused.begin, CLOCK) if why == "head" else partial(refused.hold, items, CLOCK)
    with pytest.raises((RateLimited, TooManyCalls, BadRequest)):
        step()
    refused.end(CLOCK, refused=True)

    assert (list(limited.levels(CLOCK)), limited.under_way) == before


def test_a_call_that_failed_otherwise_has_cost() -> None:
    """Who sends nonsense all day is limited too."""
    limited = quota(requests=1)
    nonsense = Claim(limited)
    nonsense.begin(CLOCK)
    nonsense.end(CLOCK, refused=False)

    with pytest.raises(RateLimited):
        Claim(limited).begin(CLOCK)


def test_levels_are_told_of_what_is_limited() -> None:
    """In requests and in items."""
    limited = quota(requests=60, items=600)
    claim(limited, 60)

    requests, items = limited.levels(CLOCK)

    assert (requests.kind, requests.limit, requests.left) == ("requests", 60, 59)
    assert (items.kind, items.limit, items.left) == ("items", 600, 540)
    assert items.full_s == pytest.approx(6)
    assert list(quota(concurrency=3).levels(CLOCK)) == []


class QuotaMachine(RuleBasedStateMachine):
    """Calls of one key that come, are refused, end, leave or are told to come again, in any order.

    The model: who holds a place, and what has been let through and when.
    """

    calls: "Bundle[Claim]" = Bundle("calls")

    @initialize(
        requests=st.sampled_from([None, 5]),
        items=st.sampled_from([None, 60]),
        concurrency=st.sampled_from([None, None, 3]),
    )
    def begin(self, requests: int | None, items: int | None, concurrency: int | None) -> None:
        self.quota = quota(requests, items, concurrency)
        self.now = CLOCK
        self.places: set[Claim] = set()
        self.let_through: list[tuple[float, int, Claim]] = []

    @rule(seconds=st.floats(0, 10))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(target=calls, items=st.integers(1, 64), patient=st.booleans())
    def come(self, items: int, patient: bool) -> Claim:
        """Who is patient comes again when told to: for a request, for the items, and then it is taken."""
        made, told = self.one(items), 0
        while patient and isinstance(made, RateLimited):
            told += 1
            assert told <= 2
            assert made.retry_after_s > 0
            self.now += made.retry_after_s + 1e-5
            made = self.one(items)
        return made if isinstance(made, Claim) else Claim(self.quota)

    def one(self, items: int) -> Claim | Exception:
        made, rules, before = Claim(self.quota), self.quota.key, self.lefts()
        full = rules.concurrency is not None and len(self.places) >= rules.concurrency
        error: Exception | None = None
        try:
            made.begin(self.now)
            made.hold(items, self.now)
        except (BadRequest, RateLimited, TooManyCalls) as caught:
            error = caught
            made.end(self.now, refused=not isinstance(error, BadRequest))
        match error:
            case None:
                assert not full
                self.places.add(made)
                self.let_through.append((self.now, items, made))
            case BadRequest():
                assert rules.items_per_minute is not None
                assert items > rules.items_per_minute
                self.let_through.append((self.now, 0, made))
            case _:
                assert self.lefts() == before
                assert full or isinstance(error, RateLimited)
        return error or made

    def lefts(self) -> list[int]:
        return [level.left for level in self.quota.levels(self.now)]

    @rule(call=calls, refused=st.booleans())
    def end(self, call: Claim, refused: bool) -> None:
        """However often."""
        call.end(self.now, refused=refused)
        if refused and call in self.places:
            self.let_through = [each for each in self.let_through if each[2] is not call]
        self.places.discard(call)

    @rule(concurrency=st.sampled_from([None, 1, 3]))
    def change(self, concurrency: int | None) -> None:
        key = self.quota.key
        rules = KeySettings(key.name, B, (), key.requests_per_minute, key.items_per_minute, concurrency)
        self.quota.become(rules)

    @invariant()
    def counts_who_is_under_way(self) -> None:
        assert self.quota.under_way == len(self.places)
        assert all(0 <= level.left <= level.limit for level in self.quota.levels(self.now))
        assert not any(math.isnan(level.full_s) for level in self.quota.levels(self.now))

    @invariant()
    def keeps_to_its_rates(self) -> None:
        """From any call on: requests and items, but for those of calls that got back what they took."""
        key = self.quota.key
        for first, (since, _, _) in enumerate(self.let_through):
            requests = items = 0
            for at, count, _ in self.let_through[first:]:
                requests, items, minutes = requests + 1, items + count, 1 + (at - since) / 60
                assert requests <= (key.requests_per_minute or math.inf) * minutes + 1e-3
                assert items <= (key.items_per_minute or math.inf) * minutes + 1e-3


TestQuota = QuotaMachine.TestCase
TestQuota.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


# Keys that change


def test_a_key_is_found_by_its_digest_alone() -> None:
    """And one that is taken out is not found any more."""
    quotas = Quotas([KeySettings("rag", A)])
    found = quotas.find(A)
    assert found is not None
    assert found.key.name == "rag"
    assert quotas.find(B) is None

    quotas.replace([KeySettings("other", B)])

    assert quotas.find(A) is None
    assert quotas.find(B) is not None


def test_who_keeps_a_name_keeps_what_is_used_under_it() -> None:
    """A new key, or another limit of calls, is no new minute; another rate is."""
    quotas = Quotas([KeySettings("rag", A, (), 1, 10, 2)])
    old = quotas.find(A)
    assert old is not None
    held = claim(old, 9)

    quotas.replace([KeySettings("rag", B, (), 1, 20, 1)])

    new = quotas.find(B)
    assert new is not None
    assert [level.left for level in new.levels(CLOCK)] == [0, 20]
    assert new.under_way == 1
    held.end(CLOCK, refused=False)
    assert new.under_way == 0
