"""Servers that go and come back, and what that means for calls."""

from gateway.core.retry import Failure
from gateway.core.settings import BatchingSettings, EngineSettings, HealthSettings
from gateway.errors import DeadlineExceeded, NoDeployment, Overloaded
from tests.fakes.time import fake_time, idle
from tests.fakes.upstream import Fault, RecordingUpstream
from tests.pool.pools import (
    acquaint,
    ask,
    assert_answered,
    assert_at_rest,
    at,
    deployment,
    failure,
    now,
    outcome,
    running,
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
        await acquaint(pool)
        under_way = ask(pool, texts(4, "under way "))
        await at(now() + 0.5)
        since = now()
        upstream.down.add("a")
        calls = [ask(pool, texts(3, name)) for name in "abcd"]
        errors = [await failure(call) for call in calls]

        assert now() == since
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
        latency_of=lambda _, request: 60.0 if request.items[0].startswith("slow") else 0.5,
        faults=[Fault(Failure.SERVER_ERROR, "a")],
    )
    settings = EngineSettings(
        batching=BatchingSettings(in_flight_max=2, items_max=1), health=HealthSettings(failures_max=1)
    )

    async with running(upstream, "b", settings) as pool:
        await acquaint(pool)
        since = now()
        slow = [ask(pool, "slow"), ask(pool, "slow too")]
        await idle()
        upstream.hung.add("b")
        pool.add(deployment("a"))
        await idle()
        unlucky = ask(pool, "bad luck")
        await at(since + 0.75)
        assert states(pool) == {"b": "up", "a": "down"}
        pool.remove("a")

        assert isinstance(await failure(unlucky), NoDeployment)
        told = now()
        for call in slow:
            assert isinstance(await failure(call), NoDeployment)
        assert now() == told


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
    """Its answers are proof enough that it lives; now and then it is seen that it is the same still."""
    upstream = RecordingUpstream(latency_s=0.5)

    async with running(upstream, "a", SETTINGS) as pool:
        for time in range(0, 60, 5):
            await at(time)
            await ask(pool, "x")

    assert [probe.kind for probe in upstream.probes] == ["inspect"] + ["canary"] * 5


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
async def test_one_that_hangs_again_is_found_in_the_time_that_it_was_slow_for() -> None:
    """It had been given up half a second too soon, which calls for no more than twice the time."""
    upstream, limit_s = RecordingUpstream(), SETTINGS.health.probe_timeout_s

    async with running(upstream, "a", SETTINGS) as pool:
        upstream.hung.add("a")
        await at(10 + limit_s)
        assert states(pool) == {"a": "down"}
        upstream.hung.clear()
        await at(now() + 0.5)
        assert states(pool) == {"a": "up"}

        upstream.hung.add("a")
        await at(now() + 0.5 + 2 * limit_s)
        assert states(pool) == {"a": "up"}
        await at(now() + 2 * 0.5)
        assert states(pool) == {"a": "down"}


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
async def test_a_timeout_of_a_patient_caller_and_then_of_a_probe_take_a_server_down() -> None:
    """It had all the time that the configuration gives it, and then does not even answer one item."""
    upstream = RecordingUpstream()

    async with running(upstream, [deployment("a", timeout_s=5)], SETTINGS) as pool:
        upstream.hung.add("a")
        await failure(ask(pool, "x"))
        await at(5.5 + SETTINGS.health.probe_timeout_s + 0.1)

        assert states(pool) == {"a": "down"}


@fake_time
async def test_a_canary_of_before_an_outage_does_not_end_it() -> None:
    """Whoever listens there next is inspected first: it may serve something else."""
    upstream = RecordingUpstream()

    async with running(upstream, "a", SETTINGS) as pool:
        upstream.free_at["a"] = SETTINGS.health.silent_s_max + 1
        await at(SETTINGS.health.silent_s_max + 0.5)
        upstream.down.add("a")
        assert isinstance(await failure(ask(pool, "x")), NoDeployment)
        await at(SETTINGS.health.silent_s_max + 1.25)

        assert states(pool) == {"a": "down"}


@fake_time
async def test_a_slow_server_that_keeps_answering_is_not_taken_out_by_a_canary() -> None:
    """The canary stands in the server's queue behind our own batches, and these are answered."""
    upstream = RecordingUpstream(latency_s=3, serial=True)

    async with running(upstream, "a") as pool:
        calls = [ask(pool, texts(32, f"call {i} ")) for i in range(4)]
        hasty = ask(pool, texts(32, "hasty "), within_s=5)
        calls += [ask(pool, texts(32, f"call {i} ")) for i in range(4, 16)]

        assert isinstance(await failure(hasty), DeadlineExceeded)
        assert [await outcome(call) for call in calls] == ["answered"] * 16


@fake_time
async def test_a_server_that_has_too_much_to_do_is_overloaded_and_not_down() -> None:
    """Callers are told to come back, in words that do not make an ingress take the gateway out."""
    upstream = RecordingUpstream(latency_s=1)

    async with running(upstream, "a") as pool:
        upstream.full.add("a")
        errors = []
        for time in range(5):
            await at(time)
            errors.append(type(await failure(ask(pool, "x"))))
        upstream.full.clear()
        await at(now() + 1)

        assert errors == [Overloaded] * 5
        assert_answered(await ask(pool, "x"))


@fake_time
async def test_time_outs_of_before_an_outage_do_not_end_the_recovery() -> None:
    """They are about the process that is gone."""
    upstream = RecordingUpstream(latency_s=0.125)
    settings = EngineSettings(batching=BatchingSettings(items_max=1), health=HealthSettings(failures_max=1))

    async with running(upstream, "a", settings) as pool:
        await acquaint(pool)
        upstream.hung.add("a")
        since = now()
        old = ask(pool, "old")
        await at(since + 1)
        upstream.hung.clear()
        upstream.down.add("a")
        assert isinstance(await failure(ask(pool, "finds it gone")), NoDeployment)
        upstream.down.clear()
        await at(since + 2)
        assert states(pool) == {"a": "up"}
        assert_answered(await ask(pool, "finds it back"))

        assert isinstance(await failure(old), DeadlineExceeded)
        assert now() == since + 30
        await idle()
        assert states(pool) == {"a": "up"}
