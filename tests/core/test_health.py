from collections.abc import Callable

import pytest

from gateway.core.health import Health, State
from gateway.core.settings import HealthSettings

SETTINGS = HealthSettings(probe_interval_s=0.5, silent_s_max=10, failures_max=3)


def starting(now: float = 100) -> Health:
    return Health(SETTINGS, now)


def up(now: float = 100) -> Health:
    health = starting(now)
    health.on_probe_answer(now)
    return health


def down(now: float = 100) -> Health:
    health = up(now)
    health.on_failure(now, "refused", refused=True)
    return health


def test_a_new_deployment_is_starting_and_is_probed_at_once() -> None:
    """It gets no work before it has answered."""
    health = starting(now=100)

    assert health.state is State.STARTING
    assert not health.is_up
    assert health.probe_at() <= 100


@pytest.mark.parametrize("make", [starting, down])
def test_a_probe_answer_brings_it_up(make: Callable[..., Health]) -> None:
    """That is news, and the only way up."""
    health = make(now=100)

    news = health.on_probe_answer(101)

    assert news
    assert health.is_up
    assert health.why == "answers"


def test_a_probe_answer_of_one_that_is_up_is_no_news() -> None:
    """A canary that comes back changes nothing."""
    health = up()

    assert not health.on_probe_answer(101)


def test_one_refused_connection_takes_it_down() -> None:
    """Nothing listens there: every batch sent after it would fail too."""
    health = up()

    news = health.on_failure(101, "connection refused", refused=True)

    assert news
    assert health.state is State.DOWN
    assert health.why == "connection refused"


def test_failures_in_a_row_take_it_down() -> None:
    """One failure may be an input's fault; three in a row are the server's."""
    health = up()

    news = [health.on_failure(101 + i, "status 500") for i in range(3)]

    assert news == [False, False, True]
    assert health.state is State.DOWN


def test_an_answer_between_failures_starts_the_count_again() -> None:
    """A server that fails now and then stays up."""
    health = up()

    for i in range(10):
        health.on_failure(101 + i, "status 500")
        health.on_failure(101 + i, "status 500")
        health.on_answer(101 + i)

    assert health.is_up


def test_a_probe_answer_starts_the_count_again() -> None:
    """What failed before it came back does not count against it."""
    health = up()
    for _ in range(3):
        health.on_failure(101, "status 500")
    health.on_probe_answer(102)

    health.on_failure(103, "status 500")
    health.on_failure(103, "status 500")

    assert health.is_up


def test_a_batch_answered_late_does_not_bring_it_up() -> None:
    """What answers now may have been asked before it went down."""
    health = down()

    health.on_answer(101)

    assert health.state is State.DOWN


def test_a_failure_while_starting_leaves_it_starting() -> None:
    """It has not been up, so it has not gone down; the reason is shown."""
    health = starting()

    news = health.on_failure(101, "connection refused", refused=True)

    assert news
    assert health.state is State.STARTING
    assert health.why == "connection refused"


@pytest.mark.parametrize("make", [starting, down])
def test_the_same_reason_again_is_no_news_and_another_is(make: Callable[..., Health]) -> None:
    """A server that is down for an hour is one line in the log, not 7,200."""
    health = make(now=100)
    health.on_failure(101, "connection refused", refused=True)

    assert not health.on_failure(102, "connection refused", refused=True)
    assert health.on_failure(103, "no such host", refused=True)
    assert health.why == "no such host"


@pytest.mark.parametrize("make", [starting, down])
def test_one_that_is_not_up_is_probed_after_each_interval(make: Callable[..., Health]) -> None:
    """The interval runs from the last sign of it, so probes do not pile up."""
    health = make(now=100)

    health.on_failure(101, "connection refused", refused=True)

    assert health.probe_at() == 101.5


def test_one_that_is_up_is_probed_only_after_silence() -> None:
    """Answers to real batches count as probes."""
    health = up(now=100)
    assert health.probe_at() == 110

    health.on_answer(105)

    assert health.probe_at() == 115


def test_the_next_probe_comes_soon_after_it_went_down() -> None:
    """Recovery is noticed within an interval, not after the long silence allowed to one that is up."""
    health = up(now=100)

    health.on_failure(101, "connection refused", refused=True)

    assert health.probe_at() == 101.5


def test_one_that_has_failed_is_probed_soon_and_not_after_a_long_silence() -> None:
    """Else a server that hangs takes three times the silence and three callers' time to be found out."""
    health = up(now=100)

    health.on_failure(101, "no answer")

    assert health.is_up
    assert health.probe_at() == 101.5


def test_its_repr_says_the_state_and_the_reason() -> None:
    """What an operator reads in a debugger is what the status page says."""
    assert repr(down()) == "<Health down: refused>"
