"""Drives one model's pool: what waits leaves in batches, answers go back to their calls.

What leaves, and for which deployment, is decided in core/dispatcher.py. `_dispatch` asks it once for all that
happens in one turn of the event loop, so calls that arrive together leave together, and again whenever a call
arrives, a batch ends or a deployment changes.
"""

import asyncio
import math
import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from gateway.core.admission import Admission, Forecast
from gateway.core.balancer import Balancer, Deployment, Outcome, Permit
from gateway.core.cache import Cache
from gateway.core.dispatcher import Dispatcher
from gateway.core.events import (
    BadAnswerSeen,
    BatchEnded,
    BatchRetried,
    CacheUsed,
    DeploymentChanged,
    DeploymentGone,
    Hedged,
    InputRefused,
    ItemsShared,
    Observer,
    VectorsReplaced,
)
from gateway.core.health import Health
from gateway.core.lanes import Batch, BatchKey, Lanes, Ticket
from gateway.core.quarantine import REFUSED_S, Quarantine, Verdict
from gateway.core.retry import FREE, KILLS, Failure, HedgeBudget, RetryBudget
from gateway.core.sameness import Sameness
from gateway.core.settings import DeploymentSettings, EngineSettings, Place, PoolSettings
from gateway.core.usage import share_out
from gateway.deadlines import Deadlines
from gateway.errors import (
    BadAnswer,
    BadRequest,
    DeadlineExceeded,
    Draining,
    GatewayError,
    NoDeployment,
    Overloaded,
    ServerFailed,
)
from gateway.messages import Task
from gateway.pool.member import Member
from gateway.pool.others import ASK_EVERY_S, watch_others
from gateway.pool.port import ITEMS_MAX, Answer, Request, SendError, ServerFacts, Upstream

_PATIENCE = 0.9
"""A server is blamed for what it did not do in this share of its time limit. Callers in a hurry say less than
that about it, so it is only asked whether it still answers."""

_ITEMS_A_TURN = 512
"""Of one call; to queue so many takes about a millisecond."""

_SPARED_S = 30.0
"""How long a deployment that is to go still works while no other is up."""

_PASSED_OVER_S = 1.0
_LOOK_S = 1 / 32
"""How often to look for batches that are late."""


class DeploymentStats(NamedTuple):
    name: str
    state: str
    why: str
    breaker: str
    batches: int
    items: int
    limit: int
    """How many typical batches it may have under way at once."""
    busy_ratio: float
    """The share of the last seconds in which it had work."""
    others: float
    """Requests of others that are with the server at any moment, on average."""
    service: Mapping[str, float]
    """The fitted parameters of core/service_time.py, in seconds."""


class PoolStats(NamedTuple):
    model: str
    in_flight_calls: int
    queued_items: Mapping[str, int]
    deployments: list[DeploymentStats]


class Pool:
    """The deployments of one model and the calls for it. Use inside a running event loop; `close` it."""

    def __init__(
        self,
        settings: PoolSettings,
        engine: EngineSettings,
        upstream: Upstream,
        observe: Observer,
        rng: random.Random,
    ) -> None:
        self.settings = settings
        self._engine = engine
        self._upstream = upstream
        self._observe = observe
        self._loop = asyncio.get_running_loop()
        self._balancer = Balancer(rng)
        self._lanes = Lanes(
            items_max=engine.batching.items_max or ITEMS_MAX,
            tokens_max=engine.batching.tokens_max,
            wait_s_max=engine.batching.wait_s_max,
        )
        self._cache = Cache(engine.cache) if engine.cache.bytes_max else None
        self._admission = Admission(engine.admission)
        self._forecast = Forecast(engine.admission, engine.batching, self._lanes.backlog, self._balancer)
        self._budget = RetryBudget(engine.retry)
        self._hedges = HedgeBudget(engine.retry)
        self._quarantine = Quarantine(self._on_refused)
        self._sameness = Sameness(engine.health.vector_tolerance)
        self._members: dict[str, Member] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._spared: dict[str, asyncio.TimerHandle] = {}
        """Deployments that go as soon as another is up, and at the latest then."""
        self._retired: asyncio.Event | None = None
        """Nobody asks any more; set when all calls have ended."""
        self._tickets: set[Ticket] = set()
        self._dispatcher = Dispatcher(self._lanes, self._balancer, self._strand, self._may_try, self._check)
        self._under_way: dict[asyncio.Future[Answer], tuple[_Flight, Batch]] = {}
        self._deadlines = Deadlines(self._loop, self._expire)
        self._dispatching: asyncio.Handle | None = None
        self._waking: asyncio.Handle | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._wakes_at = math.inf
        self._closed = False
        self.is_traced = False
        """Some call has had a trace, and more may have."""
        self._sent_at = -math.inf
        """When the last batch left."""
        self._others = self._loop.create_task(
            watch_others(self._members, self._balancer, upstream, self._in_use)
        )
        self._others.add_done_callback(self._watched)
        for deployment in settings.deployments:
            self.add(deployment)

    def __repr__(self) -> str:
        return f"<Pool {self.settings.name}: {len(self._tickets)} calls, {self._lanes!r}>"

    @property
    def capabilities(self) -> frozenset[str]:
        """What its servers have told they can do; until then what the configuration says."""
        told = [member.facts.capabilities for member in self._members.values() if member.facts]
        if told:
            return frozenset[str]().union(*told)
        return frozenset({self.settings.task.value}) if self.settings.task else frozenset()

    @property
    def batch_size(self) -> int:
        """Most items in one of its batches."""
        return self._lanes.items_max

    @property
    def backend(self) -> str:
        """What its servers run the model with, in Infinity's words; empty until one has told."""
        return next((member.facts.backend for member in self._members.values() if member.facts), "")

    def stats(self) -> PoolStats:
        now = self._loop.time()
        return PoolStats(
            self.settings.name,
            len(self._tickets),
            dict(self._lanes.queued),
            [
                DeploymentStats(
                    d.name,
                    d.health.state.value,
                    d.health.why,
                    d.breaker,
                    d.batches,
                    d.items,
                    d.limit,
                    d.busy_ratio(now),
                    d.sharing.others,
                    d.service.parameters,
                )
                for d in self._balancer
            ],
        )

    def add(self, settings: DeploymentSettings) -> None:
        """A deployment joins; it gets work once it has answered a probe."""
        health = Health(self._engine.health, self._loop.time())
        state = Deployment(
            settings.name, health, in_flight_max=self._engine.batching.in_flight_max, weight=settings.weight
        )
        self._balancer.add(state)
        member = self._members[settings.name] = Member(settings, state)
        self._watch(member)

    def _watch(self, member: Member) -> None:
        watch = self._loop.create_task(
            member.watch(self._upstream, self._engine.health, self._differs, self._on_probed)
        )
        self._watches[member.settings.name] = watch
        watch.add_done_callback(self._watched)

    def _watched(self, watch: asyncio.Task[None]) -> None:
        if not watch.cancelled() and (error := watch.exception()):
            self._report_bug("a watch ended", error)

    def _in_use(self) -> bool:
        return self._loop.time() < self._sent_at + ASK_EVERY_S

    def remove(self, name: str) -> None:
        """A deployment goes: it gets no more work; what is under way there ends."""
        del self._members[name]
        if spared := self._spared.pop(name, None):
            spared.cancel()
        self._balancer.remove(name)
        self._quarantine.on_gone(name)
        self._watches.pop(name).cancel()
        self._sameness.forget(name)
        self._learn()
        self._observe(DeploymentGone(self.settings.name, name))
        self._after_loss()

    @property
    def is_unknown(self) -> bool:
        """None of its deployments is up, and one that is new may be in a moment."""
        return not self._balancer.any_up and any(each.health.is_unknown for each in self._balancer)

    @property
    def deployments(self) -> frozenset[str]:
        """Their names."""
        return frozenset(self._members)

    @property
    def places(self) -> set[Place]:
        """Where its deployments are."""
        return {member.settings.place for member in self._members.values()}

    def become(self, settings: PoolSettings, engine: EngineSettings) -> None:
        """By other settings from now on. Deployments join or leave; those that stay keep what is known of
        them, and what is under way ends as it began. The model that they serve is the same.
        """
        before, self.settings, self._engine = self._engine, settings, engine
        if engine is not before:
            self._tune(engine, before)
        wanted = {deployment.name: deployment for deployment in settings.deployments}
        for name, deployment in wanted.items():
            if spared := self._spared.pop(name, None):
                spared.cancel()
            member = self._members.get(name)
            if member is None:
                self.add(deployment)
            elif member.settings != deployment:
                self._change(member, deployment)
        for name in self._members.keys() - wanted.keys() - self._spared.keys():
            self._spared[name] = self._loop.call_later(_SPARED_S, self.remove, name)
        self._part()

    def _tune(self, engine: EngineSettings, before: EngineSettings) -> None:
        batching = engine.batching
        self._lanes.become(batching.tokens_max, batching.wait_s_max)
        self._learn()
        self._admission.become(engine.admission)
        self._forecast.become(engine.admission, batching)
        self._budget.become(engine.retry)
        self._hedges.become(engine.retry)
        self._sameness.become(engine.health.vector_tolerance)
        if engine.cache != before.cache:
            self._cache = Cache(engine.cache) if engine.cache.bytes_max else None
        for member in self._members.values():
            member.state.limit_to(batching.in_flight_max)
            if engine.health != before.health:
                member.state.health.become(engine.health)
                self._watches[member.settings.name].cancel()
                self._watch(member)

    def _change(self, member: Member, settings: DeploymentSettings) -> None:
        """The same server by other settings."""
        before, member.settings = member.settings, settings
        member.state.weight = settings.weight
        if (before.place, before.api_key) != (settings.place, settings.api_key):
            member.state.health.suspect()  # it may answer otherwise to these
            member.nudge()

    def _part(self) -> None:
        """Let go who is to: at once where others work, or where it does not work itself."""
        if self._closed or not self._spared:
            return
        members = self._members
        others_up = any(
            member.state.health.is_up for name, member in members.items() if name not in self._spared
        )
        for name in list(self._spared):
            if others_up or not members[name].state.health.is_up:
                self.remove(name)

    async def retire(self) -> None:
        """Nobody asks any more: close once all calls have ended."""
        self._retired = asyncio.Event()
        if self._tickets:
            await self._retired.wait()
        await self.close()

    async def close(self) -> None:
        """End everything: callers that still wait get Draining."""
        self._closed = True
        for spared in self._spared.values():
            spared.cancel()
        ending: set[asyncio.Future[Any]] = {self._others, *self._watches.values(), *self._under_way}
        for each in ending:
            each.cancel()
        if ending:
            await asyncio.wait(ending)
        for ticket in list(self._tickets):
            ticket.fail(Draining("this gateway is stopping"))
        self._lanes.clear()
        self._deadlines.clear()
        for timer in (self._dispatching, self._waking, self._looking):
            if timer:
                timer.cancel()

    # Calls

    def ask(
        self,
        key: BatchKey,
        items: list[str],
        deadline: float,
        caller: str,
        answered: Callable[[Ticket], None],
        *,
        bulk: bool = False,
    ) -> Ticket:
        """Have each item answered: `answered` gets the ticket when it has all answers, or its error.

        That may be at once. Whoever wants no answer any more says `leave`, and what still waits is not sent.
        Raises the GatewayError of a call that is not taken.
        """
        if self._closed:
            raise Draining("this gateway is stopping")
        if not self._balancer.any_up:
            raise self._nobody_up()
        if self._quarantine:
            self._refuse_killers(key, items)
        ticket = _Asked(key, items, self._loop.time(), deadline, caller, bulk=bulk)
        if self._cache is not None and self._look_up(ticket, self._cache):
            answered(ticket)
            return ticket
        ticket.size = sum([len(text) if text.isascii() else _utf8_bytes(text) for text in items])
        self._admit(ticket)
        self._dispatcher.on_call(ticket.arrived, len(items), idle=not self._under_way)
        try:
            self._add(ticket, 0)
        except BadRequest:
            self._admission.release(len(items), ticket.size)
            raise
        self._tickets.add(ticket)
        ticket.due = self._deadlines.add(ticket, deadline, ticket.arrived)
        ticket.answered = answered
        ticket.on_end = self._on_end
        self._schedule()
        return ticket

    def _admit(self, ticket: "_Asked") -> None:
        """Raises Overloaded where the ticket passes a bound, or would come too late behind what waits."""
        forecast, call_class, caller = self._forecast, ticket.call_class, ticket.caller
        items, size, now = len(ticket.items), ticket.size, ticket.arrived
        time_s, answer_s = ticket.deadline - now, 0.0
        if self._lanes.waiting:
            answer_s = forecast.answer_s(call_class, caller, items, size, now)
            if forecast.is_too_late(answer_s, time_s) and (fresh := self._lanes.count_fresh(ticket)) < items:
                answer_s = fresh and forecast.answer_s(call_class, caller, fresh, size * fresh // items, now)
        ticket.doubtful = forecast.is_doubtful(answer_s, time_s)
        try:
            if forecast.is_too_late(answer_s, time_s):
                time = f"{answer_s:.2g} s, and the call has {time_s:.3g} s"
                raise Overloaded(f"an answer would take about {time}; try again later")
            self._admission.admit(items, size)
        except Overloaded as refused:
            refused.retry_after_s = max(1.0, forecast.answer_s(call_class, caller, 0, 0, now))
            raise

    def _add(self, ticket: "_Asked", start: int) -> None:
        """Queue its items from there on, many in several turns, so that nobody is held up."""
        stop = start + _ITEMS_A_TURN
        if len(ticket.items) <= stop or ticket.key.alone:
            shared = self._lanes.add(ticket, start)
        else:
            shared = self._lanes.add(ticket, start, stop)
            self._loop.call_soon(self._add_more, ticket, stop)
        if shared:
            self._observe(ItemsShared(self.settings.name, shared))

    def _add_more(self, ticket: "_Asked", start: int) -> None:
        if ticket.ended:
            return
        if not self._balancer.any_up:
            ticket.fail(self._nobody_up())
            return
        try:
            self._add(ticket, start)
        except BadRequest as error:
            ticket.fail(error)
            return
        self._schedule()

    def _refuse_killers(self, key: BatchKey, items: list[str]) -> None:
        now = self._loop.time()
        for text in items:
            if self._quarantine.verdict(key, text, now) is Verdict.REFUSED:
                raise _killer(key)

    def _on_end(self, ticket: Ticket) -> None:
        assert isinstance(ticket, _Asked)
        self._deadlines.discard(ticket, ticket.due)
        self._tickets.discard(ticket)
        if self._retired and not self._tickets:
            self._retired.set()
        self._lanes.forget(ticket)
        self._admission.release(len(ticket.items), ticket.size)
        if ticket.missing and ticket.error is None:
            return  # Its caller has left.
        if ticket.doubtful:
            self._forecast.on_end(late=isinstance(ticket.error, DeadlineExceeded))
        try:
            ticket.answered(ticket)
        except Exception as error:  # A bug, which must not harm those who share the batch.
            self._report_bug("an answer was not taken", error)

    def _look_up(self, ticket: Ticket, cache: Cache) -> bool:
        """Answer what is known; whether that was all."""
        hits = 0
        for position, text in enumerate(ticket.items):
            if found := cache.get(ticket.key, text, ticket.arrived):
                ticket.put(position, found.value, found.tokens)
                hits += 1
        self._observe(CacheUsed(self.settings.name, hits, len(ticket.items) - hits))
        return ticket.ended

    def _expire(self, ticket: "_Asked") -> None:
        waited = self._loop.time() - ticket.arrived
        ticket.fail(DeadlineExceeded(f"no answer within {waited:.3g} s"))

    # Dispatch

    def _schedule(self) -> None:
        if self._dispatching is None and self._dispatcher.has_work and not self._closed:
            self._dispatching = self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        """Send what can be sent."""
        self._dispatching = None
        if self._closed:
            return
        dispatcher = self._dispatcher
        # Only once all is decided, since what fails at once may change what was decided upon.
        departures = dispatcher.dispatch(self._loop.time())
        if self._lanes.waiting:
            for batch, permit in departures:
                self._forecast.on_batch(permit.shape, sum([entry.tokens for entry in batch.entries]))
        for batch, permit in departures:
            if self._quarantine:
                self._single_out(batch)
            self._send(batch, permit)
        self._wake_at(dispatcher.wakes_at)

    def _wake_at(self, at: float) -> None:
        if self._waking and self._wakes_at <= at:
            return  # Sooner than needed, and then it is set again.
        if self._waking:
            self._waking.cancel()
            self._waking = None
        if at < math.inf:
            self._wakes_at = at
            self._waking = self._loop.call_at(at, self._wake)

    def _wake(self) -> None:
        self._waking = None
        self._dispatch()

    def _single_out(self, batch: Batch) -> None:
        """Have what a server had when it died sent by itself, and what is refused by now not at all."""
        now, suspects, others = self._loop.time(), [], []
        for entry in batch.entries:
            verdict = self._quarantine.verdict(entry.lane.key, entry.text, now)
            if verdict is Verdict.REFUSED:
                entry.fail(_killer(entry.lane.key))
            elif verdict is Verdict.SUSPECTED and not batch.suspect:
                suspects.append(entry)
            else:
                others.append(entry)
        batch.entries = others
        if suspects:
            for part in Batch(suspects, batch.avoid).singly():
                self._dispatcher.again(part)
            self._schedule()

    def _may_try(self, suspect: Batch) -> bool:
        entry = suspect.entries[0]
        return self._quarantine.may_try(entry.lane.key, entry.text, self._loop.time())

    def _check(self, deployment: Deployment) -> None:
        """Ask it whether it lives."""
        deployment.health.suspect()
        self._members[deployment.name].nudge()

    def _send(self, batch: Batch, permit: Permit) -> None:
        requests = batch.requests()
        flight = _Flight(permit, self._members[permit.deployment.name], max(1, len(requests)))
        if len(requests) <= 1:
            self._start(flight, batch)
            return
        # Different queries: one request each, which the server works on together.
        for _, entries in requests:
            part = Batch(entries, batch.avoid)
            part.tries = batch.tries
            self._start(flight, part)

    def _start(self, flight: "_Flight", batch: Batch) -> None:
        """Send one request, unless what was decided since has ended all who wait for it."""
        member = flight.member
        assert member.facts is not None
        now = self._loop.time()
        batch.drop_ended()
        if not batch.entries:
            flight.land(now, tells=False)
            self._schedule()
            return
        self._sent_at = now
        self._budget.on_batch(now)
        self._hedges.on_batch()
        timeout_s = max(0.001, min(member.settings.timeout_s, batch.deadline - now))
        key = batch.entries[0].lane.key
        request = Request(key, [entry.text for entry in batch.entries], member.facts.encoding)
        if batch.suspect:
            self._quarantine.begin_trial(key, request.items[0])
            request = request._replace(fresh=True)
        if self.is_traced:
            traces = [ticket.trace for ticket in batch.tickets() if ticket.trace is not None]
            request = request._replace(traces=traces)
        answer: asyncio.Future[Answer]
        try:
            answer = asyncio.ensure_future(  # noqa: TID251 - this pool owns it
                self._upstream.send(member.settings, request, timeout_s)
            )
        except Exception as error:
            answer = self._loop.create_future()
            answer.set_exception(error)
        self._under_way[answer] = flight, batch
        answer.add_done_callback(partial(self._land, flight, batch, now, timeout_s))
        if self._looking is None:
            self._looking = self._loop.call_later(_LOOK_S, self._look)

    def _land(
        self,
        flight: "_Flight",
        batch: Batch,
        started: float,
        timeout_s: float,
        answer: asyncio.Future[Answer],
    ) -> None:
        """A request has ended: give each call its part of the answer."""
        self._under_way.pop(answer, None)
        now = self._loop.time()
        member = flight.member
        if batch.suspect:
            self._quarantine.end_trial(batch.entries[0].lane.key, batch.entries[0].text)
        tells = False  # whether the time that it took is the server's own
        try:
            self._dispatcher.on_answer(flight.permit, len(batch), now)
            error = (flight.lost if answer.cancelled() else answer.exception()) or None
            if isinstance(error, SendError):
                tells = error.failure is Failure.TIMEOUT and not _hurried(timeout_s, member)
                self._report(batch, member, error, now - started)
                self._failed(batch, member, error, started, timeout_s)
            else:
                found = answer.result()
                tells = True
                member.state.health.on_answer(now, started)
                came_first = not (batch.is_hedge and batch.entries[0].over)
                self._split(batch, found, now - started)  # first of all, since callers wait
                self._report(batch, member, None, now - started)
                if batch.is_hedge:
                    self._observe(Hedged(self.settings.name, "won" if came_first else "lost"))
                if self._quarantine:
                    self._on_harmless(batch, member, now)
        except asyncio.CancelledError:
            pass  # This pool is closing, and ends its tickets itself.
        except Exception as bug:  # Whatever it is, nobody may stay waiting.
            _fail(batch, ServerFailed("internal error"))
            self._report_bug("a batch failed", bug)
        finally:
            flight.land(now, tells=tells)
            self._schedule()

    def _split(self, batch: Batch, answer: Answer, upstream_s: float) -> None:
        key = batch.entries[0].lane.key
        query = len(key.query or "")
        tokens = share_out(answer.tokens, [query + len(entry.text) for entry in batch.entries])
        for entry, value, charged in zip(batch.entries, answer.values, tokens, strict=True):
            entry.put(value, charged, upstream_s)
            if self._cache is not None and not key.alone:
                self._cache.put(key, entry.text, value, charged, self._loop.time())

    def _failed(
        self, batch: Batch, member: Member, error: SendError, started: float, timeout_s: float
    ) -> None:
        """Decide what becomes of a batch that failed: divided, tried elsewhere, or given up."""
        now = self._loop.time()
        failure = error.failure
        suspicious = failure in KILLS or error.may_be_input
        if suspicious or failure is Failure.TIMEOUT:
            self._suspect(batch, member, error, started)
        if batch.is_hedge:
            self._observe(Hedged(self.settings.name, "failed"))
        if batch.hedged:
            batch.leave(member.settings.name)
        to_blame = len(batch) == 1 or len(batch.tickets()) == 1
        batch.drop_ended()
        if failure is Failure.REJECTED:
            if not batch.entries:
                return
            if to_blame:
                param = "documents" if batch.task is Task.RERANK else "input"
                _fail(batch, BadRequest(f"the server refused the input: {error}", param=param))
                return
            # One caller's input is at fault. It must not fail the others, so look for it in halves. (Of two
            # callers of whom one has left, the other is not to blame until it was alone.)
            for half in batch.halves():
                if half.entries:
                    self._dispatcher.again(half)
            return
        self._doubt(member, error, started, timeout_s)
        if not batch.entries:
            return
        if suspicious:
            self._spare(batch, failure)
            if not batch.entries:
                return
        batch.tries += failure not in FREE
        batch.avoid = (*batch.avoid, member.settings.name)
        if self._balancer.up_besides(batch.avoid) and self._budget.allows(failure, batch.tries, now):
            for part in batch.singly() if suspicious else [batch]:
                self._dispatcher.again(part)
            self._observe(BatchRetried(self.settings.name, failure.value))
        else:
            self._give_up(batch, failure)

    def _spare(self, batch: Batch, failure: Failure) -> None:
        """Give up what a second server has failed on: a third must not. Whoever asks again is told that it is
        refused."""
        quarantine, left = self._quarantine, []
        for entry in batch.entries:
            first = not (batch.suspect and not batch.is_hedge)
            if first and quarantine.deaths(entry.lane.key, entry.text) < 2:
                left.append(entry)
            else:
                entry.fail(self._given_up(failure))
        batch.entries = left

    def _doubt(self, member: Member, error: SendError, started: float, timeout_s: float) -> None:
        """What a failure says of the server."""
        health, failure = member.state.health, error.failure
        if failure is Failure.OVERLOADED:
            health.hold()
        elif failure is Failure.TIMEOUT and _hurried(timeout_s, member):
            health.suspect()
        elif failure is Failure.TIMEOUT and health.has_answered_since(started):
            health.suspect()  # It is slow, and does what it can.
        elif failure is not Failure.HUNG:  # of which it went down
            news = health.on_failure(
                self._loop.time(),
                str(error),
                refused=failure is Failure.REFUSED or error.is_gone,
                asked=started,
                may_eject=self._balancer.may_eject(),
            )
            self._on_health(member, news)
            if failure is Failure.DISCONNECTED:
                health.hold()  # It may have been restarted, as another.
        member.nudge()

    def _suspect(self, batch: Batch, member: Member, error: SendError, started: float) -> None:
        """What a failure says of the input."""
        quarantine, name, now = self._quarantine, member.settings.name, self._loop.time()
        for entry in batch.entries:
            key, text = entry.lane.key, entry.text
            if error.failure is Failure.TIMEOUT:
                if member.state.health.proven_at <= started:
                    quarantine.on_silence(name, key, text, started)
            elif error.failure in KILLS:
                quarantine.on_death(name, key, text, now)
            else:
                quarantine.on_error(name, key, text, batch.suspect, now)

    def _on_refused(self, print_: bytes) -> None:
        """An input is refused from now on."""
        self._observe(InputRefused(self.settings.name, print_.hex(), REFUSED_S))

    def _on_harmless(self, batch: Batch, member: Member, now: float) -> None:
        """A server has answered, so what it had was not what kills servers."""
        for entry in batch.entries:
            self._quarantine.on_answer(entry.lane.key, entry.text)
        self._quarantine.on_alive(member.settings.name, member.state.health.proven_at, now)

    # What takes too long

    def _look(self) -> None:
        """Have servers probed of which an answer would tell, and ask others for what is late."""
        now = self._loop.time()
        self._looking = self._loop.call_later(_LOOK_S, self._look) if self._under_way else None
        for member in {flight.member for flight, _ in self._under_way.values()}:
            state = member.state
            if state.health.takes_work and state.is_stalled(now):
                state.health.hold()
                member.nudge()
        idle = self._balancer.idle()
        if self._lanes.waiting:
            # Passed over as too slow though there is work. If that was the first batch after a start, say,
            # nothing else would tell.
            for deployment in idle:
                if now - deployment.health.answered_at > _PASSED_OVER_S:
                    deployment.passed_over = True
                    deployment.health.suspect()
                    self._members[deployment.name].nudge()
        elif idle:
            for flight, batch in list(self._under_way.values()):
                if idle and not batch.hedged and not batch.suspect and flight.is_late(now):
                    self._hedge(batch, flight.member.settings.name, idle)

    def _hedge(self, batch: Batch, deployment: str, idle: list[Deployment]) -> None:
        """Have what is late at `deployment` sent to others as well, of which some are `idle`."""
        if any(d.name not in batch.avoid for d in idle) and self._hedges.take():
            for hedge in batch.hedges(deployment):
                self._dispatcher.again(hedge)
            idle.pop()
            self._schedule()

    def _abandon(self, member: Member) -> None:
        """It does not answer any more: what is under way there is to be tried elsewhere."""
        for answer, (flight, _) in list(self._under_way.items()):
            if flight.member is member:
                flight.lost = SendError(Failure.HUNG, "hangs")
                answer.cancel()

    def _give_up(self, batch: Batch, failure: Failure) -> None:
        if failure is Failure.TIMEOUT and self._balancer.any_up:
            # Who joined an item while it was under way has not had his time.
            for entry in batch.entries:
                late = [claim for claim in entry.claims[entry.early :] if not claim[0].ended]
                if late:
                    del entry.claims[entry.early :]
                    entry.fail(self._given_up(failure))
                    self._lanes.again(entry, late)
        _fail(batch, self._given_up(failure))

    def _strand(self, batch: Batch) -> None:
        """`batch` failed, or is a hedge, and no other deployment is up."""
        if batch.hedged:
            batch.leave()
        _fail(batch, self._given_up(Failure.SERVER_ERROR))

    def _given_up(self, failure: Failure) -> GatewayError:
        if not self._balancer.any_up:
            return self._nobody_up()
        match failure:
            case Failure.TIMEOUT:
                return DeadlineExceeded("the server did not answer in time")
            case Failure.OVERLOADED:
                return Overloaded("the servers have too much to do; try again later")
            case Failure.BAD_ANSWER:
                return BadAnswer("the server gave an answer that does not fit the call")
            case _:
                return ServerFailed("the server failed on this call")

    def _report(self, batch: Batch, member: Member, error: SendError | None, took_s: float) -> None:
        model, name = self.settings.name, member.settings.name
        if self._members.get(name) is not member:
            return  # It has left, and so have its series.
        lengths = [entry.tokens for entry in batch.entries]
        padded = len(lengths) * max(lengths)
        if error is None:
            outcome, reason = Outcome.SUCCESS, ""
        else:
            rejected = error.failure is Failure.REJECTED
            outcome, reason = Outcome.IGNORED if rejected else Outcome.FAILURE, error.failure.value
        self._observe(
            BatchEnded(
                model,
                name,
                outcome,
                reason,
                items=len(lengths),
                calls=len(batch.tickets()),
                fill_ratio=len(lengths) / self._lanes.items_max,
                padding_ratio=1 - sum(lengths) / padded if padded else 0.0,
                duration_s=took_s,
            )
        )
        if error and error.failure is Failure.BAD_ANSWER:
            self._observe(BadAnswerSeen(model, name, error.reason))

    # Health

    def _on_probed(self, member: Member, news: bool) -> None:
        self._learn()
        if self._quarantine:
            self._quarantine.on_alive(member.settings.name, member.state.health.proven_at, self._loop.time())
        self._on_health(member, news)
        if member.hangs:
            member.hangs = False
            self._abandon(member)
        self._schedule()  # It may have been on hold.

    def _differs(self, member: Member, facts: ServerFacts) -> str:
        """Why what `member` tells does not fit the pool; empty when it does. Those with other vectors may be
        right and the pool wrong: then the others are looked at anew.
        """
        sameness, name = self._sameness, member.settings.name
        if self._members.get(name) is not member:
            return ""
        if sameness.add(name, facts.samples, self._members, worked=self._sent_at > -math.inf):
            self._observe(VectorsReplaced(self.settings.name, name))
            if self._cache is not None:
                self._cache.clear()
            for other in list(self._members.values()):
                health, why = other.state.health, sameness.differs(other.settings.name)
                if other is not member and health.is_up and why:
                    other.facts = None
                    self._on_health(other, health.on_different(self._loop.time(), why))
                elif health.is_different and not why:
                    health.suspect()
                    other.nudge()
        return sameness.differs(name)

    def _learn(self) -> None:
        """A batch must fit every server, since it is cut before its server is chosen."""
        sizes = [member.facts.batch_size for member in self._members.values() if member.facts]
        self._lanes.items_max = self._engine.batching.items_max or min(sizes, default=ITEMS_MAX)

    def _on_health(self, member: Member, news: bool) -> None:
        if not news or self._members.get(member.settings.name) is not member:
            return
        health = member.state.health
        if self._spared:
            self._loop.call_soon(self._part)
        self._observe(DeploymentChanged(self.settings.name, member.settings.name, health.is_up, health.why))
        if health.is_up:
            member.state.restart(self._loop.time())
            self._schedule()
        else:
            self._quarantine.on_dead(member.settings.name, self._loop.time())
            self._after_loss()

    def _after_loss(self) -> None:
        """When no server is left, nobody waits for one: a caller can try elsewhere at once."""
        if self._balancer.any_up:
            self._schedule()
            return
        for ticket in list(self._tickets):
            if ticket.queued:
                ticket.fail(self._nobody_up())
        for batch in self._dispatcher.take_again():
            _fail(batch, self._nobody_up())

    def _nobody_up(self) -> GatewayError:
        if any(deployment.health.is_full for deployment in self._balancer):
            return Overloaded("the servers have too much to do; try again later")
        # By then one may have answered a probe.
        due = min((each.health.probe_at() for each in self._balancer), default=0.0) - self._loop.time()
        return NoDeployment(f"no server for model {self.settings.name!r} is up", retry_after_s=max(1.0, due))

    def _report_bug(self, message: str, error: BaseException) -> None:
        self._loop.call_exception_handler(
            {"message": f"pool {self.settings.name}: {message}", "exception": error}
        )


class _Asked(Ticket):
    """A ticket that a pool has taken."""

    __slots__ = ("answered", "doubtful", "due", "size")

    answered: Callable[[Ticket], None]
    doubtful: bool
    due: float
    size: int


class _Flight:
    """A batch under way to `member`, in one request or in several, under one permit."""

    __slots__ = ("_tells", "_under_way", "lost", "member", "permit")

    def __init__(self, permit: Permit, member: Member, requests: int) -> None:
        self.member = member
        self.lost: SendError | None = None
        """Why its requests were cancelled."""
        self.permit = permit
        self._under_way = requests
        self._tells = True

    def is_late(self, now: float) -> bool:
        return self.member.state.is_late(self.permit, now)

    def land(self, now: float, *, tells: bool) -> None:
        """One of its requests has ended; the last one ends the permit."""
        self._tells &= tells
        self._under_way -= 1
        if not self._under_way:
            self.permit.finish(now, tells=self._tells)


def _hurried(timeout_s: float, member: Member) -> bool:
    """Whether the callers of a batch had less patience than a server may ask for."""
    return timeout_s < _PATIENCE * member.settings.timeout_s


def _utf8_bytes(text: str) -> int:
    return len(text.encode(errors="surrogatepass"))


def _killer(key: BatchKey) -> BadRequest:
    what, param = ("a document", "documents") if key.task is Task.RERANK else ("an input", "input")
    minutes = f"{REFUSED_S / 60:g} minutes"
    return BadRequest(
        f"{what} of this call made two servers fail; it is not sent again for up to {minutes}", param=param
    )


def _fail(batch: Batch, error: GatewayError) -> None:
    for entry in batch.entries:
        entry.fail(error)
