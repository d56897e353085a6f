"""Answers kept for those who ask the same again."""

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.cache import Cache
from gateway.core.lanes import BatchKey
from gateway.core.settings import CacheSettings
from gateway.messages import Modality, Task
from tests.core.lanes import EMBED, rerank

PROPERTY = settings(deadline=None, derandomize=True, max_examples=100)


def cache(bytes_max: int = 1_000_000, ttl_s: float = 60.0) -> Cache:
    return Cache(CacheSettings(bytes_max, ttl_s))


def values(subject: Cache, texts: str, now: float = 0.0) -> str:
    """Those of `texts` to which the answer is known."""
    return "".join(text for text in texts if subject.get(EMBED, text, now))


def test_an_answer_is_found_again_with_what_it_was_charged() -> None:
    """Asked again it costs the caller the same."""
    subject = cache()
    subject.put(EMBED, "x", b"answer", 7, now=0)

    found = subject.get(EMBED, "x", now=1)

    assert found is not None
    assert (found.value, found.tokens) == (b"answer", 7)
    assert subject.get(EMBED, "y", now=1) is None


@pytest.mark.parametrize(
    "other",
    [
        EMBED._replace(params=b'{"a":1}'),
        EMBED._replace(modality=Modality.IMAGE),
        EMBED._replace(task=Task.CLASSIFY),
        rerank("q"),
    ],
)
def test_an_answer_is_to_one_batch_key(other: BatchKey) -> None:
    """Parameters, modality, task and query change it."""
    subject = cache()
    subject.put(EMBED, "x", b"answer", 7, now=0)

    assert subject.get(other, "x", now=0) is None


def test_a_score_is_of_one_query() -> None:
    """And zero is an answer."""
    subject = cache()
    subject.put(rerank("q"), "x", 0.0, 7, now=0)

    assert subject.get(rerank("r"), "x", now=0) is None
    found = subject.get(rerank("q"), "x", now=0)
    assert found is not None
    assert found.value == 0


def test_an_answer_is_forgotten_when_it_is_too_old() -> None:
    """And gives its room back. That it is used does not make it younger; that it comes anew does."""
    subject = cache(ttl_s=60)
    subject.put(EMBED, "x", b"answer", 7, now=0)

    assert subject.get(EMBED, "x", now=59.9)
    assert subject.get(EMBED, "x", now=60) is None
    assert (len(subject), subject.held_bytes) == (0, 0)

    subject.put(EMBED, "x", b"answer", 7, now=100)
    subject.put(EMBED, "x", b"another", 7, now=150)
    found = subject.get(EMBED, "x", now=200)
    assert found is not None
    assert found.value == b"another"
    assert len(subject) == 1


def test_what_was_used_longest_ago_goes_first() -> None:
    """Whether it was put or found."""
    size = size_of_one()
    subject = cache(bytes_max=3 * size)
    for text in "abc":
        subject.put(EMBED, text, b"v", 1, now=0)

    assert values(subject, "a") == "a"
    subject.put(EMBED, "d", b"v", 1, now=0)

    assert values(subject, "abcd") == "acd"


def size_of_one() -> int:
    subject = cache()
    subject.put(EMBED, "a", b"v", 1, now=0)
    return subject.held_bytes


def test_what_is_larger_than_all_the_room_is_not_kept() -> None:
    """Nor does it push out what is there."""
    subject = cache(bytes_max=2000)
    subject.put(EMBED, "a", b"v", 1, now=0)

    subject.put(EMBED, "b", b"v" * 3000, 1, now=0)

    assert values(subject, "ab") == "a"


@PROPERTY
@given(
    st.integers(0, 5000),
    st.lists(
        st.tuples(st.booleans(), st.sampled_from("abcdefgh"), st.integers(0, 1500), st.floats(0, 30)),
        max_size=60,
    ),
)
def test_it_keeps_within_its_bound_and_to_the_truth(
    bytes_max: int, steps: list[tuple[bool, str, int, float]]
) -> None:
    """What it finds is what was put last, and not too old; what it holds is what it counts."""
    subject = cache(bytes_max, ttl_s=60)
    put: dict[str, tuple[bytes, float]] = {}
    now = 0.0

    for puts, text, size, pause in steps:
        now += pause
        if puts:
            value = text.encode() * size
            subject.put(EMBED, text, value, size, now)
            put[text] = (value, now)
        elif found := subject.get(EMBED, text, now):
            value, since = put[text]
            assert found.tokens == len(value)
            assert found.value == value
            assert now < since + 60
        assert 0 <= subject.held_bytes <= bytes_max
        assert (subject.held_bytes == 0) == (len(subject) == 0)


@pytest.mark.parametrize("kind", ["ascii", "others", "queries", "parameters", "scores"])
def test_it_takes_no_more_memory_than_it_counts(kind: str) -> None:
    """The bound is for the operator, who has so much to give away."""
    subject = cache(bytes_max=4_000_000)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]

    for number in range(9_000):
        # (Built anew each time, as out of a call.)
        key, text, value = EMBED, f"{number:06}" + "x" * 50, bytes(600)
        match kind:
            case "others":
                text = f"{number:06}" + "世界" * 300
            case "queries":
                key = rerank(f"{number:06}" + "q" * 2000)
            case "parameters":
                key = EMBED._replace(params=b"%06d" % number + bytes(2000))
        subject.put(key, text, value if kind != "scores" else float(number), 1, now=0)

    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert taken <= 1.05 * 4_000_000
    assert taken >= 0.5 * 4_000_000
