"""What waits, and which of it leaves together.

A call becomes a `Ticket` with an `Entry` for each of its items; equal items that wait or are under way share
one. Entries that may share a batch (equal `BatchKey`) wait in one `Lane`, by length. A batch is made around
the entry whose turn it is (core/fairness.py), from the run of lengths that the cheapest cut puts it into
(core/packing.py).
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from gateway.core.backlog import Account, Backlog
from gateway.core.fairness import BULK, CLASSES, INTERACTIVE, Turns, call_class
from gateway.core.packing import CLASS_OF, LONGEST, TOKENS_MAX, cut, tokens_of
from gateway.core.service_time import Shape
from gateway.errors import BadRequest, GatewayError
from gateway.messages import Modality, Task

Value = bytes | float
"""The answer to one item: a JSON fragment, or a score."""

_WINDOW = 256
"""How much of what waits in a class of calls is looked through for company of one of them."""

_PERSONS_S = 1.0
"""For so long after an interactive call another one is expected."""


class BatchKey(NamedTuple):
    """What must be equal for two items to share a request."""

    task: Task
    params: bytes = b""
    """Passed on to the server: a JSON object sorted by name, so that equal parameters make equal keys. (As
    Python values `1`, `1.0` and `true` would be equal, and to a server they are not.)"""
    query: str | None = None
    """Infinity takes one query a request."""
    modality: Modality = Modality.TEXT
    alone: int = 0
    """Not 0: the number of a call that shares its batch with no other and is not divided."""


class Ticket:
    """One call in a pool: its items, the answers as they come, and its end, which happens once."""

    __slots__ = (
        "_next",
        "answers",
        "arrived",
        "call_class",
        "caller",
        "deadline",
        "ended",
        "entries",
        "error",
        "items",
        "key",
        "left",
        "missing",
        "on_end",
        "queued",
        "tokens",
        "trace",
        "upstream_s",
    )  # fmt: skip

    def __init__(
        self,
        key: BatchKey,
        items: Sequence[str],
        arrived: float,
        deadline: float = math.inf,
        caller: str = "",
        *,
        bulk: bool = False,
    ) -> None:
        assert items
        self.key = key
        self.items = items
        self.arrived = arrived
        self.deadline = deadline
        self.caller = caller
        """Who asks; callers get equal parts."""
        self.call_class = BULK if bulk else call_class(len(items))
        self.answers: list[Value | None] = [None] * len(items)
        self.entries: list[Entry] = []
        """What was queued for it."""
        self.missing = len(items)
        self.queued = 0
        """Its items that still wait."""
        self.left = arrived
        """When the last of its items so far left the lane."""
        self.upstream_s = 0.0
        """How long the batch took that was answered last."""
        self.tokens = 0
        self.ended = False
        self.error: GatewayError | None = None
        self.trace: object = None
        """Its call's."""
        self.on_end: Callable[[Ticket], None] = _ignore
        self._next = 0

    def head(self) -> "Entry":
        """The first of its items that waits; there must be one."""
        entries = self.entries
        while not entries[self._next].waits:
            self._next += 1
        return entries[self._next]

    def waiting(self) -> "Iterator[Entry]":
        """Its items that may wait."""
        return islice(self.entries, self._next, None) if self.queued else iter(())

    def requeue(self, entry: "Entry") -> None:
        """One of its items waits again, behind the others."""
        self.queued += 1
        self.entries.append(entry)

    def put(self, position: int, value: Value, tokens: int) -> None:
        """The answer to one item. The last one ends the ticket; what comes after its end is dropped."""
        if self.ended:
            return
        assert self.answers[position] is None, "an item is answered once"
        self.answers[position] = value
        self.tokens += tokens
        self.missing -= 1
        if not self.missing:
            self._end()

    def fail(self, error: GatewayError) -> None:
        """End it without an answer, unless it has ended."""
        if not self.ended:
            self.error = error
            self._end()

    def leave(self) -> None:
        """Its caller has gone: nobody wants an answer any more."""
        if not self.ended:
            self._end()

    def _end(self) -> None:
        self.ended = True
        self.on_end(self)

    def __repr__(self) -> str:
        state = "ended" if self.ended else f"{self.missing} missing, {self.queued} queued"
        return f"<Ticket {self.key.task} of {len(self.items)}: {state}>"


def _ignore(_: Ticket) -> None:
    pass


class Entry:
    """One item to be answered, for one ticket or for several that ask the same."""

    __slots__ = (
        "_sweep_at", "account", "avoid", "claims", "copies", "early", "lane", "over", "text", "tokens",
        "waits",
    )  # fmt: skip

    def __init__(
        self, lane: "Lane", text: str, tokens: int, ticket: Ticket, position: int, account: Account
    ) -> None:
        self.lane = lane
        self.account = account
        """Where it is counted as long as it waits."""
        self.text = text
        self.tokens = tokens
        self.waits = True
        """It is in its lane. Not so: it is in a batch, or nobody wants it any more."""
        self.claims = [(ticket, position)]
        """Who asks: tickets, and the item's place in each."""
        self.early = 0
        """How many of them asked before it was sent; the others joined it under way."""
        self.over = False
        """It is answered or given up."""
        self.copies = 0
        """Other batches that hold it as well: whichever is answered first, counts."""
        self.avoid: tuple[str, ...] = ()
        """Deployments where a copy has failed."""
        self._sweep_at = 32

    def join(self, ticket: Ticket, position: int) -> None:
        """One more asks for it. Those who have gone are swept out before they are most of all."""
        if len(self.claims) >= self._sweep_at:
            early = [claim for claim in self.claims[: self.early] if not claim[0].ended]
            self.claims[:] = early + [claim for claim in self.claims[self.early :] if not claim[0].ended]
            self.early = len(early)
            self._sweep_at = 2 * len(self.claims) + 32
        self.claims.append((ticket, position))

    @property
    def live(self) -> bool:
        """Whether somebody still waits for it."""
        for ticket, _ in self.claims:  # noqa: SIM110 - asked for each item of a batch, and thrice as fast
            if not ticket.ended:
                return True
        return False

    @property
    def deadline(self) -> float:
        """That of the most patient who wait for it."""
        if len(self.claims) == 1:
            ticket = self.claims[0][0]
            return -math.inf if ticket.ended else ticket.deadline
        return max((t.deadline for t, _ in self.claims if not t.ended), default=-math.inf)

    def put(self, value: Value, tokens: int, upstream_s: float) -> None:
        """Its answer, to all who ask. Each is charged what it would be alone."""
        if self.over:
            return
        self.done()
        for ticket, position in self.claims:
            ticket.upstream_s = upstream_s
            ticket.put(position, value, tokens)

    def fail(self, error: GatewayError) -> None:
        """End all who ask with `error`."""
        if self.over:
            return
        self.done()
        for ticket, _ in self.claims:
            ticket.fail(error)

    def done(self) -> None:
        """It is answered or given up: who asks the same from now on asks anew."""
        self.over = True
        self.lane.close(self)


class Batch:
    """Entries that go to a server together: a request for each batch key. A retry is the same batch again."""

    __slots__ = ("avoid", "entries", "hedged", "is_hedge", "suspect", "tries")

    def __init__(self, entries: list[Entry], avoid: tuple[str, ...] = (), *, suspect: bool = False) -> None:
        self.entries = entries
        self.avoid = avoid
        """Deployments that have failed on it."""
        self.suspect = suspect
        """It is one item, alone, since a server has died of it or may have."""
        self.tries = 0
        self.hedged = False
        """Other batches may hold its entries as well."""
        self.is_hedge = False
        """It is one of those others."""

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def task(self) -> Task:
        return self.entries[0].lane.key.task

    @property
    def deadline(self) -> float:
        """That of the most patient caller."""
        latest = -math.inf
        for entry in self.entries:
            deadline = entry.deadline
            if deadline > latest:
                latest = deadline
        return latest

    def requests(self) -> list[tuple[BatchKey, list[Entry]]]:
        """What is sent: the entries of each batch key."""
        if len(self.entries) == 1:
            return [(self.entries[0].lane.key, self.entries)]
        by_lane: dict[Lane, list[Entry]] = {}
        for entry in self.entries:
            by_lane.setdefault(entry.lane, []).append(entry)
        return [(lane.key, entries) for lane, entries in by_lane.items()]

    def shape(self) -> Shape:
        """What its time depends on."""
        entries = self.entries
        lane, longest = entries[0].lane, 0
        for entry in entries:
            if entry.lane is not lane:
                break
            if entry.tokens > longest:
                longest = entry.tokens
        else:
            return Shape(1, len(entries), len(entries) * longest)
        parts = [[entry.tokens for entry in part] for _, part in self.requests()]
        return Shape(len(parts), len(entries), sum(len(part) * max(part) for part in parts))

    def tickets(self) -> list[Ticket]:
        """The calls in it, each once, in order."""
        return list(dict.fromkeys(ticket for entry in self.entries for ticket, _ in entry.claims))

    def drop_hopeless(self, answered_at: float) -> list[Entry]:
        """Take out and return what everybody will have given up before `answered_at`."""
        hopeless = [entry for entry in self.entries if entry.deadline < answered_at]
        if hopeless:
            self.entries = [entry for entry in self.entries if entry not in hopeless]
        return hopeless

    def drop_ended(self) -> None:
        """Leave out what nobody waits for any more."""
        ended = [entry for entry in self.entries if entry.over or not entry.live]
        if ended:
            for entry in ended:
                entry.done()
            self.entries = [entry for entry in self.entries if not entry.over]

    def hedges(self, deployment: str) -> "list[Batch]":
        """Its entries once more, each alone, for others than the `deployment` where it is under way. So none
        of them is ever at more than two servers, and at the second it can be told from all else."""
        self.hedged = True
        parts = self.singly()
        for part in parts:
            part.avoid = (*self.avoid, deployment)
            part.hedged = part.is_hedge = True
            part.entries[0].copies += 1
        return parts

    def leave(self, *deployments: str) -> None:
        """It has failed there, or nobody is left to take it: leave what other batches hold to these."""
        kept = []
        for entry in self.entries:
            entry.avoid = (*entry.avoid, *deployments)
            if entry.copies:
                entry.copies -= 1
            elif not entry.over:
                kept.append(entry)
                self.avoid = (*self.avoid, *entry.avoid)
        self.entries = kept

    def singly(self) -> "list[Batch]":
        """Each entry alone, as a suspect."""
        parts = [Batch([entry], self.avoid, suspect=True) for entry in self.entries]
        for part in parts:
            part.tries = self.tries
        return parts

    def halves(self) -> tuple["Batch", "Batch"]:
        """The batch cut in two, between calls as far as possible."""
        firsts = list(dict.fromkeys(entry.claims[0][0] for entry in self.entries))
        if len(firsts) > 1:
            first = set(firsts[: len(firsts) // 2])
            parts = (
                [entry for entry in self.entries if entry.claims[0][0] in first],
                [entry for entry in self.entries if entry.claims[0][0] not in first],
            )
        else:
            middle = len(self.entries) // 2
            parts = (self.entries[:middle], self.entries[middle:])
        halves = (Batch(parts[0], self.avoid), Batch(parts[1], self.avoid))
        for half in halves:
            half.tries = self.tries
        return halves


class Lane:
    """Entries with one batch key, by length, in order of arrival within each class of lengths."""

    __slots__ = ("_counts", "_on_close", "_waiting", "key", "live", "open")

    def __init__(self, key: BatchKey, on_close: "Callable[[Lane], None]") -> None:
        self.key = key
        self.live = 0
        """Entries that wait."""
        self.open: dict[str, Entry] = {}
        """What waits or is under way, by text."""
        self._on_close = on_close
        self._waiting: dict[int, deque[Entry]] = {}
        self._counts: dict[int, int] = {}

    def add(self, entry: Entry) -> None:
        index = CLASS_OF[entry.tokens]
        waiting = self._waiting.get(index)
        if waiting is None:
            waiting = self._waiting[index] = deque()
            self._counts[index] = 0
        waiting.append(entry)
        self._counts[index] += 1
        self.live += 1

    def first(self) -> Entry:
        """One that waits, the oldest of its length; there must be one."""
        return next(entry for waiting in self._waiting.values() for entry in waiting if entry.waits)

    def take(
        self, head: Entry, most: int, ratio: float, company: Iterable[Entry] = (), *, only: bool = False
    ) -> list[Entry]:
        """`head` and its company: the cheapest run of lengths around it, at most `most` in all, and of that
        run those in `company` first. `only`: the run of those in `company`, and of what else waits and is no
        longer as much as makes the batch cost twice."""
        self._leave(head)
        taken = [head]
        if most == 1 or not self.live:
            return taken
        own = CLASS_OF[head.tokens]
        waiting: Mapping[int, int] = self._counts
        if only:
            company = dict.fromkeys(entry for entry in company if entry.waits and entry.lane is self)
            waiting = Counter(CLASS_OF[entry.tokens] for entry in company)
        indices = sorted({own, *waiting})
        counts = [waiting.get(index, 0) + (index == own) for index in indices]
        first, last = cut(counts, [LONGEST[index] for index in indices], indices.index(own), most, ratio)
        run = indices[first : last + 1][::-1]
        for entry in company:
            if len(taken) == most:
                return taken
            if entry.waits and entry.lane is self and run[-1] <= CLASS_OF[entry.tokens] <= run[0]:
                self._leave(entry)
                taken.append(entry)
        if only:
            most = min(most, 2 * len(taken) + int(ratio / LONGEST[run[0]]))
            run = sorted((index for index in self._counts if index <= run[0]), reverse=True)
        # A run of several batches is divided from the longest down; `head` stands first in its class.
        skip = sum(self._counts.get(index, 0) for index in run if index > own) // most * most
        for index in run:
            count = self._counts.get(index, 0)
            skipped = min(skip, count)
            skip -= skipped
            taken += self._from_class(index, min(count - skipped, most - len(taken)))
        return taken

    def take_all(self, head: Entry) -> list[Entry]:
        """`head` and everything else that waits."""
        self._leave(head)
        return [head, *(e for index in list(self._counts) for e in self._from_class(index, self.live))]

    def close(self, entry: Entry) -> None:
        """`entry` is answered or given up."""
        if entry.waits:
            self._leave(entry)
        if self.open.get(entry.text) is entry:
            del self.open[entry.text]
            if not self.open:
                self._on_close(self)

    def _from_class(self, index: int, most: int) -> list[Entry]:
        """The oldest of a class, at most `most`."""
        waiting = self._waiting.get(index, ())
        taken = list(islice((entry for entry in waiting if entry.waits), most))
        for entry in taken:
            self._leave(entry)
        return taken

    def _leave(self, entry: Entry) -> None:
        """It waits no more. Where it stands it is skipped, and swept away once it has much company there."""
        entry.waits = False
        entry.account.take(entry.tokens)
        index = CLASS_OF[entry.tokens]
        waiting = self._waiting[index]
        self.live -= 1
        self._counts[index] -= 1
        if not self._counts[index]:
            del self._waiting[index], self._counts[index]
        elif not waiting[0].waits:
            while not waiting[0].waits:
                waiting.popleft()
        elif len(waiting) > 2 * self._counts[index] + 64:
            self._waiting[index] = deque(entry for entry in waiting if entry.waits)


class Lanes:
    """All that waits in one pool."""

    def __init__(
        self,
        *,
        items_max: int = 32,
        tokens_max: int = TOKENS_MAX,
        wait_s_max: float = 0.0,
        param_sets_max: int = 64,
    ) -> None:
        self.items_max = items_max
        """Most items in a batch."""
        self.queued: Counter[str] = Counter(dict.fromkeys(CLASSES, 0))
        """Items that wait, by class."""
        self.waiting = 0
        """Entries that wait: equal items count once."""
        self.backlog = Backlog()
        """The same by class and caller."""
        self.become(tokens_max, wait_s_max)
        self._param_sets_max = param_sets_max
        self._lanes: dict[BatchKey, Lane] = {}
        self._param_sets: Counter[bytes] = Counter()
        self._turns = Turns()
        self._person_at = -math.inf
        """When the last interactive call came."""

    def __len__(self) -> int:
        return len(self._lanes)

    def __repr__(self) -> str:
        return f"<Lanes: {self.waiting} entries wait, {len(self._lanes)} lanes>"

    def become(self, tokens_max: int, wait_s_max: float) -> None:
        """By other settings from now on; what waits keeps its place."""
        self._tokens_max = min(tokens_max, LONGEST[-1])
        self._wait_s_max = wait_s_max

    @property
    def items(self) -> int:
        """Items that wait."""
        return sum(self.queued.values())

    def full(self, now: float) -> bool:
        """Whether there is enough for a full batch that may stand in a server's queue. Where persons ask as
        well, bulk may not: what stands there cannot be overtaken."""
        waiting = self.waiting
        if now < self._person_at + _PERSONS_S:
            waiting = min(waiting, self.queued[INTERACTIVE])
        return waiting >= self.items_max

    def add(self, ticket: Ticket, start: int = 0, stop: int | None = None) -> int:
        """Queue the items of `ticket`, or those from `start` to `stop`, each for which nobody has asked yet;
        the number of the others.

        Raises BadRequest when too many different parameters wait already.
        """
        key = ticket.key
        lane = self._lanes.get(key) or self._open(key)
        tokens_max, answers, open_entries = self._tokens_max, ticket.answers, lane.open
        query_tokens = tokens_of(key.query, tokens_max) if key.query is not None else 0
        shared = queued = added = added_tokens = 0
        account = self.backlog.account(ticket.call_class, ticket.caller)
        for position, text in enumerate(ticket.items[start:stop], start):
            if answers[position] is not None:
                continue
            entry = open_entries.get(text)
            if entry:
                entry.join(ticket, position)
                shared += 1
                queued += entry.waits
            else:
                tokens = tokens_of(text, tokens_max)
                if query_tokens:
                    tokens = min(query_tokens + tokens, tokens_max)
                entry = open_entries[text] = Entry(lane, text, tokens, ticket, position, account)
                lane.add(entry)
                added += 1
                added_tokens += tokens
                queued += 1
            ticket.entries.append(entry)
        if added:
            self.waiting += added
            account.add(added, added_tokens)
        if queued:
            ticket.queued += queued
            call_class = ticket.call_class
            self._turns.add(ticket, first=not self.queued[call_class])
            self.queued[call_class] += queued
            if call_class == INTERACTIVE:
                self._person_at = ticket.arrived
        return shared

    def count_fresh(self, ticket: Ticket) -> int:
        """How many items of `ticket` lack an answer, and nobody else has asked for."""
        lane = self._lanes.get(ticket.key)
        open_entries = lane.open if lane else {}
        return sum(
            answer is None and text not in open_entries
            for answer, text in zip(ticket.answers, ticket.items, strict=True)
        )

    def again(self, entry: Entry, claims: list[tuple[Ticket, int]]) -> None:
        """Queue `entry`'s text anew for `claims`, who joined it when it was under way already."""
        key = entry.lane.key
        lane = self._lanes.get(key) or self._open(key)
        fresh = lane.open.get(entry.text)
        if fresh is None:
            ticket, position = claims[0]
            account = self.backlog.account(ticket.call_class, ticket.caller)
            fresh = lane.open[entry.text] = Entry(lane, entry.text, entry.tokens, ticket, position, account)
            lane.add(fresh)
            self.waiting += 1
            account.add(1, entry.tokens)
            fresh.claims.clear()
        fresh.claims += claims
        for ticket, _ in claims:
            if fresh.waits:
                ticket.requeue(fresh)
                self._turns.add(ticket, first=not self.queued[ticket.call_class])
                self.queued[ticket.call_class] += 1

    def take(self, share: int, ratio: float, now: float) -> Batch | None:
        """The next batch, of at most `share` items; None when nothing waits, or nothing is ripe yet.

        `ratio` is o / b of core/packing.py.
        """
        turn = self._next(now)
        if turn is None:
            return None
        ticket, head = turn
        lane = head.lane
        most = max(1, min(share, self.items_max))
        if lane.key.alone:
            entries = lane.take_all(head)
        else:
            # Company from the head's class first: what else is of its length may be a flood, and older.
            tickets = islice(self._turns.company(ticket), _WINDOW)
            company = (entry for each in tickets for entry in each.waiting())
            # A flood keeps no person apart from others by its cut, and at most doubles what they wait for.
            only = ticket.call_class == INTERACTIVE and self.queued[BULK] > 0
            entries = lane.take(head, most, ratio, islice(company, _WINDOW), only=only)
        self._leave(entries, ticket, now)
        if lane.key.task is Task.RERANK:
            self._add_queries(entries, most, now)
        return Batch(entries)

    def forget(self, ticket: Ticket) -> None:
        """`ticket` has ended; what of it still waits and nobody else wants is not sent."""
        assert ticket.ended
        self._turns.forget(ticket)
        if ticket.queued:
            self.queued[ticket.call_class] -= ticket.queued
            ticket.queued = 0
            for entry in ticket.entries:
                if entry.waits and not entry.live:
                    self.waiting -= 1
                    entry.done()
            if not self.waiting:
                self._turns.clear()
        ticket.entries = []  # They hold it, and it would hold them until the garbage is collected.

    def clear(self) -> None:
        """Hold on to nothing: every ticket has ended."""
        self._lanes.clear()
        self._turns.clear()

    def ripe_at(self) -> float | None:
        """When what waits longest will have waited long enough; None when nothing waits."""
        if not self._wait_s_max:
            head = self._turns.head()
            return None if head is None else head.arrived
        oldest = self._turns.oldest()
        return None if oldest is None else oldest + self._wait_s_max

    def _next(self, now: float) -> tuple[Ticket, Entry] | None:
        ticket = self._turns.head()
        if ticket is None:
            return None
        ripe_at = self.ripe_at() if self._wait_s_max else None
        if ripe_at is None or ripe_at <= now:
            self._turns.begin(ticket)
            return ticket, ticket.head()
        # What is full, or never has company, gains nothing by waiting for it.
        for lane in self._lanes.values():
            if lane.live >= self.items_max or (lane.live and lane.key.alone):
                first = lane.first()
                return first.claims[0][0], first
        return None

    def _add_queries(self, entries: list[Entry], most: int, now: float) -> None:
        """Infinity takes one query a request, and works on several requests at once in one pass of the
        model: whole lists of other queries fill the batch."""
        key = entries[0].lane.key
        while len(entries) < most and (ticket := self._turns.head()):
            lane = ticket.head().lane
            fits = lane.live <= most - len(entries)
            if not fits or lane.key.task is not Task.RERANK or lane.key.params != key.params:
                return
            self._turns.begin(ticket)
            more = lane.take_all(ticket.head())
            self._leave(more, ticket, now)
            entries += more

    def _leave(self, entries: list[Entry], head: Ticket, now: float) -> None:
        """They are in a batch now, in the turn of `head`."""
        self.waiting -= len(entries)
        if not self.waiting:
            self._turns.clear()
        in_all = sum([entry.tokens for entry in entries])
        self._turns.charge_turn(head, in_all)
        for entry in entries:
            entry.early = len(entry.claims)
            charged = False
            for ticket, _ in entry.claims:
                if not ticket.ended:
                    ticket.queued -= 1
                    ticket.left = now
                    self.queued[ticket.call_class] -= 1
                    if not charged:
                        self._turns.charge(ticket, entry.tokens, in_all)
                        charged = True

    def _open(self, key: BatchKey) -> Lane:
        if (
            key.params
            and key.params not in self._param_sets
            and len(self._param_sets) >= self._param_sets_max
        ):
            raise BadRequest(
                f"{self._param_sets_max} different sets of provider parameters are waiting already; "
                "calls are batched by their parameters, so send the same ones with all of them"
            )
        if key.params:
            self._param_sets[key.params] += 1
        lane = self._lanes[key] = Lane(key, self._close)
        return lane

    def _close(self, lane: Lane) -> None:
        key = lane.key
        del self._lanes[key]
        if key.params:
            self._param_sets[key.params] -= 1
            if not self._param_sets[key.params]:
                del self._param_sets[key.params]
