"""A pool by other settings, while there is work."""

from dataclasses import replace

from gateway.core.events import DeploymentGone, Event
from gateway.core.settings import (
    BatchingSettings,
    CacheSettings,
    DeploymentSettings,
    EngineSettings,
    HealthSettings,
    PoolSettings,
    Secret,
)
from gateway.errors import NoDeployment
from tests.fakes.time import fake_time, idle
from tests.fakes.upstream import RecordingUpstream
from tests.pool.pools import (
    ask,
    assert_answered,
    assert_at_rest,
    at,
    deployment,
    failure,
    running,
    sizes,
    states,
    texts,
)

ENGINE = EngineSettings(batching=BatchingSettings(items_max=4, in_flight_max=1))


def settings(*names: str | DeploymentSettings) -> PoolSettings:
    members = (each if isinstance(each, DeploymentSettings) else deployment(each) for each in names)
    return PoolSettings("model", tuple(members))


@fake_time
async def test_who_goes_gets_no_more_and_ends_what_it_has() -> None:
    upstream, events = RecordingUpstream(latency_s=1), list[Event]()

    async with running(upstream, "ab", ENGINE, events=events) as pool:
        call = ask(pool, texts(40))
        await at(2.5)
        pool.become(settings("a", "c"), ENGINE)
        assert states(pool) == {"a": "up", "c": "starting"}
        assert_answered(await call)
        assert_at_rest(pool)

    assert max(batch.at for batch in upstream.batches if batch.deployment == "b") == 2
    assert [batch.deployment for batch in upstream.batches].count("c") > 1
    assert [probe.deployment for probe in upstream.probes].count("a") == 1, "it stayed as it was"
    assert DeploymentGone("model", "b") in events


@fake_time
async def test_the_last_that_is_up_works_until_another_is() -> None:
    """Which is gone at once then."""
    upstream = RecordingUpstream(latency_s=0.1)
    upstream.down.add("c")

    async with running(upstream, "ab", ENGINE) as pool:
        pool.become(settings("c"), ENGINE)
        await at(3)
        assert_answered(await ask(pool, texts(4)))
        assert states(pool) == {"a": "up", "b": "up", "c": "starting"}
        upstream.down.clear()
        await at(5)
        assert states(pool) == {"c": "up"}
        assert_answered(await ask(pool, texts(4)))


@fake_time
async def test_but_not_for_long() -> None:
    """Somebody has meant it to go."""
    upstream = RecordingUpstream()
    upstream.down.add("c")

    async with running(upstream, "a", ENGINE) as pool:
        pool.become(settings("c"), ENGINE)
        await at(29)
        assert_answered(await ask(pool, "x"))
        await at(31)
        assert states(pool) == {"c": "starting"}
        assert isinstance(await failure(ask(pool, "x")), NoDeployment)


@fake_time
async def test_one_that_goes_down_meanwhile_is_gone() -> None:
    upstream = RecordingUpstream()
    upstream.down.add("c")

    async with running(upstream, "a", ENGINE) as pool:
        pool.become(settings("c"), ENGINE)
        upstream.down.add("a")
        await failure(ask(pool, "x"))
        await idle()
        assert states(pool) == {"c": "starting"}


@fake_time
async def test_one_that_is_wanted_again_stays() -> None:
    upstream = RecordingUpstream()
    upstream.down.add("c")

    async with running(upstream, "a", ENGINE) as pool:
        pool.become(settings("c"), ENGINE)
        await at(1)
        pool.become(settings("a"), ENGINE)
        await at(60)
        assert states(pool) == {"a": "up"}
        assert_answered(await ask(pool, "x"))

    assert [probe.kind for probe in upstream.probes if probe.deployment == "a"].count("inspect") == 1


@fake_time
async def test_another_key_is_tried_at_once() -> None:
    """What is known of the server stays."""
    upstream = RecordingUpstream()
    keyed = replace(deployment("a"), api_key=Secret("new"))

    async with running(upstream, "a", ENGINE) as pool:
        await at(3)
        probes = len(upstream.probes)
        pool.become(settings(keyed), ENGINE)
        await idle()
        assert len(upstream.probes) == probes + 1
        assert states(pool) == {"a": "up"}


@fake_time
async def test_settings_of_the_engine_count_for_what_is_there() -> None:
    upstream = RecordingUpstream(latency_s=1)
    changed = EngineSettings(
        batching=BatchingSettings(items_max=2),
        health=HealthSettings(silent_s_max=2),
        cache=CacheSettings(bytes_max=1_000_000),
    )

    async with running(upstream, "a", ENGINE) as pool:
        await ask(pool, texts(8))
        pool.become(settings("a"), changed)
        for _ in range(2):
            await ask(pool, texts(8))
        await at(20)
        probes = [probe.at for probe in upstream.probes if probe.at > 10]

    assert max(sizes(upstream)[2:]) == 2
    assert len(upstream.batches) == 2 + 4
    assert len(probes) >= 4


@fake_time
async def test_a_pool_that_retires_answers_who_has_asked() -> None:
    upstream = RecordingUpstream(latency_s=1)

    async with running(upstream, "a", ENGINE) as pool:
        call = ask(pool, texts(20))
        await idle()
        await pool.retire()
        assert_answered(await call)
