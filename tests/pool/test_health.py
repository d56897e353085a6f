"""Servers that go and come back, and what that means for calls."""

import asyncio

import pytest

from gateway.core.events import BatchEnded, DeploymentChanged, DeploymentGone, Event
from gateway.core.retry import Failure
from gateway.core.settings import BatchingSettings, DeploymentSettings, EngineSettings, HealthSettings
from gateway.errors import DeadlineExceeded, NoDeployment
from gateway.pool import Encoding, ServerFacts
from tests.fakes.time import fake_time, idle
from tests.fakes.upstream import Fault, RecordingUpstream
from tests.pool.pools import (
    ask,
    assert_answered,
    assert_at_rest,
    at,
    deployment,
    failure,
    now,
    outcome,
    running,
    sizes,
    states,
    texts,
)

SETTINGS = EngineSettings(
    health=HealthSettings(probe_interval_s=0.5, silent_s_max=10, probe_timeout_s=2, failures_max=3)
)
FIRST_A = [deployment("a", weight=1e9), deployment("b")]
"""Two servers of which the first gets the first batch."""


# Going and coming back


@fake_time
async def test_a_server_that_refuses_gets_nothing_until_a_probe_has_answered() -> None:
    """The batch goes to the other at once, and so does all that follows."""
    upstream = RecordingUpstream(latency_s=0.125)

    async with running(upstream, FIRST_A, SETTINGS) as pool:
        upstream.down.add("a")
        assert_answered(await ask(pool, "x"))
        assert states(pool) == {"a": "down", "b": "up"}
        for time in (0.25, 0.5, 0.75, 1.0):
            await at(time)
            assert_answered(await ask(pool, "y"))
        upstream.down.clear()
        await at(1.625)
        assert states(pool) == {"a": "up", "b": "up"}
        await ask(pool, "z")

    assert upstream.batches[:2] == [(0.0, "a", ["x"]), (0.0, "b", ["x"])]
    assert {batch.deployment for batch in upstream.batches[2:-1]} == {"b"}
    assert upstream.batches[-1].deployment == "a"
    assert [p.at for p in upstream.probes if p.deployment == "a"] == [0, 0.5, 1.0, 1.5]


@fake_time
async def test_failures_in_a_row_take_a_server_out() -> None:
    """After the third, what comes goes to the other without a try."""
    upstream = RecordingUpstream(latency_s=0.125, faults=[Fault(Failure.SERVER_ERROR, "a")])

    async with running(upstream, FIRST_A, SETTINGS) as pool:
        for _ in range(3):
            assert states(pool)["a"] == "up"
            assert_answered(await ask(pool, "x"))

        assert states(pool)["a"] == "down"
        sent = len(upstream.batches)
        assert_answered(await ask(pool, "y"))
        assert [batch.deployment for batch in upstream.batches[sent:]] == ["b"]


@fake_time
async def test_when_the_last_server_goes_what_waits_fails_at_once() -> None:
    """A caller can try elsewhere, instead of waiting for its deadline."""
    upstream = RecordingUpstream(latency_s=1)
    settings = EngineSettings(batching=BatchingSettings(in_flight_max=2, items_max=4), health=SETTINGS.health)

    async with running(upstream, "a", settings) as pool:
        under_way = ask(pool, texts(4, "under way "))
        await at(0.5)
        upstream.down.add("a")
        calls = [ask(pool, texts(3, name)) for name in "abcd"]
        errors = [await failure(call) for call in calls]

        assert now() == 0.5
        assert all(isinstance(error, NoDeployment) for error in errors)
        assert await outcome(under_way) == "answered"
        assert_at_rest(pool)


@fake_time
async def test_while_no_server_is_up_calls_fail_at_once_and_are_served_again_after_a_probe() -> None:
    """Recovery takes one probe and no call."""
    upstream = RecordingUpstream(down={"a"})

    async with running(upstream, "a", SETTINGS) as pool:
        assert isinstance(await failure(ask(pool, "x")), NoDeployment)
        await at(0.75)
        assert isinstance(await failure(ask(pool, "x")), NoDeployment)
        assert now() == 0.75

        upstream.down.clear()
        await at(1.0)
        assert_answered(await ask(pool, "x"))

    assert upstream.batches == [(1.0, "a", ["x"])]


@fake_time
async def test_a_server_that_comes_up_takes_over_what_waits() -> None:
    """Nothing else has to happen for that."""
    upstream = RecordingUpstream(latencies={"a": 100, "b": 1}, down={"b"})
    settings = EngineSettings(batching=BatchingSettings(in_flight_max=1), health=SETTINGS.health)

    async with running(upstream, "ab", settings) as pool:
        busy = ask(pool, "busy", within_s=10)
        await idle()
        waits = ask(pool, "waits")
        await at(1.75)
        upstream.down.clear()

        assert_answered(await waits)
        assert now() == 3
        assert isinstance(await failure(busy), DeadlineExceeded)


@fake_time
async def test_a_call_that_lost_one_server_in_part_is_still_answered_whole() -> None:
    """Its other parts stay where they are."""
    upstream = RecordingUpstream(latency_s=1)

    async with running(upstream, "abc", SETTINGS) as pool:
        call = ask(pool, texts(96))
        await at(0.5)
        upstream.faults.append(Fault(Failure.DISCONNECTED, "a"))

        assert_answered(await call)


@fake_time
async def test_a_call_of_which_nothing_waits_survives_the_loss_of_all_servers() -> None:
    """What is under way may still be answered."""
    upstream = RecordingUpstream(latencies={"a": 3})

    async with running(upstream, "a", SETTINGS) as pool:
        under_way = ask(pool, "under way")
        await at(1)
        upstream.down.add("a")
        assert isinstance(await failure(ask(pool, "x")), NoDeployment)

        assert_answered(await under_way)


@fake_time
async def test_a_retry_that_waits_for_the_last_server_fails_with_it() -> None:
    """It is told at the same moment as all that waits."""
    upstream = RecordingUpstream(
        latency_of=lambda _, request: {"slow": 20.0, "kills": 3.0}.get(request.items[0], 0.5),
        faults=[Fault(Failure.SERVER_ERROR, on=lambda r: r.items[0] in ("kills", "bad luck"))],
    )
    settings = EngineSettings(
        batching=BatchingSettings(in_flight_max=2, items_max=1), health=HealthSettings(failures_max=1)
    )

    async with running(upstream, "b", settings) as pool:
        slow, kills = ask(pool, "slow"), ask(pool, "kills")
        await idle()
        pool.add(deployment("a"))
        await idle()
        unlucky = ask(pool, "bad luck")
        await at(0.75)
        assert states(pool) == {"b": "up", "a": "down"}
        pool.remove("a")

        assert isinstance(await failure(unlucky), NoDeployment)
        assert isinstance(await failure(kills), NoDeployment)
        assert now() == 3
        assert_answered(await slow)


# Silence


@fake_time
async def test_a_silent_server_gets_a_canary() -> None:
    """Its health route would answer even if its model were dead."""
    upstream = RecordingUpstream()

    async with running(upstream, "a", SETTINGS) as pool:
        await at(35)

        assert states(pool) == {"a": "up"}
    assert upstream.probes == [
        (0, "a", "inspect"),
        (10, "a", "canary"),
        (20, "a", "canary"),
        (30, "a", "canary"),
    ]


@fake_time
async def test_a_busy_server_is_not_probed() -> None:
    """Its answers are proof enough."""
    upstream = RecordingUpstream(latency_s=0.5)

    async with running(upstream, "a", SETTINGS) as pool:
        for time in range(0, 60, 5):
            await at(time)
            await ask(pool, "x")

    assert [probe.kind for probe in upstream.probes] == ["inspect"]


@fake_time
async def test_a_server_that_hangs_is_taken_out_and_comes_back() -> None:
    """Nothing but canaries can find that while nobody calls."""
    upstream = RecordingUpstream()

    async with running(upstream, "a", SETTINGS) as pool:
        upstream.hung.add("a")
        await at(60)
        assert states(pool) == {"a": "down"}

        upstream.hung.clear()
        await at(65)
        assert states(pool) == {"a": "up"}
        assert_answered(await ask(pool, "x"))


@fake_time
async def test_callers_in_a_hurry_do_not_take_a_server_down() -> None:
    """Who gives it a quarter of a second says nothing about it."""
    upstream = RecordingUpstream(latency_s=0.5)

    async with running(upstream, "a", SETTINGS) as pool:
        for _ in range(10):
            assert isinstance(await failure(ask(pool, "x", within_s=0.25)), DeadlineExceeded)
            await idle()
            assert states(pool) == {"a": "up"}


@fake_time
async def test_timeouts_of_patient_callers_take_a_server_down() -> None:
    """It had all the time that the configuration gives it."""
    upstream = RecordingUpstream(faults=[Fault(Failure.TIMEOUT, "a")])

    async with running(upstream, [deployment("a", timeout_s=5)], SETTINGS) as pool:
        for _ in range(3):
            await failure(ask(pool, "x"))

        assert states(pool) == {"a": "down"}


@pytest.mark.xfail(
    strict=True,
    reason="Health counts failures of batches that were sent before it went down; a generation would tell them",
)
@fake_time
async def test_time_outs_of_before_an_outage_do_not_end_the_recovery() -> None:
    """They are about the process that is gone."""
    upstream = RecordingUpstream(latency_s=0.125)
    settings = EngineSettings(batching=BatchingSettings(items_max=1), health=SETTINGS.health)

    async with running(upstream, "a", settings) as pool:
        upstream.hung.add("a")
        old = [ask(pool, text) for text in texts(4)]
        await at(1)
        upstream.hung.clear()
        upstream.down.add("a")
        await failure(ask(pool, "finds it gone"))
        upstream.down.clear()
        await at(2)
        assert states(pool) == {"a": "up"}
        assert_answered(await ask(pool, "finds it back"))

        assert {type(await failure(call)) for call in old} == {DeadlineExceeded}
        assert now() == 30
        await idle()
        assert states(pool) == {"a": "up"}


# Servers that change


@fake_time
async def test_a_server_that_comes_back_different_is_treated_as_it_now_is() -> None:
    """It may have been started anew with other settings."""
    upstream = RecordingUpstream(facts={"a": ServerFacts(frozenset({"embed"}), 32)})

    async with running(upstream, "a", SETTINGS) as pool:
        upstream.down.add("a")
        await failure(ask(pool, "x"))
        upstream.facts["a"] = ServerFacts(frozenset({"embed", "rerank"}), 8, Encoding.FLOAT)
        upstream.down.clear()
        await at(1)
        upstream.batches.clear()
        await ask(pool, texts(20))

        assert pool.capabilities == {"embed", "rerank"}
    assert max(sizes(upstream)) == 8
    assert upstream.requests[-1].encoding is Encoding.FLOAT


@fake_time
async def test_a_server_that_joins_under_load_gets_its_part() -> None:
    """As soon as it has answered a probe."""
    upstream = RecordingUpstream(latency_s=1)
    settings = EngineSettings(batching=BatchingSettings(items_max=4, in_flight_max=1))

    async with running(upstream, "a", settings) as pool:
        call = ask(pool, texts(40))
        await at(2.5)
        pool.add(deployment("b"))
        assert_answered(await call)

    assert [b.at for b in upstream.batches if b.deployment == "b"] == [2.5, 3.5, 4.5, 5.5]


@fake_time
async def test_a_server_that_is_removed_gets_no_more_and_ends_what_it_has() -> None:
    """The callers of what is under way there are answered."""
    upstream = RecordingUpstream(latency_s=1)
    settings = EngineSettings(batching=BatchingSettings(items_max=4, in_flight_max=1))

    async with running(upstream, "ab", settings) as pool:
        call = ask(pool, texts(40))
        await at(2.5)
        pool.remove("b")
        assert states(pool) == {"a": "up"}
        assert_answered(await call)
        assert_at_rest(pool)
        await at(60)

    assert max(batch.at for batch in upstream.batches if batch.deployment == "b") == 2
    assert not [probe for probe in upstream.probes if probe.deployment == "b" and probe.at > 2.5]


@fake_time
async def test_removing_the_last_server_ends_what_waits() -> None:
    """Nobody will come."""
    upstream = RecordingUpstream(latency_s=1)
    settings = EngineSettings(batching=BatchingSettings(items_max=4, in_flight_max=1))

    async with running(upstream, "a", settings) as pool:
        under_way = ask(pool, texts(4))
        await at(0.25)
        waits = ask(pool, "waits")
        await at(0.5)
        pool.remove("a")

        assert isinstance(await failure(waits), NoDeployment)
        assert now() == 0.5
        assert_answered(await under_way)
        assert now() == 1


@pytest.mark.parametrize("turns", range(6))
@fake_time
async def test_removing_a_server_in_any_turn_leaves_nobody_waiting(turns: int) -> None:
    """A batch that was given to it in the same moment is still sent, or goes elsewhere."""
    upstream = RecordingUpstream(latency_s=1)

    async with running(upstream, FIRST_A, SETTINGS) as pool:
        call = ask(pool, "x")
        for _ in range(turns):
            await asyncio.sleep(0)
        pool.remove("a")

        assert_answered(await call)
        assert now() == 1
        assert_at_rest(pool)


@fake_time
async def test_a_server_may_be_removed_and_added_again_while_it_is_busy() -> None:
    """Its old work and its new work are counted apart."""
    upstream = RecordingUpstream(latency_s=1)

    async with running(upstream, "a", SETTINGS) as pool:
        old = ask(pool, "old")
        await at(0.5)
        pool.remove("a")
        pool.add(deployment("a"))
        await idle()
        new = ask(pool, "new")
        await idle()
        assert [(each.batches, each.items) for each in pool.stats().deployments] == [(1, 1)]
        assert_answered(await old)
        assert [(each.batches, each.items) for each in pool.stats().deployments] == [(1, 1)]
        assert_answered(await new)
        assert_at_rest(pool)


# Events


@fake_time
async def test_changes_are_reported_once_each_with_their_reason() -> None:
    """A server that is down for an hour is not reported 7,200 times."""
    upstream = RecordingUpstream()
    events: list[Event] = []

    async with running(upstream, "a", SETTINGS, events) as pool:
        upstream.down.add("a")
        await failure(ask(pool, "x"))
        await at(100)
        upstream.down.clear()
        await at(101)

    changes = [(e.deployment, e.up, e.why) for e in events if isinstance(e, DeploymentChanged)]
    assert changes == [
        ("a", True, "answers"),
        ("a", False, "no connection: refused"),
        ("a", True, "answers"),
    ]


@pytest.mark.parametrize("kind", [None, Failure.REFUSED])
@fake_time
async def test_nothing_is_reported_of_a_server_after_it_is_gone(kind: Failure | None) -> None:
    """Its series in the metrics would come back, and stay for ever."""
    upstream = RecordingUpstream(latency_s=1)
    events: list[Event] = []

    async with running(upstream, "ab", SETTINGS, events) as pool:
        calls = [outcome(ask(pool, text)) for text in texts(8)]
        answers = asyncio.gather(*calls)
        await at(0.5)
        if kind:
            upstream.latency_s = 0
            upstream.faults.append(Fault(kind, "a"))
        pool.remove("a")
        await answers

    after = events[events.index(DeploymentGone("model", "a")) + 1 :]
    assert not [e for e in after if isinstance(e, BatchEnded | DeploymentChanged) and e.deployment == "a"]


@pytest.mark.xfail(
    strict=True, reason="Pool._on_health compares names: `self._members.get(name) is not member` is meant"
)
@fake_time
async def test_what_an_old_server_did_is_not_said_of_a_new_one_of_its_name() -> None:
    """An address can come back as another server while the old one's last batch is under way."""
    upstream = RecordingUpstream(latency_s=1, faults=[Fault(Failure.SERVER_ERROR, times=1)])
    events: list[Event] = []
    settings = EngineSettings(health=HealthSettings(failures_max=1))

    async with running(upstream, "a", settings, events) as pool:
        old = ask(pool, "old")
        await at(0.5)
        pool.remove("a")
        pool.add(deployment("a"))
        await failure(old)
        await idle()

        assert states(pool) == {"a": "up"}
    assert [(e.deployment, e.up) for e in events if isinstance(e, DeploymentChanged)] == [("a", True)] * 2


# Bugs of ours


class BrokenUpstream(RecordingUpstream):
    """Raises once what no upstream may raise."""

    broken = True

    async def inspect(self, deployment: DeploymentSettings, timeout_s: float) -> ServerFacts:
        facts = await super().inspect(deployment, timeout_s)
        if self.broken:
            self.broken = False
            raise ZeroDivisionError("a bug")
        return facts


@fake_time
async def test_a_bug_in_a_probe_does_not_end_the_probes() -> None:
    """Else the server is out of service until the gateway is started anew."""
    upstream = BrokenUpstream()
    asyncio.get_running_loop().set_exception_handler(lambda _, __: None)

    async with running(upstream, "a", SETTINGS) as pool:
        await at(5)

        assert states(pool) == {"a": "up"}
