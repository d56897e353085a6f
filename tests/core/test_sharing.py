"""Whether others use a server, from what it says it has worked in all."""

import random

import pytest

from gateway.core.balancer import Balancer, Deployment, Permit
from gateway.core.service_time import Shape
from gateway.core.sharing import Sharing
from tests.core.test_balancer import ONE, deployment


def told(subject: Sharing | Deployment, sums: list[float], every_s: float = 2.0) -> None:
    for number, spent_s in enumerate(sums):
        subject.on_sum(spent_s, number * every_s)


def shared() -> Deployment:
    """Others have two requests in it at any moment; ours take 0.1 s for an item."""
    made = deployment(item_s=0.1)
    told(made, [0, 4, 8])
    return made


def test_what_is_not_ours_is_of_others() -> None:
    """6 s in 2 s, of which 2 s were ours: two requests of others at any moment."""
    subject = Sharing()
    subject.on_sum(100.0, 0.0)
    subject.on_answered(1.5)
    subject.on_answered(0.5)
    subject.on_sum(106.0, 2.0)
    assert subject.others == pytest.approx(2.0)
    assert subject.is_shared


def test_a_server_of_ours_alone_is_not_shared() -> None:
    """Its own sum is less than ours, which contains the way there."""
    subject = Sharing()
    for number in range(5):
        subject.on_sum(number * 1.9, number * 2.0)
        subject.on_answered(2.0)
    assert subject.others == 0
    assert subject.is_alone


def test_nothing_is_known_of_a_server_that_was_asked_once() -> None:
    subject = Sharing()
    subject.on_sum(1e6, 0.0)
    assert not subject.is_shared
    assert not subject.is_alone


def test_a_time_in_which_it_was_not_asked_does_not_count() -> None:
    subject = Sharing()
    told(subject, [0, 1000], every_s=60)
    assert not subject.is_shared


@pytest.mark.parametrize("others", [1, 64])
def test_others_who_leave_are_forgotten(others: int) -> None:
    """Once they were missed twice, however many they were."""
    subject = Sharing()
    told(subject, [0, 2 * others, 4 * others, 4 * others, 4 * others])
    assert subject.is_alone


@pytest.mark.parametrize("others", [1, 64])
def test_who_is_elsewhere_for_a_moment_has_not_left(others: int) -> None:
    """Two batches of ours would take its place, and it would find the server crowded."""
    subject = Sharing()
    told(subject, [0, 2 * others, 4 * others, 4 * others])
    assert subject.is_shared
    subject.on_sum(6 * others, 8.0)
    subject.on_sum(6 * others, 10.0)
    assert subject.is_shared


def test_others_of_long_ago_are_forgotten() -> None:
    """A pool that is not in use asks nobody, and when it is again, they may be gone."""
    subject = Sharing()
    told(subject, [0, 8, 16])
    subject.look(8.9)
    assert subject.is_shared
    subject.look(9.0)
    assert not subject.is_shared
    subject.on_sum(1000, 10.0)
    assert not subject.is_shared


def test_fewer_others_are_an_average() -> None:
    """What several gateways send differs from second to second."""
    subject = Sharing()
    told(subject, [0, 4, 8, 10])
    assert subject.others == pytest.approx(1.5)


def test_a_canary_of_ours_is_not_of_others() -> None:
    subject = deployment(item_s=0.1)
    subject.on_sum(0, 0.0)
    subject.on_canary(0.5, 1.5)
    subject.on_sum(1, 2.0)
    assert subject.sharing.is_alone


def test_who_left_a_server_to_others_comes_back_as_if_they_had_never_been() -> None:
    """Canaries wait for them, which says nothing of the server."""
    subject = deployment(item_s=0.1)
    before = subject.service.parameters
    for at in range(100, 200, 5):
        subject.on_canary(at, at + 2.0)
    assert subject.service.parameters == before


def test_several_servers_behind_one_address_are_no_others() -> None:
    """Their sums come in turn."""
    subject = Sharing()
    told(subject, [10, 500, 12, 504, 14, 508, 16, 512])
    assert not subject.is_shared


def test_a_shared_server_gets_one_batch_at_a_time() -> None:
    """Alone it would get a second full one, which stands behind the first."""
    subject = shared()
    permit = Permit(subject, ONE, 10.0)
    assert not subject.has_room(10.0, full=True)
    assert not subject.has_room(60.0, full=True)
    permit.finish(60.0)
    assert subject.has_room(60.0, full=False)


def test_the_work_for_others_is_not_learned_as_our_own() -> None:
    subject = shared()
    before = subject.service.work_s(ONE)
    for number in range(50):
        Permit(subject, ONE, 10.0 + number).finish(10.9 + number, tells=True)
    assert subject.service.work_s(ONE) == before


def test_what_was_known_before_others_came_is_kept() -> None:
    """What is learned until they are noticed is mixed with their work."""
    subject = deployment(item_s=0.1)
    told(subject, [0, 0, 0])
    before = subject.service.parameters
    for number in range(30):
        Permit(subject, ONE, 4.0 + number / 20).finish(4.04 + number / 20, tells=True)
    assert subject.service.parameters != before
    subject.on_sum(60.0, 6.0)
    assert subject.service.parameters == pytest.approx(before)


def test_where_others_are_each_gateway_goes_its_own_way() -> None:
    """Of servers that would answer nearly as soon, always the same one; another one for another gateway."""
    chosen = set()
    for seed in range(20):
        balancer = Balancer(random.Random(seed))
        for name in "abcd":
            made = deployment(name, item_s=0.1)
            told(made, [0, 1, 2])
            balancer.add(made)
        balancer.settle()
        picked = {balancer.pick(balancer.rooms(10.0, full=False), Shape(1, 4, 96), 10.0) for _ in range(20)}
        assert len(picked) == 1
        chosen |= {made.name for made in picked if made}
    assert len(chosen) > 1


@pytest.mark.parametrize(("there", "elsewhere", "moves"), [(0.24, 0.04, True), (1.0, 0.75, False)])
def test_gateways_part_the_servers_among_them(there: float, elsewhere: float, moves: bool) -> None:
    """Who meets others at the first of its own order goes where they are less, unless they are everywhere."""
    balancer = Balancer(random.Random(1))
    for name in "ab":
        balancer.add(deployment(name, item_s=0.1))
    first, second = sorted(balancer, key=lambda each: each.rank)
    told(first, [0, 2 * there, 4 * there])
    told(second, [0, 2 * elsewhere, 4 * elsewhere])
    balancer.settle()

    picked = balancer.pick([first, second], Shape(1, 32, 32 * 24), 10.0)

    assert picked is (second if moves else first)


def test_who_uses_a_server_most_stays_when_others_come() -> None:
    """Were it to leave for those who come now and then, all would move all the time."""
    balancer = Balancer(random.Random(1))
    for name in "ab":
        balancer.add(deployment(name, item_s=0.1))
    first, second = sorted(balancer, key=lambda each: each.rank)
    for at in (0.0, 2.0, 4.0):
        second.sharing.on_answered(1.0)  # of 2 s, while others are there for half a second
        second.on_sum(0.75 * at, at)
    told(first, [0, 0.5, 1.0])
    balancer.settle()

    assert second.sharing.others == first.sharing.others == pytest.approx(0.25)
    assert second.sharing.own == pytest.approx(0.5)
    assert balancer.pick([first, second], ONE, 4.0) is second


def test_who_is_new_to_a_shared_server_learns_it_less_the_part_of_others() -> None:
    """It would know nothing of it for as long as others are there, and go on to ask it before all others."""
    new = deployment()
    told(new, [0, 2, 4])
    assert new.sharing.is_shared

    for at in range(5, 15):
        Permit(new, ONE, at).finish(at + 0.2, tells=True)

    assert not new.is_new
    assert new.service.latency_s + new.service.work_s(ONE) == pytest.approx(0.1, rel=0.1)


def test_where_others_are_the_idle_come_first() -> None:
    """A batch behind our own would wait, and another gateway may come before it."""
    balancer = Balancer(random.Random(1))
    for name in "ab":
        balancer.add(deployment(name, item_s=0.1, latency_s=0.4))
    first, second = sorted(balancer, key=lambda each: each.rank)
    told(second, [0, 0.4, 0.8])
    balancer.settle()
    Permit(first, ONE, 10.0)

    assert balancer.pick([first, second], Shape(1, 32, 32 * 24), 10.0) is second


def test_a_server_full_of_others_is_the_last() -> None:
    balancer = Balancer(random.Random(1))
    for name, others in (("a", 3), ("b", 0), ("c", 3)):
        made = deployment(name, item_s=0.1)
        told(made, [0, 2 * others, 4 * others])
        balancer.add(made)
    balancer.settle()
    picked = balancer.pick(balancer.rooms(10.0, full=False), ONE, 10.0)
    assert picked
    assert picked.name == "b"


def test_a_canary_to_a_server_that_is_new_here_tells_nothing_of_its_speed() -> None:
    """Others may have had it for long: a canary that waited for them for five seconds was taken for what it
    needs for a short text, so that whole batches seemed to need minutes.
    """
    new = deployment()
    before = new.service.parameters
    new.on_canary(0.0, 5.0)
    assert new.service.parameters == before


def test_what_is_first_learned_among_many_others_is_mostly_theirs() -> None:
    """As when a gateway starts before a server that has a queue: 200 requests of others, of 20 ms each."""
    only = deployment()
    at = 0.0
    only.on_sum(0.0, at)
    while at < 16:
        permit = Permit(only, ONE, at)
        at += 200 * 0.02
        permit.finish(at, tells=True)
        only.on_sum(201 * at, at)
    assert only.sharing.others == pytest.approx(200, rel=0.01)
    assert 0.002 < only.service.work_s(ONE) < 0.05
