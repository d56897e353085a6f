"""Which events give a line, and what it says."""

import logging
from typing import Any

import pytest

from gateway.core.events import (
    BadAnswerSeen,
    CallRejected,
    CallServed,
    DeploymentChanged,
    DeploymentGone,
    Event,
    FellBack,
    InputRefused,
    KeysRead,
    VectorsReplaced,
)
from gateway.observability.logs import QUIET_S, Log


@pytest.fixture(autouse=True)
def _level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gateway")


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, dict[str, Any]]]:
    """Level, event and fields of each line so far, which are then forgotten."""
    records = [vars(record) for record in caplog.records]
    caplog.clear()
    return [(record["levelname"], record["event"], record["fields"]) for record in records]


@pytest.mark.parametrize(
    ("event", "level", "name", "fields"),
    [
        (
            DeploymentChanged("bert", "a:1", up=False, why="no connection: refused"),
            "WARNING",
            "server_down",
            {"model": "bert", "deployment": "a:1", "why": "no connection: refused"},
        ),
        (DeploymentGone("bert", "a:1"), "INFO", "server_gone", {"model": "bert", "deployment": "a:1"}),
        (
            BadAnswerSeen("bert", "a:1", "count"),
            "WARNING",
            "bad_answer",
            {"model": "bert", "deployment": "a:1", "reason": "count"},
        ),
        (
            VectorsReplaced("bert", "a:1"),
            "WARNING",
            "vectors_replaced",
            {"model": "bert", "deployment": "a:1"},
        ),
        (KeysRead("/keys", 3), "INFO", "keys_read", {"path": "/keys", "keys": 3}),
        (KeysRead("/keys", 0, "bad"), "ERROR", "keys_refused", {"path": "/keys", "problem": "bad"}),
        (
            InputRefused("bert", "ab12", 300.0),
            "WARNING",
            "input_refused",
            {"model": "bert", "fingerprint": "ab12", "seconds": 300.0},
        ),
    ],
)
def test_an_event_worth_a_person_gives_one_line(
    event: Event, level: str, name: str, fields: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    Log()(event)

    assert told(caplog) == [(level, name, fields)]


def test_what_happens_with_each_call_gives_none(caplog: pytest.LogCaptureFixture) -> None:
    Log()(CallServed("bert", "interactive", 1, 1, 0.0))

    assert told(caplog) == []


def test_the_first_server_that_answers_makes_it_ready(caplog: pytest.LogCaptureFixture) -> None:
    log = Log()
    for _ in range(2):
        log(DeploymentChanged("bert", "a:1", up=True, why=""))

    assert [name for _, name, _ in told(caplog)] == ["server_up", "ready", "server_up"]


def test_a_servers_own_words_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """They may quote its input."""
    Log()(DeploymentChanged("bert", "a:1", up=False, why="status 500: no such token: SECRET\nat line 1"))

    assert "SECRET" not in caplog.text
    assert told(caplog)[0][2]["why"] == "status 500"


def test_overload_has_a_beginning_and_an_end(caplog: pytest.LogCaptureFixture) -> None:
    """However many calls are refused in between."""
    log, now = Log(), 1000.0
    for _ in range(60):
        for _ in range(500):
            log(CallRejected("overloaded"))
        log.look(now)
        now += 0.5
    begun = told(caplog)
    log.look(now + QUIET_S - 1)
    quiet = told(caplog)
    log.look(now + QUIET_S)
    over = told(caplog)
    log.look(now + 2 * QUIET_S)
    log(CallRejected("overloaded"))

    assert begun == [("WARNING", "overload_begins", {"reason": "overloaded"})]
    assert quiet == []
    assert over == [("INFO", "overload_ends", {"reason": "overloaded", "calls": 30_000, "seconds": 29.5})]
    assert [name for _, name, _ in told(caplog)] == ["overload_begins"]


def test_each_kind_of_refusal_is_told_for_itself(caplog: pytest.LogCaptureFixture) -> None:
    """A million calls with a wrong key give two lines."""
    log = Log()
    for _ in range(100):
        log(CallRejected("unauthorized"))
        log(CallRejected("rate_limited"))
        log(FellBack("bert", "other"))
    log.look(0.0)
    log.look(QUIET_S)

    lines = told(caplog)
    assert [name for _, name, _ in lines] == [
        *("refusals_begin", "refusals_begin", "fallback_begins"),
        *("refusals_end", "refusals_end", "fallback_ends"),
    ]
    assert [fields["calls"] for _, _, fields in lines[3:]] == [100, 100, 100]
