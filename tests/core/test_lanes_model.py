"""Core: lanes against the simplest thing that does the same."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.core.fairness import CLASSES
from gateway.core.lanes import BatchKey, Lanes, Ticket
from gateway.errors import BadRequest
from tests.core.lanes import EMBED, content, image, rerank, ticket

KEYS = [
    EMBED,
    EMBED._replace(params=b"1"),
    EMBED._replace(params=b"2"),
    EMBED._replace(params=b"3"),
    rerank("q"),
    rerank("r"),
    rerank("q", b"1"),
]
PARAM_SETS_MAX = 2
Waiting = list[tuple[Ticket, int]]


class LanesAgainstModel(RuleBasedStateMachine):
    """The model is a list of all that waits, in order of arrival; it is looked through for everything."""

    tickets: "Bundle[Ticket]" = Bundle("tickets")

    def __init__(self) -> None:
        super().__init__()
        self.waiting: Waiting = []
        self.taken: Waiting = []
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

    @rule(target=tickets, key=st.sampled_from(KEYS), items=st.integers(1, 12))
    def arrive(self, key: BatchKey, items: int) -> Ticket:
        return self.add(key, items)

    @precondition(lambda self: not self.wait_s)  # What stands alone has no reason to wait for company.
    @rule(target=tickets, params=st.sampled_from([b"", b"1", b"3"]), items=st.integers(1, 12))
    def arrive_alone(self, params: bytes, items: int) -> Ticket:
        self.alone += 1
        return self.add(image(self.alone, params), items)

    def add(self, key: BatchKey, items: int) -> Ticket:
        sets = {waiting.key.params for waiting, _ in self.waiting} - {b""}
        refused = bool(key.params) and key.params not in sets and len(sets) >= PARAM_SETS_MAX
        try:
            added = ticket(self.lanes, items, key, self.now)
        except BadRequest:
            assert refused
            return Ticket(key, ["refused"], self.now)
        assert not refused
        self.waiting += [(added, position) for position in range(items)]
        return added

    @rule(ended=tickets)
    def leave(self, ended: Ticket) -> None:
        ended.leave()
        self.waiting = [(waiting, position) for waiting, position in self.waiting if waiting is not ended]

    @rule(pause=st.sampled_from([0.5, 1.0, 3.0]))
    def pass_time(self, pause: float) -> None:
        self.now += pause

    @rule(share=st.integers(1, 10))
    def take(self, share: int) -> None:
        expected = self.next_batches(share)
        batch = self.lanes.take(share, self.now)
        if batch is None:
            assert not expected
            return
        found = content(batch)
        assert found in expected
        assert all(entry.ticket.key == batch.key for entry in batch.entries)
        self.waiting = [entry for entry in self.waiting if entry not in found]
        self.taken += found

    @rule()
    def answer(self) -> None:
        """What was taken is answered, which ends the calls of which nothing waits."""
        for entry_ticket, position in self.taken:
            entry_ticket.put(position, b"answer", 1)
        self.taken = []

    def next_batches(self, share: int) -> list[Waiting]:
        """The batches of which `take` must give one: none when nothing is ripe."""
        if not self.waiting:
            return []
        head = self.waiting[0][0]
        if head.arrived + self.wait_s <= self.now:
            return [self.cut(head.key, share)]
        keys = dict.fromkeys(waiting.key for waiting, _ in self.waiting)
        full = [key for key in keys if sum(w.key == key for w, _ in self.waiting) >= self.items_max]
        return [self.cut(key, share) for key in full]

    def cut(self, key: BatchKey, share: int) -> Waiting:
        lane = [entry for entry in self.waiting if entry[0].key == key]
        return lane if key.alone else lane[: min(share, self.items_max)]

    @invariant()
    def counts_are_exact(self) -> None:
        assert self.lanes.items == len(self.waiting)
        for name in CLASSES:
            assert self.lanes.queued[name] == sum(w.call_class == name for w, _ in self.waiting)
        assert len(self.lanes) == len({waiting.key for waiting, _ in self.waiting})

    @invariant()
    def tickets_know_what_of_them_waits(self) -> None:
        for each in {waiting for waiting, _ in self.waiting}:
            assert each.queued == sum(waiting is each for waiting, _ in self.waiting)

    @invariant()
    def it_says_when_to_come_back(self) -> None:
        expected = self.waiting[0][0].arrived + self.wait_s if self.waiting else None
        assert self.lanes.ripe_at() == expected

    def teardown(self) -> None:
        """All that is left can be taken, each item once."""
        self.now += self.wait_s
        while batch := self.lanes.take(10, self.now):
            found = content(batch)
            assert found == self.cut(self.waiting[0][0].key, 10)
            self.waiting = [entry for entry in self.waiting if entry not in found]
        assert not self.waiting
        assert (self.lanes.items, len(self.lanes)) == (0, 0)


TestLanesAgainstModel = LanesAgainstModel.TestCase
TestLanesAgainstModel.settings = settings(
    deadline=None, derandomize=True, max_examples=80, stateful_step_count=40
)
