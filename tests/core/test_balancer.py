"""Who has room, who gets the next batch, and what is known of the work under way."""

import math
import random
from collections import Counter, deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.balancer import Balancer, Deployment, Permit
from gateway.core.health import Health
from gateway.core.service_time import Shape
from gateway.core.settings import HealthSettings

PROPERTY = settings(deadline=None, derandomize=True, max_examples=100)
ONE = Shape(1, 1, 24)
FULL = Shape(1, 32, 32 * 24)


def items(count: int) -> Shape:
    return Shape(1, count, count * 24)


def deployment(
    name: str = "a",
    *,
    in_flight_max: int | None = None,
    weight: float = 1.0,
    up: bool = True,
    item_s: float | None = None,
    latency_s: float = 0.0,
) -> Deployment:
    """One that is new, or one that is known to need `item_s` for an item and `latency_s` for the way."""
    health = Health(HealthSettings(), now=0)
    if up:
        health.on_probe_answer(0)
    made = Deployment(name, health, in_flight_max=in_flight_max, weight=weight)
    if item_s is not None:
        for count in (*range(1, 33), *range(1, 33)):
            made.service.learn(items(count), True, latency_s + count * item_s)
        for _ in range(250):
            made.service.learn(ONE, True, latency_s + item_s)
            made.service.learn(FULL, False, 32 * item_s)
    return made


def balancer(*deployments: Deployment, seed: int = 0) -> Balancer:
    subject = Balancer(random.Random(seed))
    for each in deployments:
        subject.add(each)
    return subject


def chosen(subject: Balancer, shape: Shape = ONE, now: float = 0.0, rest: Shape | None = None) -> str | None:
    picked = subject.pick(subject.rooms(now, full=True), shape, now, rest)
    return picked.name if picked else None


# Permits


def test_a_permit_counts_from_the_moment_of_the_choice() -> None:
    """Two choices in one turn never overfill a deployment."""
    only = deployment(in_flight_max=1)
    subject = balancer(only)

    Permit(only, items(3), now=0)

    assert (only.batches, only.items) == (1, 3)
    assert subject.rooms(0, full=True) == []


def test_a_finished_permit_gives_its_room_back() -> None:
    """Both counts return to what they were."""
    only = deployment(in_flight_max=1)
    permit = Permit(only, items(7), now=0)

    permit.finish(1)

    assert (only.batches, only.items) == (0, 0)
    assert only.remaining_s(1) == 0
    assert only.has_room(1, full=False)


def test_a_permit_is_finished_once() -> None:
    """A second finish would make room that is not there."""
    only = deployment()
    permit = Permit(only, items(7), now=0)
    permit.finish(1)

    with pytest.raises(AssertionError, match="once"):
        permit.finish(2)

    assert (only.batches, only.items) == (0, 0)


def test_a_removed_deployment_is_not_chosen_and_its_permits_still_end() -> None:
    """What is under way there ends."""
    a = deployment("a")
    subject = balancer(a)
    permit = Permit(a, items(5), now=0)

    subject.remove("a")
    permit.finish(1)

    assert subject.rooms(1, full=True) == []
    assert len(subject) == 0
    assert (a.batches, a.items) == (0, 0)


@pytest.mark.parametrize("tells", [True, False])
def test_only_a_permit_that_tells_teaches(tells: bool) -> None:
    """How long a refusal took says nothing of how long an answer takes."""
    only = deployment()

    Permit(only, items(5), now=0).finish(3, tells=tells)

    assert only.service.answers == tells


@PROPERTY
@given(
    st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=5),
    st.lists(
        st.tuples(st.booleans(), st.integers(1, 32), st.booleans(), st.floats(0.0, 2.0), st.booleans()),
        max_size=60,
    ),
    st.integers(0, 2**32),
)
def test_permits_are_conserved_and_limits_are_kept(
    made: list[tuple[int, bool]], steps: list[tuple[bool, int, bool, float, bool]], seed: int
) -> None:
    """Whatever is chosen and finished, counts are those of the open permits, and who is idle has room."""
    deployments = [
        deployment(name, in_flight_max=most, up=up) for name, (most, up) in zip("abcde", made, strict=False)
    ]
    subject = balancer(*deployments, seed=seed)
    held: list[Permit] = []
    now = 0.0

    for finishes, count, full, pause, tells in steps:
        now += pause
        if finishes and held:
            held.pop(count % len(held)).finish(now, tells=tells)
        rooms = subject.rooms(now, full)
        for each in deployments:
            assert each.health.is_up or each not in rooms
            assert each.batches < each.in_flight_max or each not in rooms
            assert each.batches or not each.health.is_up or each in rooms
        if rooms:
            picked = subject.pick(rooms, items(count), now)
            assert picked in rooms
            held.append(Permit(picked, items(count), now))
        for each in deployments:
            mine = [permit for permit in held if permit.deployment is each]
            assert each.batches == len(mine) <= each.in_flight_max
            assert each.items == sum(permit.shape.items for permit in mine)
            assert 0 <= each.remaining_s(now) < math.inf
            assert each.overdue_s(now) >= 0
            assert 0 <= each.busy_ratio(now) <= 1
            assert each.room_at(now) > now

    for permit in held:
        permit.finish(now)
    assert all((d.batches, d.items, d.remaining_s(now)) == (0, 0, 0) for d in deployments)


# Room


def test_one_that_is_not_up_has_no_room() -> None:
    """Whether it has never answered or answers no more."""
    gone = deployment("b")
    gone.health.on_failure(1, "refused", refused=True)
    subject = balancer(deployment("a", up=False), gone)

    assert subject.rooms(0, full=True) == []
    assert subject.room_at(0) == math.inf
    assert not subject.any_up


def test_one_of_which_little_is_known_has_room_when_it_is_idle() -> None:
    """Of when it will be done there is no more than a guess."""
    only = deployment(latency_s=1)
    for answers in range(4):
        assert only.has_room(answers, full=False)
        permit = Permit(only, items(8), answers)
        assert not only.has_room(answers, full=True)
        assert only.room_at(answers) == math.inf
        permit.finish(answers + 0.5, tells=True)

    Permit(only, items(8), 5)

    assert only.has_room(5, full=True)


def test_one_that_works_has_room_shortly_before_it_is_done() -> None:
    """By as much as a batch needs to get there; sent earlier, nothing could join it."""
    only = deployment(item_s=0.1, latency_s=0.4)
    Permit(only, items(30), now=10)
    at = only.room_at(10)

    assert at == pytest.approx(10 + 3 - only.lead_s, rel=0.02)
    assert 0 < only.lead_s <= 0.5
    assert not only.has_room(at - 0.01, full=False)
    assert only.has_room(at, full=False)
    assert balancer(only, deployment("b", item_s=1)).room_at(10) == at


def test_one_full_batch_may_stand_behind_another() -> None:
    """It has nothing to wait for. A third would only make a queue that cannot be overtaken."""
    only = deployment(item_s=0.1)
    Permit(only, FULL, now=0)
    assert not only.has_room(0, full=False)
    assert only.has_room(0, full=True)

    Permit(only, FULL, now=0)

    assert not only.has_room(0, full=True)


@pytest.mark.parametrize("most", [1, 2, 5])
def test_there_are_never_more_batches_than_configured(most: int) -> None:
    """However short they are against the way there."""
    only = deployment(item_s=0.001, latency_s=10, in_flight_max=most)
    for _ in range(most):
        assert only.has_room(0, full=True)
        Permit(only, ONE, now=0)

    assert not only.has_room(0, full=True)
    assert only.room_at(0) == math.inf
    assert only.limit <= most


def test_a_long_way_is_filled_with_batches() -> None:
    """While one is under way, the server must not stand idle: as many as hide the latency."""
    only = deployment(item_s=0.01, latency_s=1)
    sent = 0
    while only.has_room(0, full=False):
        Permit(only, items(8), now=0)
        sent += 1

    assert 4 <= sent <= 1 + 1 / 0.08


# What is known of the work under way


def test_an_answer_tells_when_the_rest_will_be_done() -> None:
    """However wrong the guess was."""
    only = deployment(item_s=0.1, latency_s=0.2)
    first, _ = Permit(only, items(10), now=0), Permit(only, items(20), now=0)
    assert only.remaining_s(0) == pytest.approx(3, rel=0.05)

    first.finish(4)

    assert only.remaining_s(4) == pytest.approx(2 - 0.2, rel=0.05)


def test_of_several_batches_only_the_first_can_be_done_unheard_of() -> None:
    """Those behind it have not even begun when their time, as guessed, is over."""
    only = deployment(item_s=0.1)
    Permit(only, items(10), now=0), Permit(only, items(20), now=0)

    assert only.remaining_s(100) == pytest.approx(2, rel=0.05)


def test_a_deployment_that_is_overdue_is_passed_over() -> None:
    """What is sent there would wait at least as long again."""
    late, busy = deployment("late", item_s=0.1), deployment("busy", item_s=0.1)
    Permit(late, items(10), now=0)
    Permit(busy, items(20), now=9)

    assert late.overdue_s(0.5) == 0
    assert late.overdue_s(9) == pytest.approx(8, rel=0.05)
    assert chosen(balancer(late, busy), now=9) == "busy"


def test_work_is_timed_from_where_the_server_began_with_it() -> None:
    """A batch that stood behind another says only what came after the other's answer."""
    only = deployment()
    first, second = Permit(only, items(8), now=0), Permit(only, items(8), now=0)

    first.finish(10, tells=True)
    second.finish(20, tells=True)
    third = Permit(only, items(8), now=100)
    third.finish(110, tells=True)

    assert only.service.latency_s + only.service.work_s(items(8)) == pytest.approx(10, rel=0.2)


def test_how_busy_a_deployment_was_is_an_average_of_the_last_seconds() -> None:
    """It is shown to operators."""
    only = deployment()
    assert only.busy_ratio(100) == 0

    permit = Permit(only, ONE, now=100)
    assert only.busy_ratio(200) > 0.99
    permit.finish(200)
    assert 0.3 < only.busy_ratio(210) < 0.4
    assert only.busy_ratio(300) < 0.01


# The choice


def test_the_one_that_would_answer_first_is_chosen() -> None:
    """One batch of 32 is more work than two of one."""
    a, b = deployment("a", item_s=0.1), deployment("b", item_s=0.1)
    Permit(a, FULL, now=0)
    Permit(b, ONE, now=0), Permit(b, ONE, now=0)

    assert balancer(a, b).pick([a, b], ONE, 0) is b


def test_a_fast_one_that_is_busy_comes_before_a_slow_one_that_is_idle() -> None:
    """If it would still be done sooner."""
    slow, fast = deployment("slow", item_s=1), deployment("fast", item_s=0.01)
    Permit(fast, FULL, now=0)

    assert chosen(balancer(slow, fast), items(10)) == "fast"


def test_weights_scale_what_counts_as_busy() -> None:
    """A server with weight 3 is as busy with thirty items as another with ten."""
    a, b = deployment("a", weight=3, item_s=0.1), deployment("b", item_s=0.1)
    Permit(a, items(26), now=0)
    Permit(b, items(10), now=0)

    assert chosen(balancer(a, b), items(3)) == "a"


@pytest.mark.parametrize("busy", [0, 4])
def test_ties_are_broken_at_random(busy: int) -> None:
    """In a fixed order the first would get every batch of a lightly loaded pool."""
    counts: Counter[str | None] = Counter()

    for seed in range(300):
        deployments = [deployment(name) for name in "abc"]
        for each in deployments:
            if busy:
                Permit(each, items(busy), now=0)
        subject = balancer(*deployments, seed=seed)
        picked = subject.pick(deployments, ONE, 0)
        counts[picked.name if picked else None] += 1

    assert all(60 <= counts[name] <= 140 for name in "abc")


def test_the_same_seed_makes_the_same_choices() -> None:
    """A run can be repeated."""

    def choices(seed: int) -> list[str | None]:
        subject = balancer(*(deployment(name) for name in "abcdefgh"), seed=seed)
        return [chosen(subject) for _ in range(40)]

    assert choices(seed=7) == choices(seed=7)
    assert choices(seed=7) != choices(seed=8)


def test_a_slow_one_that_is_idle_is_no_help_when_a_fast_one_is_soon_done_with_everything() -> None:
    """What it would take now, the other answers sooner."""
    slow, fast = deployment("slow", item_s=1), deployment("fast", item_s=0.01, in_flight_max=1)
    subject = balancer(slow, fast)
    Permit(fast, items(10), now=0)

    assert chosen(subject, items(10), rest=items(20)) is None
    assert chosen(subject, items(10), rest=items(3200)) == "slow"


def test_nobody_is_passed_over_for_one_that_is_down() -> None:
    """Its work under way may never be answered."""
    slow, fast = deployment("slow", item_s=1), deployment("fast", item_s=0.01, in_flight_max=1)
    subject = balancer(slow, fast)
    Permit(fast, items(10), now=0)

    fast.health.on_failure(1, "refused", refused=True)

    assert chosen(subject, items(10), rest=items(20)) == "slow"


def test_nobody_is_passed_over_for_one_that_is_overdue_by_more() -> None:
    """It may hang; the slow one at least answers."""
    slow, fast = deployment("slow", item_s=1), deployment("fast", item_s=0.01, in_flight_max=1)
    subject = balancer(slow, fast)
    Permit(fast, items(10), now=0)

    assert chosen(subject, items(10), now=20, rest=items(20)) == "slow"


def test_speeds_are_in_proportion_to_what_is_known_and_to_weights() -> None:
    """They are the parts of a burst."""
    made = [deployment(f"{s} {w}", item_s=s, weight=w) for s, w in ((0.1, 1), (0.2, 1), (0.1, 3))]
    made += [deployment("new"), deployment("new and large", weight=3)]

    speeds = balancer(*made).speeds(made)

    assert [speeds[each] / speeds[made[0]] for each in made] == pytest.approx([1, 0.5, 3, 0.5, 1.5], rel=0.05)


def test_new_ones_share_a_burst_by_weight() -> None:
    """Nothing else is known of them."""
    made = [deployment("a"), deployment("b", weight=3)]

    speeds = balancer(*made).speeds(made)

    assert speeds[made[1]] == 3 * speeds[made[0]] > 0


def test_one_of_which_nothing_is_known_is_asked_as_soon_as_it_is_idle() -> None:
    """Beside one that is known to be fast it would never be known."""
    new, fast = deployment("new"), deployment("fast", item_s=0.0001)

    assert chosen(balancer(new, fast)) == "new"
    Permit(new, ONE, now=0)
    assert chosen(balancer(new, fast)) == "fast"


@pytest.mark.parametrize(("took_s", "next_one"), [(0.3, "known"), (0.05, "new")])
def test_one_answer_shows_whether_it_is_worth_another(took_s: float, next_one: str) -> None:
    """Many gateways try whoever comes back. If it is slow, each would lose several calls to it."""
    new, known = deployment("new"), deployment("known", item_s=0.1)

    Permit(new, ONE, now=0).finish(took_s, tells=True)

    assert new.is_new
    assert chosen(balancer(new, known), now=1.0) == next_one
    assert balancer(new, known).speeds([new, known])[new] == pytest.approx(1 / took_s, rel=0.6)


def test_up_besides_asks_about_health_and_not_about_room() -> None:
    """A batch may wait for a server that is full, but not for one that is down."""
    full = deployment("a", in_flight_max=1)
    Permit(full, ONE, now=0)
    subject = balancer(full, deployment("b", up=False))

    assert subject.up_besides(())
    assert not subject.up_besides(("a",))


def test_names_are_unique() -> None:
    """A name is how a deployment is found, avoided and measured."""
    subject = balancer(deployment("a"))

    with pytest.raises(AssertionError):
        subject.add(deployment("a"))


def test_the_repr_of_a_deployment_says_what_it_holds() -> None:
    """Reading it is how a stuck pool is understood."""
    only = deployment("a")
    Permit(only, items(3), now=0)

    assert repr(only) == "<Deployment a up, 1 batches, 3 items>"


def test_of_two_batches_done_in_one_pass_only_the_first_tells_of_the_servers_speed() -> None:
    """The second seems to take no time, which would be believed."""
    only = deployment(item_s=0.01, latency_s=0.005)
    first, second = (Permit(only, FULL, 100.0) for _ in range(2))
    answers = only.service.answers
    first.finish(100.0 + first.expected_s, tells=True)
    second.finish(100.0 + first.expected_s + 1e-4, tells=True)

    assert only.service.answers == answers + 1


def test_the_patience_with_one_that_was_slow_ends_when_it_is_quick_at_work() -> None:
    """What it answers while it stands idle says nothing of that."""
    only = deployment()
    assert only.canary_s(10) == 10
    only.on_hang(100)
    only.restart(130)
    assert only.canary_s(10) == 40

    only.on_canary(131, 131.1)
    assert only.canary_s(10) == 40
    Permit(only, ONE, 132)
    only.on_canary(133, 150)
    assert only.canary_s(10) == 40
    only.on_canary(151, 151.1)
    assert only.canary_s(10) == 30
    for _ in range(3):
        only.on_canary(161, 161.1)
    assert only.canary_s(10) == 10


def test_a_latency_that_is_far_too_long_is_found_out() -> None:
    """By it so much is sent ahead that the server is never idle, and only an idle one shows it."""
    only = deployment(item_s=0.01, latency_s=2.0)
    under_way: deque[tuple[float, Permit]] = deque()
    at, free_at = 0.0, 0.0
    fewest = math.inf
    while at < 12:
        while only.has_room(at, full=True):
            free_at = max(free_at, at + 0.005) + 0.32
            under_way.append((free_at + 0.005, Permit(only, FULL, at)))
        if at < 5:
            fewest = min(fewest, len(under_way))
        at, permit = under_way.popleft()
        permit.finish(at, tells=at > 1)  # and so not the first, which met it idle

    assert fewest > 2
    assert only.lead_s < 0.2
    assert len(under_way) <= 2
