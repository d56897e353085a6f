"""Drives one model's pool: what waits leaves in batches, answers go back to their calls.

A batch leaves because a deployment has room. All decisions about that are made in `_dispatch`, which does
not wait for anything: it is scheduled once for all that happens in one turn of the event loop, so calls
that arrive together leave together, and it runs again whenever a call arrives, a batch ends or a
deployment changes.
"""

import asyncio
import random
from collections import deque
from collections.abc import Coroutine, Mapping
from typing import Any, NamedTuple

from gateway.core.admission import Admission
from gateway.core.balancer import Balancer, Deployment, Outcome, Permit
from gateway.core.events import (
    BadAnswerSeen,
    BatchEnded,
    BatchRetried,
    DeploymentChanged,
    DeploymentGone,
    Observer,
)
from gateway.core.health import Health
from gateway.core.lanes import Batch, BatchKey, Lanes, Ticket
from gateway.core.retry import Failure, RetryBudget
from gateway.core.settings import DeploymentSettings, EngineSettings, PoolSettings
from gateway.core.usage import share_out
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
from gateway.pool.port import ITEMS_MAX, Answer, Request, SendError, Upstream

_PATIENCE = 0.9
"""A server is blamed for what it did not do in this share of its time limit. Callers in a hurry say less than
that about it, so it is only asked whether it still answers."""


class DeploymentStats(NamedTuple):
    name: str
    state: str
    why: str
    batches: int
    items: int
    in_flight_max: int


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
            items_max=engine.batching.items_max or ITEMS_MAX, wait_s_max=engine.batching.wait_s_max
        )
        self._admission = Admission(engine.admission)
        self._budget = RetryBudget(engine.retry)
        self._members: dict[str, Member] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._tickets: set[Ticket] = set()
        self._again: deque[Batch] = deque()
        """Batches that failed and wait for another deployment. They go before what is new."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._dispatching: asyncio.Handle | None = None
        self._ripening: asyncio.TimerHandle | None = None
        self._closed = False
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

    def stats(self) -> PoolStats:
        return PoolStats(
            self.settings.name,
            len(self._tickets),
            dict(self._lanes.queued),
            [
                DeploymentStats(
                    d.name, d.health.state.value, d.health.why, d.batches, d.items, d.in_flight_max
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
        watch = member.watch(self._upstream, self._engine.health, self._on_probed)
        self._watches[settings.name] = self._own(watch)

    def remove(self, name: str) -> None:
        """A deployment goes: it gets no more work; what is under way there ends."""
        del self._members[name]
        self._balancer.remove(name)
        self._watches.pop(name).cancel()
        self._learn()
        self._observe(DeploymentGone(self.settings.name, name))
        self._after_loss()

    async def close(self) -> None:
        """End everything: callers that still wait get Draining."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)
        for ticket in list(self._tickets):
            ticket.fail(Draining("this gateway is stopping"))
        for timer in (self._dispatching, self._ripening):
            if timer:
                timer.cancel()

    # Calls

    async def ask(self, key: BatchKey, items: list[str], deadline: float) -> Ticket:
        """Have each item answered; the ticket that comes back has all answers.

        Raises the GatewayError that ended it otherwise. When the caller is cancelled, what still waits is
        not sent.
        """
        if self._closed:
            raise Draining("this gateway is stopping")
        if not self._balancer.any_up:
            raise self._nobody_up()
        ticket = Ticket(key, items, self._loop.time(), deadline)
        size = sum(map(len, items))
        self._admission.admit(len(items), size)
        try:
            self._lanes.add(ticket)
        except BadRequest:
            self._admission.release(len(items), size)
            raise
        self._tickets.add(ticket)
        answered = self._loop.create_future()
        timer = self._loop.call_at(deadline, self._expire, ticket)

        def ended(ticket: Ticket) -> None:
            timer.cancel()
            self._tickets.discard(ticket)
            self._lanes.forget(ticket)
            self._admission.release(len(items), size)
            if not answered.done():
                answered.set_result(None)

        ticket.on_end = ended
        self._schedule()
        try:
            await answered
        finally:
            ticket.leave()
        if ticket.error:
            raise ticket.error
        return ticket

    def _expire(self, ticket: Ticket) -> None:
        waited = self._loop.time() - ticket.arrived
        ticket.fail(DeadlineExceeded(f"no answer within {waited:.3g} s"))

    # Dispatch

    def _schedule(self) -> None:
        if self._dispatching is None and not self._closed:
            self._dispatching = self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        """Send what can be sent: failed batches first, then what waits, while a deployment has room."""
        self._dispatching = None
        if self._closed:
            return
        now = self._loop.time()
        self._dispatch_again()
        # Never more than a fair share: 32 items for four idle servers are answered sooner as 4 x 8.
        share = -(-self._lanes.items // max(1, self._balancer.rooms()))
        while self._balancer.rooms():
            batch = self._lanes.take(share, now)
            if batch is None:
                self._wait_until_ripe()
                return
            permit = self._balancer.pick(len(batch))
            assert permit is not None
            self._send(batch, permit)

    def _dispatch_again(self) -> None:
        for _ in range(len(self._again)):
            batch = self._again.popleft()
            batch.drop_ended()
            if not batch.entries:
                continue
            if permit := self._balancer.pick(len(batch), batch.avoid):
                self._send(batch, permit)
            elif self._balancer.up_besides(batch.avoid):
                self._again.append(batch)
            else:
                _fail(batch, self._given_up(Failure.SERVER_ERROR))

    def _send(self, batch: Batch, permit: Permit) -> None:
        task = self._own(self._deliver(batch, self._members[permit.deployment.name]))

        def done(_: asyncio.Task[None]) -> None:
            permit.finish()
            self._schedule()

        # Not at the end of the coroutine: a task that is cancelled before its first step never gets there.
        task.add_done_callback(done)

    def _wait_until_ripe(self) -> None:
        if self._ripening:
            self._ripening.cancel()
            self._ripening = None
        ripe_at = self._lanes.ripe_at()
        if ripe_at is not None:
            self._ripening = self._loop.call_at(ripe_at, self._schedule)

    async def _deliver(self, batch: Batch, member: Member) -> None:
        """Send one batch and give each call its part of the answer."""
        assert member.facts is not None
        started = self._loop.time()
        self._budget.on_batch(started)
        latest = max(entry.ticket.deadline for entry in batch.entries)
        timeout_s = max(0.001, min(member.settings.timeout_s, latest - started))
        request = Request(batch.key, [entry.text for entry in batch.entries], member.facts.encoding)
        try:
            answer = await self._upstream.send(member.settings, request, timeout_s)
            took_s = self._loop.time() - started
            member.state.health.on_answer(started + took_s)
            self._report(batch, member, None, took_s)
            self._split(batch, answer, took_s)
        except SendError as error:
            self._report(batch, member, error, self._loop.time() - started)
            self._failed(batch, member, error, started, timeout_s)
        except Exception:  # A bug. Whatever it is, nobody may stay waiting.
            _fail(batch, ServerFailed("internal error"))
            raise

    def _split(self, batch: Batch, answer: Answer, upstream_s: float) -> None:
        query = len(batch.key.query or "")
        tokens = share_out(answer.tokens, [query + len(entry.text) for entry in batch.entries])
        for entry, value, charged in zip(batch.entries, answer.values, tokens, strict=True):
            entry.ticket.upstream_s = upstream_s
            entry.ticket.put(entry.position, value, charged)

    def _failed(
        self, batch: Batch, member: Member, error: SendError, started: float, timeout_s: float
    ) -> None:
        """Decide what becomes of a batch that failed: divided, tried elsewhere, or given up."""
        now = self._loop.time()
        failure = error.failure
        callers = len(batch.tickets())
        batch.drop_ended()
        if failure is Failure.REJECTED:
            if callers == 1:
                param = "documents" if batch.key.task is Task.RERANK else "input"
                _fail(batch, BadRequest(f"the server refused the input: {error}", param=param))
                return
            # One caller's input is at fault. It must not fail the others, so look for it in halves. (Of two
            # callers of whom one has left, the other is not to blame until it was alone.)
            self._again.extend(half for half in batch.halves() if half.entries)
            return
        hurried = failure is Failure.TIMEOUT and timeout_s < _PATIENCE * member.settings.timeout_s
        if hurried or failure is Failure.OVERLOADED:
            member.state.health.suspect()
        else:
            refused = failure is Failure.REFUSED
            news = member.state.health.on_failure(now, str(error), refused=refused, asked=started)
            self._on_health(member, news)
        member.nudge()
        if not batch.entries:
            return
        batch.tries += 1
        batch.avoid = (*batch.avoid, member.settings.name)
        if self._balancer.up_besides(batch.avoid) and self._budget.allows(failure, batch.tries, now):
            self._again.append(batch)
            self._observe(BatchRetried(self.settings.name, failure.value))
        else:
            _fail(batch, self._given_up(failure))

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
        lengths = [len(entry.text) for entry in batch.entries]
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
                calls=len({entry.ticket for entry in batch.entries}),
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
        self._on_health(member, news)

    def _learn(self) -> None:
        """A batch must fit every server, since it is cut before its server is chosen."""
        sizes = [member.facts.batch_size for member in self._members.values() if member.facts]
        self._lanes.items_max = self._engine.batching.items_max or min(sizes, default=ITEMS_MAX)

    def _on_health(self, member: Member, news: bool) -> None:
        if not news or self._members.get(member.settings.name) is not member:
            return
        health = member.state.health
        self._observe(DeploymentChanged(self.settings.name, member.settings.name, health.is_up, health.why))
        if health.is_up:
            self._schedule()
        else:
            self._after_loss()

    def _after_loss(self) -> None:
        """When no server is left, nobody waits for one: a caller can try elsewhere at once."""
        if self._balancer.any_up:
            self._schedule()
            return
        for ticket in list(self._tickets):
            if ticket.queued:
                ticket.fail(self._nobody_up())
        for batch in self._again:
            _fail(batch, self._nobody_up())
        self._again.clear()

    def _nobody_up(self) -> NoDeployment:
        return NoDeployment(f"no server for model {self.settings.name!r} is up")

    def _own(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` as a task of this pool: kept until it ends, its error shown, cancelled by `close`."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._disown)
        return task

    def _disown(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._loop.call_exception_handler(
                {"message": f"a task of pool {self.settings.name} failed", "exception": error, "task": task}
            )


def _fail(batch: Batch, error: GatewayError) -> None:
    for entry in batch.entries:
        entry.ticket.fail(error)
