import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.balancer import Balancer, Deployment, Permit
from gateway.core.health import Health
from gateway.core.settings import HealthSettings


def deployment(
    name: str = "a", *, in_flight_max: int = 100, weight: float = 1.0, up: bool = True
) -> Deployment:
    health = Health(HealthSettings(), now=0)
    if up:
        health.on_probe_answer(0)
    return Deployment(name, health, in_flight_max=in_flight_max, weight=weight)


def balancer(*deployments: Deployment, seed: int = 0) -> Balancer:
    subject = Balancer(random.Random(seed))
    for each in deployments:
        subject.add(each)
    return subject


def chosen(permit: Permit | None) -> str:
    assert permit is not None
    return permit.deployment.name


def test_a_permit_counts_from_the_moment_of_the_choice() -> None:
    """Two picks in one turn never overfill a deployment."""
    subject = balancer(deployment(in_flight_max=1))

    assert subject.pick(3) is not None
    assert subject.pick(3) is None


def test_a_finished_permit_gives_its_room_back() -> None:
    """Both counts return to what they were."""
    only = deployment(in_flight_max=1)
    permit = balancer(only).pick(7)
    assert permit is not None
    assert (only.batches, only.items) == (1, 7)

    permit.finish()

    assert (only.batches, only.items) == (0, 0)
    assert only.has_room


def test_a_permit_is_finished_once() -> None:
    """A second finish would make room that is not there."""
    only = deployment()
    permit = balancer(only).pick(7)
    assert permit is not None
    permit.finish()

    with pytest.raises(AssertionError, match="once"):
        permit.finish()

    assert (only.batches, only.items) == (0, 0)


def test_the_least_busy_is_chosen_by_items_not_by_batches() -> None:
    """One batch of 32 is more work than two of one."""
    a, b = deployment("a"), deployment("b")
    subject = balancer(a, b)
    Permit(a, 32)
    Permit(b, 1)
    Permit(b, 1)

    assert chosen(subject.pick(1)) == "b"


def test_weights_scale_what_counts_as_busy() -> None:
    """A server with weight 3 is as busy with thirty items as another with ten."""
    a, b = deployment("a", weight=3), deployment("b")
    subject = balancer(a, b)
    Permit(a, 29)
    Permit(b, 10)

    assert chosen(subject.pick(1)) == "a"


def test_work_is_spread_in_proportion_to_weights() -> None:
    """Under load each deployment holds its share, to within a batch."""
    deployments = [deployment("a", weight=1), deployment("b", weight=2), deployment("c", weight=5)]
    subject = balancer(*deployments)

    for _ in range(80):
        subject.pick(1)

    assert [d.items for d in deployments] == [10, 20, 50]


@pytest.mark.parametrize("busy", [0, 4])
def test_ties_are_broken_at_random(busy: int) -> None:
    """In a fixed order the first would get every batch of a lightly loaded pool."""
    counts: Counter[str] = Counter()

    for seed in range(300):
        deployments = [deployment(name) for name in "abc"]
        for each in deployments:
            if busy:
                Permit(each, busy)
        counts[chosen(balancer(*deployments, seed=seed).pick(1))] += 1

    assert all(60 <= counts[name] <= 140 for name in "abc")


def test_idle_deployments_are_chosen_in_proportion_to_weights() -> None:
    """A light load too is spread as the operator said."""
    counts: Counter[str] = Counter()

    for seed in range(400):
        subject = balancer(deployment("a", weight=3), deployment("b", weight=1), seed=seed)
        counts[chosen(subject.pick(1))] += 1

    assert 260 <= counts["a"] <= 340


def test_the_same_seed_makes_the_same_choices() -> None:
    """A run can be repeated."""

    def choices(seed: int) -> list[str]:
        subject = balancer(*(deployment(name) for name in "abcdefgh"), seed=seed)
        return [chosen(subject.pick(1)) for _ in range(40)]

    assert choices(seed=7) == choices(seed=7)
    assert choices(seed=7) != choices(seed=8)


def test_one_that_is_not_up_gets_nothing() -> None:
    """Whether it has never answered or answers no more."""
    gone = deployment("b")
    gone.health.on_failure(1, "refused", refused=True)
    subject = balancer(deployment("a", up=False), gone)

    assert subject.pick(1) is None
    assert subject.rooms() == 0
    assert not subject.any_up


def test_one_that_is_to_be_avoided_is_not_chosen_even_when_it_is_the_only_one_with_room() -> None:
    """A batch never goes back to the server that failed on it."""
    subject = balancer(deployment("a"), deployment("b", in_flight_max=0))

    assert subject.pick(1, avoid=("a",)) is None
    assert subject.up_besides(("a",))


def test_up_besides_asks_about_health_and_not_about_room() -> None:
    """A batch may wait for a server that is full, but not for one that is down."""
    subject = balancer(deployment("a", in_flight_max=0), deployment("b", up=False))

    assert subject.up_besides(())
    assert not subject.up_besides(("a",))


def test_rooms_counts_deployments_and_not_permits() -> None:
    """The share of a burst is one batch for each deployment."""
    subject = balancer(
        deployment("a", in_flight_max=8), deployment("b", in_flight_max=1), deployment("c", up=False)
    )
    assert subject.rooms() == 2

    subject.pick(1, avoid=("a",))

    assert subject.rooms() == 1


def test_a_removed_deployment_is_not_chosen_and_its_permits_still_end() -> None:
    """What is under way there ends."""
    a = deployment("a")
    subject = balancer(a)
    permit = subject.pick(5)
    assert permit is not None

    subject.remove("a")
    permit.finish()

    assert subject.pick(1) is None
    assert len(subject) == 0
    assert (a.batches, a.items) == (0, 0)


def test_names_are_unique() -> None:
    """A name is how a deployment is found, avoided and measured."""
    subject = balancer(deployment("a"))

    with pytest.raises(AssertionError):
        subject.add(deployment("a"))


def test_the_repr_of_a_deployment_says_what_it_holds() -> None:
    """Reading it is how a stuck pool is understood."""
    only = deployment("a")
    Permit(only, 3)

    assert repr(only) == "<Deployment a up, 1 batches, 3 items>"


@settings(deadline=None, derandomize=True, max_examples=100)
@given(
    st.integers(0, 2**32),
    st.lists(
        st.tuples(st.integers(1, 4), st.sampled_from([0.5, 1.0, 3.0]), st.booleans()), min_size=1, max_size=5
    ),
    st.lists(st.tuples(st.booleans(), st.integers(1, 32), st.sets(st.sampled_from("abcde"))), max_size=60),
)
def test_permits_are_conserved_and_the_least_busy_is_always_chosen(
    seed: int,
    made: list[tuple[int, float, bool]],
    steps: list[tuple[bool, int, set[str]]],
) -> None:
    """Whatever is picked and finished: counts are those of the open permits, and limits are kept."""
    deployments = [
        deployment(name, in_flight_max=most, weight=weight, up=up)
        for name, (most, weight, up) in zip("abcde", made, strict=False)
    ]
    subject = balancer(*deployments, seed=seed)
    held: list[Permit] = []

    for finishes, items, avoid in steps:
        if finishes and held:
            held.pop(items % len(held)).finish()
        eligible = [d for d in deployments if d.has_room and d.name not in avoid]
        least = min((d.items / d.weight for d in eligible), default=None)
        permit = subject.pick(items, avoid)
        if permit is None:
            assert not eligible
        else:
            assert permit.deployment in eligible
            assert (permit.deployment.items - items) / permit.deployment.weight == least
            held.append(permit)
        for each in deployments:
            assert each.batches == sum(p.deployment is each for p in held) <= each.in_flight_max
            assert each.items == sum(p.items for p in held if p.deployment is each)
        assert subject.rooms() == sum(d.has_room for d in deployments)

    for permit in held:
        permit.finish()
    assert all((d.batches, d.items) == (0, 0) for d in deployments)
