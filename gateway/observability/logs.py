"""One line in the log for each event worth a person."""

import logging
from collections.abc import Callable
from typing import Any

from gateway.core.events import BadAnswerSeen, DeploymentChanged, Event, FellBack, KeysRead, VectorsReplaced

_log = logging.getLogger("gateway")


def log(event: Event) -> None:
    """`event` is one of those in `LOGGED`."""
    LOGGED[type(event)](event)


def _changed(event: DeploymentChanged) -> None:
    if event.up:
        _log.info("%s is up and serves %s", event.deployment, event.model)
    else:
        where = f" for {event.model}" if event.model else ""
        _log.warning("%s is not up%s: %s", event.deployment, where, event.why)


def _bad_answer(event: BadAnswerSeen) -> None:
    _log.warning(
        "%s gave an answer that does not fit (%s) for %s", event.deployment, event.reason, event.model
    )


def _fell_back(event: FellBack) -> None:
    _log.warning("a call for %s goes to its fallback %s", event.model, event.to)


def _keys_read(event: KeysRead) -> None:
    if event.problem:
        _log.error("the file of keys cannot be used, and the keys of before stay: %s", event.problem)
    else:
        _log.info("%s has %d keys", event.path, event.keys)


def _vectors_replaced(event: VectorsReplaced) -> None:
    _log.warning(
        "the vectors of %s are others than before: those of %s count now; indexes that were made with the "
        "others must be made anew",
        event.model,
        event.deployment,
    )


LOGGED: dict[type[Any], Callable[[Any], None]] = {
    DeploymentChanged: _changed,
    BadAnswerSeen: _bad_answer,
    FellBack: _fell_back,
    KeysRead: _keys_read,
    VectorsReplaced: _vectors_replaced,
}
