"""What is learned of a server from how long its answers take."""

import random
import statistics
from collections.abc import Callable, Iterable
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.service_time import ServiceTime, Shape

PROPERTY = settings(deadline=None, derandomize=True, max_examples=100)


class Server(NamedTuple):
    """A server as the model sees it."""

    l: float  # noqa: E741
    o: float
    a: float
    b: float

    def work_s(self, shape: Shape) -> float:
        return self.o * shape.requests + self.a * shape.items + self.b * shape.padded


SERVERS = {
    "small on a CPU": Server(0.006, 0.002, 0.0004, 0.00002),
    "large on a CPU": Server(0.006, 0.01, 0.004, 0.0008),
    "on a GPU": Server(0.007, 0.004, 0.0001, 0.000002),
    "far away": Server(0.08, 0.003, 0.0002, 0.00001),
    "pays for items alone": Server(0.005, 0.0, 0.003, 0.0),
}
SHAPES = [Shape(1, n, n * longest) for n in (1, 2, 7, 20, 32) for longest in (4, 30, 110, 400)]
FULL = Shape(1, 32, 32 * 30)


def shapes(rng: random.Random, count: int) -> list[Shape]:
    """Batches as a busy gateway sends them: all sizes, long-tailed lengths."""
    made = []
    for _ in range(count):
        items = rng.choice((1, 1, 2, 5, 12, 32))
        longest = max(int(min(512, max(3, rng.lognormvariate(3, 1)))) for _ in range(items))
        made.append(Shape(1, items, items * longest))
    return made


def teach(
    model: ServiceTime,
    server: Server,
    batches: Iterable[Shape],
    rng: random.Random,
    noise: float = 0.0,
    idle: Callable[[random.Random], bool] = lambda rng: rng.random() < 0.3,
) -> None:
    for shape in batches:
        met_idle = idle(rng)
        took_s = (server.l if met_idle else 0.0) + server.work_s(shape)
        model.learn(shape, met_idle, took_s * rng.lognormvariate(0, noise) if noise else took_s)


def worst(model: ServiceTime, server: Server, among: Iterable[Shape] = SHAPES) -> float:
    """The largest error of a prediction, as a share of the truth."""
    return max(abs(model.work_s(shape) / server.work_s(shape) - 1) for shape in among)


@pytest.mark.parametrize("name", SERVERS)
def test_exact_answers_lead_to_the_truth(name: str) -> None:
    """Of every kind of server, from some hundreds of answers; also how long the way there is. The worst shape
    is one that is hardly ever sent.
    """
    model, server = ServiceTime(), SERVERS[name]

    teach(model, server, shapes(rng := random.Random(1), 300), rng)
    assert worst(model, server) < 0.25

    teach(model, server, shapes(rng, 700), rng)
    assert worst(model, server) < 0.05
    assert model.latency_s == pytest.approx(server.l, rel=0.15)


@pytest.mark.parametrize("name", SERVERS)
def test_noisy_answers_are_predicted_within_their_noise(name: str) -> None:
    """A fifth either way is what servers show. Right in the mean, and seldom off by more than that."""
    server = SERVERS[name]
    full, usual = [], []
    for seed in range(8):
        model, rng = ServiceTime(), random.Random(seed)
        teach(model, server, shapes(rng, 500), rng, noise=0.2)
        full.append(model.work_s(FULL) / server.work_s(FULL) - 1)
        usual += [abs(model.work_s(shape) / server.work_s(shape) - 1) for shape in shapes(rng, 100)]

    assert abs(statistics.mean(full)) < 0.15
    assert max(map(abs, full)) < 0.5
    assert statistics.median(usual) < 0.2


def test_the_first_answer_sets_the_scale() -> None:
    """Servers differ a thousandfold: of what is assumed of one only the proportions are kept."""
    for took_s in (0.001, 0.1, 10.0):
        model = ServiceTime()

        model.learn(FULL, True, took_s)

        assert model.latency_s + model.work_s(FULL) == pytest.approx(took_s)
        assert 0 < model.work_s(Shape(1, 1, 30)) < took_s


def test_full_batches_of_one_size_leave_what_was_known_of_others() -> None:
    """A night of bulk says nothing of how long one question takes."""
    model, server = ServiceTime(), SERVERS["small on a CPU"]
    teach(model, server, shapes(rng := random.Random(3), 150), rng)
    ratio = model.ratio

    teach(model, server, [FULL] * 2000, rng, noise=0.1, idle=lambda _: False)

    assert worst(model, server) < 0.3
    assert model.latency_s == pytest.approx(server.l, rel=0.3)
    assert model.ratio == pytest.approx(ratio, rel=0.3)


def test_a_change_of_speed_is_followed_within_some_tens_of_answers() -> None:
    """Three times slower, as when a neighbour takes the cores, and as fast again."""
    model, server = ServiceTime(), SERVERS["small on a CPU"]
    slow = Server(*(3 * value for value in server))
    teach(model, server, shapes(rng := random.Random(4), 300), rng)

    teach(model, slow, shapes(rng, 60), rng)
    assert model.work_s(FULL) == pytest.approx(slow.work_s(FULL), rel=0.25)

    teach(model, server, shapes(rng, 60), rng)
    assert model.work_s(FULL) == pytest.approx(server.work_s(FULL), rel=0.25)


@pytest.mark.parametrize("times", [10, 1000])
def test_one_hiccup_moves_little(times: int) -> None:
    """A pause of one answer, however long, is no new server."""
    model, server = ServiceTime(), SERVERS["small on a CPU"]
    teach(model, server, shapes(rng := random.Random(5), 300), rng)

    model.learn(FULL, False, times * server.work_s(FULL))

    assert model.work_s(FULL) == pytest.approx(server.work_s(FULL), rel=0.25)


def test_several_requests_cost_what_requests_cost() -> None:
    """Queries that leave together are requests of one batch."""
    model, server = ServiceTime(), SERVERS["large on a CPU"]
    rng = random.Random(6)
    teach(model, server, [s._replace(requests=rng.randint(1, 6)) for s in shapes(rng, 150)], rng)

    assert worst(model, server, [s._replace(requests=r) for s in SHAPES for r in (1, 3, 6)]) < 0.25


def test_a_server_that_answered_in_no_time_is_not_believed_to_for_ever() -> None:
    """As one that answers out of a cache of its own at first, or two answers that are read in one turn."""
    model, server = ServiceTime(), SERVERS["small on a CPU"]
    for _ in range(10):
        model.learn(FULL, True, 0.0)

    teach(model, server, shapes(rng := random.Random(8), 100), rng)

    assert model.work_s(FULL) == pytest.approx(server.work_s(FULL), rel=0.25)


@PROPERTY
@given(
    st.lists(
        st.tuples(
            st.integers(1, 8),
            st.integers(1, 64),
            st.integers(2, 512),
            st.booleans(),
            st.one_of(st.just(0.0), st.floats(1e-6, 100.0)),
        ),
        max_size=60,
    )
)
def test_whatever_is_answered_no_time_is_negative(
    answers: list[tuple[int, int, int, bool, float]],
) -> None:
    """A batch that seems to take less than nothing would attract all others."""
    model = ServiceTime()

    for requests, items, longest, idle, took_s in answers:
        model.learn(Shape(requests, items, items * longest), idle, took_s)

        assert all(0 <= value < 1e4 for value in model.parameters.values())
        assert 16 <= model.ratio <= 8192
    assert model.answers == len(answers)


@PROPERTY
@given(st.integers(1, 32), st.integers(2, 512), st.integers(0, 2**32))
def test_a_larger_batch_never_takes_less(items: int, longest: int, seed: int) -> None:
    """Neither more items nor longer ones."""
    model = ServiceTime()
    teach(model, SERVERS["on a GPU"], shapes(rng := random.Random(seed), 30), rng, noise=0.3)
    least = model.work_s(Shape(1, items, items * longest))

    assert least <= model.work_s(Shape(1, items + 1, (items + 1) * longest))
    assert least <= model.work_s(Shape(1, items, items * (longest + 1)))
    assert least <= model.work_s(Shape(2, items, items * longest))
