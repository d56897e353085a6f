"""Core: lanes against the simplest thing that does the same."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.core.fairness import CLASSES
from gateway.core.lanes import Batch, BatchKey, Entry, Lanes, Ticket
from gateway.errors import BadRequest, ServerFailed
from gateway.messages import Task
from tests.core.lanes import EMBED, image, requeue, rerank, value_of

KEYS = [
    EMBED,
    EMBED._replace(params=b"1"),
    EMBED._replace(params=b"2"),
    EMBED._replace(params=b"3"),
    rerank("q"),
    rerank("r"),
    rerank("s"),
    rerank("q", b"1"),
]
PARAM_SETS_MAX = 2
TEXTS = [letter * length for length in (1, 1, 30, 40, 200, 3000) for letter in "abcd"]
"""Few, so that callers ask the same."""

Item = tuple[BatchKey, str]
Claim = tuple[Ticket, int]


class LanesAgainstModel(RuleBasedStateMachine):
    """The model: who asks for each item that waits, and for each that is under way."""

    tickets: "Bundle[Ticket]" = Bundle("tickets")

    def __init__(self) -> None:
        super().__init__()
        self.waiting: dict[Item, list[Claim]] = {}
        self.sent: dict[Item, list[Claim]] = {}
        self.early: dict[Item, int] = {}
        """How many of who asks for it did so before it was sent."""
        self.batches: list[Batch] = []
        self.asked: list[Ticket] = []
        self.alone = 0
        self.now = 0.0
        self.wait_s = 0.0
        self.items_max = 32
        self.lanes = Lanes()

    @initialize(items_max=st.sampled_from([1, 3, 8]), wait_s=st.sampled_from([0.0, 0.0, 2.0]))
    def begin(self, items_max: int, wait_s: float) -> None:
        self.items_max = items_max
        self.wait_s = wait_s
        self.lanes = Lanes(items_max=items_max, wait_s_max=wait_s, param_sets_max=PARAM_SETS_MAX)

    @invariant()
    def the_backlog_is_what_waits(self) -> None:
        classes = self.lanes.backlog.classes.values()
        assert sum(each.items for each in classes) == self.lanes.waiting == len(self.waiting)
        for each in classes:
            accounts = each.accounts.values()
            assert sum(account.items for account in accounts) == each.items
            assert sum(account.tokens for account in accounts) == each.tokens
            assert all(account.items > 0 for account in accounts)

    # Callers

    @rule(
        target=tickets,
        key=st.sampled_from(KEYS),
        items=st.lists(st.sampled_from(TEXTS), min_size=1, max_size=12),
        caller=st.sampled_from("xyz"),
    )
    def arrive(self, key: BatchKey, items: list[str], caller: str) -> Ticket:
        return self.add(key, items, caller)

    @precondition(lambda self: not self.wait_s)  # What stands alone has no reason to wait for company.
    @rule(target=tickets, params=st.sampled_from([b"", b"1", b"3"]), items=st.integers(1, 12))
    def arrive_alone(self, params: bytes, items: int) -> Ticket:
        self.alone += 1
        return self.add(image(self.alone, params), TEXTS[:items], "x")

    def add(self, key: BatchKey, items: list[str], caller: str) -> Ticket:
        sets = {known.params for known, _ in self.open} - {b"", key.params}
        refused = bool(key.params) and len(sets) >= PARAM_SETS_MAX
        asked = Ticket(key, items, self.now, caller=caller)
        expected = 0
        for position, text in enumerate(items):
            if refused:
                break
            if known := self.waiting.get((key, text)) or self.sent.get((key, text)):
                known.append((asked, position))
                expected += 1
            else:
                self.waiting[key, text] = [(asked, position)]
        try:
            shared = self.lanes.add(asked)
        except BadRequest:
            assert refused
            asked.leave()
            return asked
        assert not refused
        assert shared == expected
        asked.on_end = self.lanes.forget
        self.asked.append(asked)
        return asked

    @property
    def open(self) -> dict[Item, list[Claim]]:
        return self.waiting | self.sent

    @rule(ended=tickets)
    def leave(self, ended: Ticket) -> None:
        ended.leave()
        self.forget_ended()

    def forget_ended(self) -> None:
        """An item that waits and that nobody wants any more is gone; one under way stays where it is."""
        for item, claims in list(self.waiting.items()):
            self.waiting[item] = [claim for claim in claims if not claim[0].ended]
            if not self.waiting[item]:
                del self.waiting[item]

    @rule(pause=st.sampled_from([0.5, 1.0, 3.0]))
    def pass_time(self, pause: float) -> None:
        self.now += pause

    # Servers

    @rule(share=st.integers(1, 10), ratio=st.sampled_from([0.0, 20.0, 400.0, 1e6]))
    def take(self, share: int, ratio: float) -> None:
        ready = self.ready()
        turn = self.lanes._turns.head()
        batch = self.lanes.take(share, ratio, self.now)
        if batch is None:
            assert not ready
            return
        assert {entry.lane.key for entry in batch.entries} & ready
        most = min(share, self.items_max)
        assert batch.entries[0].lane.key.alone or len(batch) <= most
        if self.is_ripe():
            assert turn is not None
            assert turn in batch.tickets(), "whose turn it is leaves next"
        self.check_queries(batch)
        for entry in batch.entries:
            item = (entry.lane.key, entry.text)
            claims = self.waiting.pop(item)
            assert [claim for claim in entry.claims if not claim[0].ended] == claims
            assert item not in self.sent
            self.sent[item] = claims
            self.early[item] = len(claims)
        self.batches.append(batch)

    def check_queries(self, batch: Batch) -> None:
        """One request has one key. Several share a batch only for different queries, and after the first,
        lists are whole."""
        requests = batch.requests()
        assert sum(len(entries) for _, entries in requests) == len(batch)
        keys = [key for key, _ in requests]
        assert len(set(keys)) == len(keys)
        if len(keys) > 1:
            assert {key.task for key in keys} == {Task.RERANK}
            assert len({key.params for key in keys}) == 1
        for key, entries in requests[1:] if not keys[0].alone else requests:
            assert {e.text for e in entries} == {text for known, text in self.waiting if known == key}

    @precondition(lambda self: self.batches)
    @rule(which=st.integers(0, 100), how=st.sampled_from(["answered", "failed", "timed out", "retried"]))
    def end(self, which: int, how: str) -> None:
        batch = self.batches.pop(which % len(self.batches))
        if how == "retried":
            sent = [(entry.lane.key, entry.text) for entry in batch.entries]
            batch.drop_ended()
            for item in sent:
                if all(ticket.ended for ticket, _ in self.sent[item]):
                    del self.sent[item], self.early[item]
            assert {(entry.lane.key, entry.text) for entry in batch.entries} == set(sent) & set(self.sent)
            how = "answered"
        for entry in batch.entries:
            self.end_entry(entry, how)
        self.forget_ended()

    def end_entry(self, entry: Entry, how: str) -> None:
        item = (entry.lane.key, entry.text)
        claims, early = self.sent.pop(item), self.early.pop(item)
        if how == "answered":
            entry.put(value_of(*item), 1, 0.5)
        elif how == "failed":
            entry.fail(ServerFailed("failed"))
        else:
            late = [claim for claim in claims[early:] if not claim[0].ended]
            requeue(self.lanes, entry)
            if late:
                self.waiting[item] = late
        for ticket, _ in claims[:early] if how == "timed out" else claims:
            assert how == "answered" or ticket.ended

    # What is next

    def is_ripe(self) -> bool:
        oldest = self.oldest()
        return oldest is not None and oldest + self.wait_s <= self.now

    def oldest(self) -> float | None:
        claims = [claim for claims in self.waiting.values() for claim in claims]
        return min((ticket.arrived for ticket, _ in claims), default=None)

    def ready(self) -> set[BatchKey]:
        """The keys of which something may leave."""
        keys = [key for key, _ in self.waiting]
        if self.is_ripe():
            return set(keys)
        return {key for key in keys if keys.count(key) >= self.items_max}

    @invariant()
    def counts_are_exact(self) -> None:
        claims = [claim for claims in self.waiting.values() for claim in claims]
        assert self.lanes.waiting == len(self.waiting)
        assert self.lanes.items == len(claims)
        for name in CLASSES:
            assert self.lanes.queued[name] == sum(t.call_class == name for t, _ in claims)
        assert len(self.lanes) == len({key for key, _ in self.open})

    @invariant()
    def tickets_know_what_of_them_waits(self) -> None:
        claims = [claim for claims in self.waiting.values() for claim in claims]
        for each in self.asked:
            assert each.queued == sum(ticket is each for ticket, _ in claims)

    @invariant()
    def every_answer_is_for_who_asked(self) -> None:
        for each in self.asked:
            expected = [value_of(each.key, text) for text in each.items]
            assert all(got in (None, right) for got, right in zip(each.answers, expected, strict=True))
            if not each.missing:
                assert each.ended
                assert each.answers == expected

    @invariant()
    def it_says_when_to_come_back(self) -> None:
        oldest = self.oldest()
        if self.wait_s:
            assert self.lanes.ripe_at() == (None if oldest is None else oldest + self.wait_s)
        else:
            assert (self.lanes.ripe_at() is None) == (oldest is None)

    def teardown(self) -> None:
        """All that is left can be taken, each item once, and is answered; then nothing is held."""
        self.now += self.wait_s
        while self.waiting:
            before = len(self.waiting)
            self.take(10, 400.0)
            assert len(self.waiting) < before
        for batch in self.batches:
            for entry in batch.entries:
                self.end_entry(entry, "answered")
        assert all(each.ended for each in self.asked)
        assert (self.lanes.items, self.lanes.waiting, len(self.lanes)) == (0, 0, 0)
        assert not self.lanes._param_sets


TestLanesAgainstModel = LanesAgainstModel.TestCase
TestLanesAgainstModel.settings = settings(
    deadline=None, derandomize=True, max_examples=80, stateful_step_count=40
)
