"""Inputs that may kill servers: suspected, cleared, refused, forgotten."""

import pytest

from gateway.core.lanes import BatchKey
from gateway.core.quarantine import REFUSED_S, Quarantine, Verdict
from gateway.messages import Modality, Task

EMBED = BatchKey(Task.EMBED)


def test_of_nothing_nothing_is_known() -> None:
    """It is asked for each call, and costs nothing then."""
    assert not Quarantine()


def test_one_death_makes_a_suspect_and_a_second_one_a_killer() -> None:
    """Whatever else those servers died of before."""
    quarantine = Quarantine()
    quarantine.on_death("a", EMBED, "x", 0)
    quarantine.on_death("b", EMBED, "else", 0)
    assert quarantine.verdict(EMBED, "x", 1) is Verdict.SUSPECTED
    assert quarantine.deaths(EMBED, "x") == 1

    quarantine.on_death("b", EMBED, "x", 1)
    assert quarantine.verdict(EMBED, "x", 2) is Verdict.REFUSED
    assert quarantine.deaths(EMBED, "x") == 2
    assert quarantine.verdict(EMBED, "y", 2) is None


def test_what_breaks_in_one_moment_is_one_death() -> None:
    """A server's connections do not all break at once, and the same may have come over several."""
    quarantine = Quarantine()
    for i in range(3):
        quarantine.on_death("a", EMBED, "x", 1 + i / 100)
    assert quarantine.verdict(EMBED, "x", 1.1) is Verdict.SUSPECTED

    quarantine.on_death("a", EMBED, "x", 10)
    assert quarantine.verdict(EMBED, "x", 10) is Verdict.REFUSED


def test_where_the_second_server_lives_it_is_refused_for_seconds() -> None:
    """A connection was lost, and nothing else. The next loss has it refused again."""
    quarantine = Quarantine()
    quarantine.on_death("a", EMBED, "x", 0)
    quarantine.on_death("b", EMBED, "x", 1)
    quarantine.on_alive("b", 1, 1.1)
    assert quarantine.verdict(EMBED, "x", 12) is Verdict.REFUSED  # It was asked no later.

    quarantine.on_alive("b", 1.2, 1.3)
    assert quarantine.verdict(EMBED, "x", 11) is Verdict.REFUSED
    assert quarantine.verdict(EMBED, "x", 12) is Verdict.SUSPECTED
    quarantine.on_death("c", EMBED, "x", 13)
    assert quarantine.verdict(EMBED, "x", 14) is Verdict.REFUSED


def test_where_the_second_server_is_dead_and_comes_back_it_stays_refused() -> None:
    quarantine = Quarantine()
    quarantine.on_death("a", EMBED, "x", 0)
    quarantine.on_death("b", EMBED, "x", 1)
    quarantine.on_dead("b", 1.1)
    quarantine.on_alive("b", 5, 5.1)

    assert quarantine.verdict(EMBED, "x", REFUSED_S) is Verdict.REFUSED


def test_an_answer_clears() -> None:
    """A server has survived it."""
    quarantine = Quarantine()
    quarantine.on_death("a", EMBED, "x", 0)
    quarantine.on_answer(EMBED, "x")

    assert not quarantine


def test_a_verdict_ends() -> None:
    """And takes no room any more."""
    quarantine = Quarantine()
    quarantine.on_death("a", EMBED, "x", 0)
    quarantine.on_death("b", EMBED, "x", 0)

    assert quarantine.verdict(EMBED, "x", REFUSED_S - 1) is Verdict.REFUSED
    assert quarantine.verdict(EMBED, "x", REFUSED_S) is None
    assert not quarantine


@pytest.mark.parametrize(
    "other",
    [
        BatchKey(Task.CLASSIFY),
        BatchKey(Task.EMBED, modality=Modality.IMAGE),
        BatchKey(Task.RERANK, query="q"),
    ],
    ids=["task", "modality", "query"],
)
def test_what_the_model_sees_differs(other: BatchKey) -> None:
    """The same text in another role is another input; other parameters do not make it one."""
    quarantine = Quarantine()
    quarantine.on_death("a", EMBED, "x", 0)

    assert quarantine.verdict(other, "x", 0) is None
    assert quarantine.verdict(EMBED._replace(params=b'{"p":1}', alone=7), "x", 0) is Verdict.SUSPECTED


def test_an_error_is_the_inputs_if_the_server_is_well() -> None:
    """It answers something else afterwards."""
    quarantine = Quarantine()
    quarantine.on_error("a", EMBED, "x", False, 0)
    assert quarantine.verdict(EMBED, "x", 0) is Verdict.SUSPECTED
    quarantine.on_error("b", EMBED, "x", True, 1)
    quarantine.on_alive("a", 2, 2)
    quarantine.on_alive("b", 1, 2)
    assert quarantine.verdict(EMBED, "x", 2) is Verdict.SUSPECTED

    quarantine.on_alive("b", 2, 3)
    assert quarantine.verdict(EMBED, "x", 3) is Verdict.REFUSED


def test_an_error_is_the_servers_if_that_is_not_well() -> None:
    """Nothing is held against the input beyond the first."""
    quarantine = Quarantine()
    quarantine.on_error("b", EMBED, "x", True, 1)
    quarantine.on_dead("b", 2)
    quarantine.on_alive("b", 3, 3)

    assert not quarantine


def test_what_a_server_is_silent_about_is_suspected_until_it_answers_what_came_later() -> None:
    """Callers may have given up long before, and ask again."""
    quarantine = Quarantine()
    quarantine.on_silence("a", EMBED, "x", 0)
    quarantine.on_alive("a", 0, 1)
    assert quarantine.verdict(EMBED, "x", 1) is Verdict.SUSPECTED
    assert quarantine.deaths(EMBED, "x") == 0

    quarantine.on_alive("a", 0.5, 1)
    quarantine.on_dead("a", 2)
    assert not quarantine


def test_silence_of_a_server_that_turns_out_to_be_dead_is_a_death() -> None:
    quarantine = Quarantine()
    quarantine.on_silence("a", EMBED, "x", 0)
    quarantine.on_dead("a", 2)
    assert quarantine.deaths(EMBED, "x") == 1

    quarantine.on_silence("b", EMBED, "x", 3)
    quarantine.on_dead("b", 4)
    assert quarantine.verdict(EMBED, "x", 4) is Verdict.REFUSED


def test_it_is_at_two_servers_at_most() -> None:
    """Those that died of it, and those that may be silent because of it, together."""
    quarantine = Quarantine()
    quarantine.on_silence("a", EMBED, "x", 0)
    assert quarantine.may_try(EMBED, "x", 1)
    quarantine.begin_trial(EMBED, "x")
    assert not quarantine.may_try(EMBED, "x", 1)
    quarantine.end_trial(EMBED, "x")
    quarantine.on_silence("b", EMBED, "x", 1)
    assert not quarantine.may_try(EMBED, "x", 2)

    quarantine.on_alive("b", 2, 2)
    assert quarantine.may_try(EMBED, "x", 2)
    quarantine.on_death("b", EMBED, "x", 3)
    assert not quarantine.may_try(EMBED, "x", 3)
    quarantine.on_dead("a", 4)
    assert quarantine.may_try(EMBED, "x", 4)  # Refused by now: whoever waits is told so.
    assert quarantine.verdict(EMBED, "x", 4) is Verdict.REFUSED


def test_it_is_bounded() -> None:
    """However many texts are under way when servers die, and however long one is silent."""
    quarantine = Quarantine()
    for i in range(10_000):
        quarantine.on_death("a", EMBED, f"x{i}", 0)
        quarantine.on_silence("a", EMBED, f"y{i}", 0)
    known = sum(quarantine.verdict(EMBED, f"x{i}", 0) is not None for i in range(10_000))
    assert 0 < known <= 4096

    quarantine.on_dead("a", 0)
    assert 0 < sum(quarantine.verdict(EMBED, f"y{i}", 0) is not None for i in range(10_000)) <= 4096


def test_half_a_surrogate_pair_has_a_fingerprint() -> None:
    """JSON can carry one, and a text that cannot be encoded may be just what kills."""
    quarantine = Quarantine()
    quarantine.on_death("a", EMBED, "\ud800", 0)

    assert quarantine.verdict(EMBED, "\ud800", 0) is Verdict.SUSPECTED
