"""Which answers to a fixed text are the same, and what a pool holds them against."""

import math

import pytest

from gateway.core.sameness import Sameness, Sample, Samples, distance

U, V = (0.6, 0.8, 0.0), (0.8, -0.6, 0.0)
"""Two directions at a right angle."""


def vector(*numbers: float) -> Samples:
    return [Sample(f"{len(numbers)} numbers", numbers)]


def score(number: float) -> Samples:
    return [Sample("a score", [number], is_score=True)]


def bits(*numbers: float) -> Samples:
    return [Sample(f"{len(numbers)} numbers", numbers, are_bits=True)]


def leaning(noise: float) -> Samples:
    """U, and at a right angle to it so much noise."""
    return vector(*U[:2], noise)


# Distances


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        (vector(*U), vector(*U), 0),
        (vector(*U), vector(*V), math.sqrt(2)),
        (vector(*U), vector(1.2, 1.6, 0), 0.5),  # not normalised
        (vector(*U), vector(0.6, 0.8), math.inf),  # other dimensions
        (vector(*U), vector(0.6, math.nan, 0), math.inf),
        (vector(*U), vector(0, 0, 0), 1),
        (vector(0, 0), vector(0, 0), 0),
        (vector(*U), bits(6, 8, 0), math.inf),
        (bits(0b1111_0000, 255), bits(0b1111_0001, 255), math.pi / 16),
        (bits(-128, 0), bits(127, 0), math.pi / 2),
        (score(8.0), score(7.9), 0.0125),
        (score(0.01), score(-0.01), 0.01),  # near 0 all that counts is the difference
        ([], [], 0),
        ([*vector(1), *vector(1)], [*vector(1), *vector(2)], 0.5),
        ([*vector(1), *vector(1)], vector(1), math.inf),
    ],
)
def test_how_far_apart_two_answers_are(ours: Samples, theirs: Samples, expected: float) -> None:
    """In the length of the longer one, whichever comes first; of several texts, the worst."""
    assert distance(ours, theirs) == pytest.approx(expected)
    assert distance(theirs, ours) == pytest.approx(expected)


# A pool


def pool(*answers: tuple[str, Samples], members: str = "abc", worked: bool = True) -> Sameness:
    subject = Sameness(0.1)
    for name, samples in answers:
        subject.add(name, samples, members, worked=worked)
    return subject


def test_the_first_to_answer_is_right() -> None:
    """And with it all who answer nearly the same."""
    subject = pool(("a", leaning(0)), ("b", leaning(0.09)), ("c", leaning(0.2)))

    assert subject.differs("a") == subject.differs("b") == ""
    assert subject.differs("c")


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (vector(*V), "does not answer a fixed text as a, b do: apart by 1.4 of their length"),
        (vector(1, 2), "does not answer a fixed text as a, b do: 2 numbers, not 3 numbers"),
        (vector(0, 0, math.nan), "answers a fixed text with what is not finite"),
    ],
)
def test_why_one_differs_is_said_with_the_names_of_the_others(samples: Samples, said: str) -> None:
    """Whoever reads it knows where to look."""
    subject = pool(("a", vector(*U)), ("b", vector(*U)), ("c", samples))

    assert subject.differs("c").startswith(said)


def test_what_is_not_finite_is_nobodys_reference() -> None:
    """A broken server that is first keeps no sound one out."""
    subject = pool(("a", vector(math.nan)), ("b", vector(1)), members="ab")

    assert subject.differs("a")
    assert not subject.differs("b")


def test_a_deployment_with_nothing_to_compare_fits() -> None:
    """As one that only embeds images."""
    assert not pool(("a", []), ("b", vector(1))).differs("a")


def test_the_reference_stays_while_one_is_left_that_has_not_agreed_on_another() -> None:
    """The right ones may be away, and the wrong ones many."""
    subject = pool(("a", vector(*U)), ("b", vector(*V)), ("c", vector(*V)))

    assert not subject.differs("a")
    assert subject.differs("b")
    assert subject.differs("c")


def test_a_pool_that_was_changed_on_purpose_has_another_reference() -> None:
    """When the last of its deployments answers as the others do."""
    subject = pool(("a", vector(*U)), ("b", vector(*V)), ("c", vector(*V)))

    assert subject.add("a", vector(*V), "abc", worked=True)
    assert [subject.differs(name) for name in "abc"] == ["", "", ""]


def test_a_deployment_that_has_left_has_no_say() -> None:
    """Else a pool that has shed its old servers would hold the new ones against them."""
    subject = pool(("a", vector(*U)), ("b", vector(*V)))
    subject.forget("a")

    assert subject.add("b", vector(*V), "b", worked=True)
    assert not subject.differs("b")


def test_before_any_work_most_of_them_are_right() -> None:
    """The wrong one may just have been the quickest to start."""
    subject = pool(("a", vector(*V)), ("b", vector(*U)), worked=False)
    assert subject.differs("b")

    assert subject.add("c", vector(*U), "abc", worked=False)
    assert subject.differs("a").startswith("does not answer a fixed text as b, c do")
    assert not subject.differs("b")


def test_many_names_are_counted() -> None:
    """A log is read by people."""
    names = "abcdefgh"
    subject = pool(*((name, vector(*U)) for name in names), ("x", vector(*V)), members=names + "x")

    assert "as a, b, c and 5 more do" in subject.differs("x")
