"""Servers with other vectors under the same name: they get no work."""

from dataclasses import replace

import orjson
import pytest

from gateway.core.events import DeploymentChanged, Event, VectorsReplaced
from gateway.core.retry import Failure
from gateway.core.settings import CacheSettings, EngineSettings, HealthSettings
from gateway.errors import NoDeployment
from gateway.messages import Task
from gateway.pool.samples import LONG, SHORT, sample_of, trial_key
from tests.fakes.time import fake_time
from tests.fakes.upstream import EMBEDS, RERANKS, Fault, RecordingUpstream, value_of
from tests.pool.pools import EMBED, ask, assert_answered, at, deployment, failure, now, running, states, texts

RETURNS_S = 1.0
"""By then a server that has come back has been probed."""
AGAIN_S = HealthSettings().silent_s_max + 1
"""By then one with other vectors has been asked again."""


def news(events: list[Event], name: str) -> list[str]:
    return [e.why for e in events if isinstance(e, DeploymentChanged) and e.deployment == name]


@fake_time
async def test_one_that_joins_with_other_vectors_gets_no_work() -> None:
    """Why is said once, however often it is asked again; and it comes up by itself when it is mended."""
    upstream = RecordingUpstream(spaces={"b": "other "})
    events: list[Event] = []

    async with running(upstream, "a", events=events) as pool:
        await ask(pool, "x")
        pool.add(deployment("b"))
        await at(5 * AGAIN_S)
        for number in range(20):
            assert_answered(await ask(pool, texts(64, f"{number} ")))

        assert states(pool) == {"a": "up", "b": "different"}
        assert {batch.deployment for batch in upstream.batches} == {"a"}
        assert len(news(events, "b")) == 1
        assert "as a does" in news(events, "b")[0]
        assert 4 <= sum(probe.deployment == "b" for probe in upstream.probes) <= 30
        upstream.spaces.clear()
        await at(now() + AGAIN_S)
        assert states(pool) == {"a": "up", "b": "up"}
        await ask(pool, texts(64))
    assert {batch.deployment for batch in upstream.batches} == {"a", "b"}


@fake_time
async def test_one_that_comes_back_with_other_vectors_gets_no_work() -> None:
    """As after an upgrade of one of several."""
    upstream = RecordingUpstream()

    async with running(upstream, "ab") as pool:
        await ask(pool, texts(64))
        upstream.down.add("b")
        await ask(pool, texts(64, "finds it gone "))
        upstream.spaces["b"] = "other "
        upstream.down.clear()
        await at(now() + RETURNS_S)
        assert states(pool) == {"a": "up", "b": "different"}

        sent = len(upstream.batches)
        assert_answered(await ask(pool, texts(64, "after ")))
        assert {batch.deployment for batch in upstream.batches[sent:]} == {"a"}


@fake_time
async def test_one_that_was_restarted_as_it_should_be_gets_work_soon() -> None:
    """Nothing tells that it was: it gets no batch that could be refused."""
    upstream = RecordingUpstream(spaces={"b": "other "})

    async with running(upstream, "ab") as pool:
        await ask(pool, "x")
        await at(60)
        assert states(pool) == {"a": "up", "b": "different"}

        upstream.spaces.clear()
        await at(63)
        assert states(pool) == {"a": "up", "b": "up"}


@pytest.mark.parametrize("busy", [False, True])
@fake_time
async def test_one_that_changes_without_an_outage_is_found(busy: bool) -> None:
    """An ingress in front of it hides the change: at the next canary, which the busy get now and then too."""
    upstream = RecordingUpstream(latency_s=0.25)

    async with running(upstream, "ab") as pool:
        await ask(pool, texts(64))
        upstream.spaces["b"] = "other "
        for _ in range(11 * 4 if busy else 0):
            await ask(pool, texts(64))
        await at(now() + (0 if busy else AGAIN_S))

        assert states(pool) == {"a": "up", "b": "different"}


@fake_time
async def test_one_that_loses_a_connection_is_compared_before_it_gets_work_again() -> None:
    """Who listens there next may have been restarted as another, sooner than anybody is refused."""
    upstream = RecordingUpstream(latency_s=0.25, faults=[Fault(Failure.DISCONNECTED, "b", times=1)])

    async with running(upstream, "ab") as pool:
        since = len(upstream.batches)
        calls = [ask(pool, texts(64, f"{i} ")) for i in range(8)]
        await at(now() + 0.2)
        upstream.spaces["b"] = "other "
        for call in calls:
            assert_answered(await call)

        assert states(pool) == {"a": "up", "b": "different"}
    assert [batch.at for batch in upstream.batches[since:] if batch.deployment == "b"] == [0.0]


@fake_time
async def test_a_pool_that_was_changed_as_a_whole_serves_again() -> None:
    """Once its last server has changed; what was kept of the old vectors is gone then."""
    upstream = RecordingUpstream()
    events: list[Event] = []
    settings = EngineSettings(cache=CacheSettings(bytes_max=10**6))

    async with running(upstream, "ab", settings, events) as pool:
        old = await ask(pool, "x")
        upstream.down |= {"a", "b"}
        assert isinstance(await failure(ask(pool, texts(64))), NoDeployment)
        upstream.spaces |= {"a": "new ", "b": "new "}
        upstream.down.remove("a")
        await at(now() + RETURNS_S)
        assert states(pool) == {"a": "different", "b": "down"}
        assert isinstance(await failure(ask(pool, "x")), NoDeployment)

        upstream.down.clear()
        await at(now() + RETURNS_S)
        assert states(pool) == {"a": "up", "b": "up"}
        assert (await ask(pool, "x")).answers == [value_of(EMBED, "new x")] != old.answers
    assert sum(isinstance(event, VectorsReplaced) for event in events) == 1


@fake_time
async def test_a_pool_of_one_may_change_its_vectors() -> None:
    """There is nobody whom it could contradict."""
    upstream = RecordingUpstream()
    events: list[Event] = []

    async with running(upstream, "a", events=events) as pool:
        await ask(pool, "x")
        upstream.spaces["a"] = "new "
        await at(AGAIN_S)

        assert states(pool) == {"a": "up"}
        assert (await ask(pool, "x")).answers == [value_of(EMBED, "new x")]
    assert sum(isinstance(event, VectorsReplaced) for event in events) == 1


@fake_time
async def test_of_three_that_start_the_odd_one_gets_no_work_though_it_was_first() -> None:
    """Until there is work, most of them are right."""
    upstream = RecordingUpstream(spaces={"a": "other "}, down={"b", "c"})

    async with running(upstream, "abc") as pool:
        assert states(pool)["a"] == "up"
        upstream.down.remove("b")
        await at(1)
        assert states(pool) == {"a": "up", "b": "different", "c": "starting"}
        upstream.down.clear()
        await at(2)
        assert states(pool) == {"a": "different", "b": "up", "c": "up"}

        await ask(pool, texts(96))
    assert {batch.deployment for batch in upstream.batches} == {"b", "c"}


@fake_time
async def test_what_one_with_other_vectors_can_do_is_no_part_of_the_pool() -> None:
    """Nor is the size of its batches."""
    facts = {"a": EMBEDS, "b": replace(RERANKS, batch_size=4)}
    upstream = RecordingUpstream(facts=facts, spaces={"b": "other "})

    async with running(upstream, "a") as pool:
        pool.add(deployment("b"))
        await at(1)

        assert states(pool)["b"] == "different"
        assert pool.capabilities == {"embed"}
        assert pool.batch_size == 32


@fake_time
async def test_when_only_ones_with_other_vectors_are_left_calls_are_told_when_to_come_again() -> None:
    """No sooner than one of them is asked again."""
    upstream = RecordingUpstream()

    async with running(upstream, "ab", EngineSettings(health=HealthSettings(probe_interval_s=2.5))) as pool:
        await ask(pool, "x")
        upstream.spaces["b"] = "other "
        await at(AGAIN_S)
        upstream.down.add("a")
        pool.remove("a")
        error = await failure(ask(pool, "x"))

        assert isinstance(error, NoDeployment)
        assert 5 < error.retry_after_s <= 10


# What is compared


@pytest.mark.parametrize("task", list(Task))
def test_the_same_answer_is_the_same_sample(task: Task) -> None:
    """Of each kind that servers give; and another is not."""
    key = trial_key(task)
    one, other = (sample_of(task, value_of(key, text)) for text in (SHORT, LONG))

    assert one == sample_of(task, value_of(key, SHORT))
    assert one != other


def test_binary_vectors_are_compared_bit_by_bit() -> None:
    """A number is eight signs there; and one that is none is no such vector."""
    assert sample_of(Task.EMBED, b"[195.0,226,0]", binary=True).are_bits
    assert not sample_of(Task.EMBED, b"[195.5,226,0]", binary=True).are_bits
    assert not sample_of(Task.EMBED, b"[195.0,226,0]").are_bits


def test_of_several_vectors_their_number_counts() -> None:
    """Another tokenizer gives others."""
    assert sample_of(Task.EMBED, b"[[1,2,3],[4,5,6]]").form == "2 x 3 numbers"


def test_labels_count_whatever_their_order() -> None:
    """A server gives the most likely first."""
    labels = [{"label": "b", "score": 0.7}, {"label": "a", "score": 0.3}]
    one, other = (sample_of(Task.CLASSIFY, orjson.dumps(each)) for each in (labels, labels[::-1]))

    assert one == other
    assert one.form == "2 labels from a to b"
