"""One line in the log for each event worth a person: none for a call, but for the beginning and the end of a
time in which calls are refused.
"""

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

from gateway.core.events import (
    AddressesFound,
    BadAnswerSeen,
    CallRejected,
    ConfigRead,
    DeploymentChanged,
    DeploymentGone,
    Event,
    FellBack,
    InputRefused,
    KeysRead,
    LookUpFailed,
    VectorsReplaced,
)

_log = logging.getLogger("gateway")

QUIET_S = 10.0
"""After so long without another it is over."""

_SERVERS_WORDS = re.compile(r"(status \d+): .*", re.DOTALL)
"""What a server says of its own error may quote its input."""


def say(level: int, event: str, about: object, message: str, **fields: object) -> None:
    """Log `message` with its `fields`. Lines that are `about` the same, or of the same event where that is
    None, are told now and then only, when there are many; the last of them says how things are.
    """
    _log.log(level, "%s", message, extra={"event": event, "about": about or event, "fields": fields})


class Log:
    """A listener. `tellers` has what is done with each kind of event that it knows."""

    def __init__(self) -> None:
        self._ready = False
        self._times: dict[tuple[str, ...], _Time] = {}
        self.tellers: Mapping[type[Any], Callable[[Any], None]] = {
            **_TELLERS,
            CallRejected: self._rejected,
            DeploymentChanged: self._changed,
            FellBack: self._fell_back,
        }

    def __call__(self, event: Event) -> None:
        if teller := self.tellers.get(type(event)):
            teller(event)

    def look(self, now: float) -> None:
        """Tell what is over. To be called about once a second, since an event does not look at the clock."""
        for what, time in list(self._times.items()):
            if time.is_over(now):
                del self._times[what]
                _TIMES[what[0]](what, time)

    def _changed(self, event: DeploymentChanged) -> None:
        _changed(event)
        if event.up and not self._ready:
            self._ready = True
            say(logging.INFO, "ready", None, "ready: a server answers")

    def _rejected(self, event: CallRejected) -> None:
        self._count("rejected", event.reason)

    def _fell_back(self, event: FellBack) -> None:
        self._count("fell_back", event.model, event.to)

    def _count(self, *what: str) -> None:
        if time := self._times.get(what):
            time.count += 1
        else:
            self._times[what] = _Time()
            _TIMES[what[0]](what, None)


class _Time:
    """A time in which something happens again and again."""

    __slots__ = ("_began", "_latest", "_seen", "count")

    def __init__(self) -> None:
        self.count = 1
        self._seen = 0
        self._began = self._latest = 0.0

    @property
    def lasted_s(self) -> float:
        return self._latest - self._began

    def is_over(self, now: float) -> bool:
        if self.count == self._seen:
            return now >= self._latest + QUIET_S
        if not self._seen:
            self._began = now
        self._seen, self._latest = self.count, now
        return False


def _tell_rejected(what: tuple[str, ...], over: _Time | None) -> None:
    _, reason = what
    is_load, words = reason == "overloaded", reason.replace("_", " ")
    if over is None:
        message = f"calls are refused from now on: {words}"
        event = "overload_begins" if is_load else "refusals_begin"
        say(logging.WARNING, event, what, message, reason=reason)
    else:
        message = f"no call is refused any more: {words}; {_counted(over)}"
        event = "overload_ends" if is_load else "refusals_end"
        say(logging.INFO, event, what, message, reason=reason, **_sum(over))


def _tell_fell_back(what: tuple[str, ...], over: _Time | None) -> None:
    _, model, to = what
    if over is None:
        message = f"calls for {model} go to its fallback {to} from now on"
        say(logging.WARNING, "fallback_begins", what, message, model=model, to=to)
    else:
        message = f"no call for {model} goes to its fallback {to} any more; {_counted(over)}"
        say(logging.INFO, "fallback_ends", what, message, model=model, to=to, **_sum(over))


def _counted(time: _Time) -> str:
    return f"{time.count} calls in {max(1, round(time.lasted_s))} s"


def _sum(time: _Time) -> dict[str, object]:
    return {"calls": time.count, "seconds": round(time.lasted_s, 1)}


_TIMES = {"rejected": _tell_rejected, "fell_back": _tell_fell_back}


def _changed(event: DeploymentChanged) -> None:
    model, deployment, up, why = event
    about = ("server", model, deployment)
    if up:
        message = f"{deployment} is up and serves {model}"
        say(logging.INFO, "server_up", about, message, model=model, deployment=deployment)
        return
    why = _SERVERS_WORDS.sub(r"\1", why)
    message = f"{deployment} is not up{f' for {model}' if model else ''}: {why}"
    say(logging.WARNING, "server_down", about, message, model=model, deployment=deployment, why=why)


def _gone(event: DeploymentGone) -> None:
    model, deployment = event
    about = ("server", model, deployment)
    message = f"{deployment} serves {model} no more"
    say(logging.INFO, "server_gone", about, message, model=model, deployment=deployment)


def _bad_answer(event: BadAnswerSeen) -> None:
    model, deployment, reason = event
    message = f"{deployment} gave an answer that does not fit ({reason}) for {model}"
    about = ("answer", *event)
    say(logging.WARNING, "bad_answer", about, message, model=model, deployment=deployment, reason=reason)


def _input_refused(event: InputRefused) -> None:
    model, print_, seconds = event
    message = f"an input for {model} made servers fail and is refused for {seconds:g} s: {print_}"
    about = ("input", model)
    say(logging.WARNING, "input_refused", about, message, model=model, fingerprint=print_, seconds=seconds)


def _keys_read(event: KeysRead) -> None:
    path, keys, problem = event
    if problem:
        message = f"the file of keys cannot be used, and the keys of before stay: {problem}"
        say(logging.ERROR, "keys_refused", ("keys", path), message, path=path, problem=problem)
    else:
        say(logging.INFO, "keys_read", ("keys", path), f"{path} has {keys} keys", path=path, keys=keys)


def _config_read(event: ConfigRead) -> None:
    path, problems, fixed, changed = event
    about = ("config", path)
    if problems:
        problem = "; ".join(problems)
        message = f"the configuration cannot be used, and that of before stays: {problem}"
        say(logging.ERROR, "config_refused", about, message, path=path, problem=problem)
        return
    message = f"{path} was read again" + ("" if changed else ": nothing has changed")
    say(logging.INFO, "config_read", about, message, path=path, changed=changed)
    for setting in fixed:
        message = f"{setting} has changed, which needs a restart; until then it stays as it was"
        say(logging.WARNING, "needs_restart", ("restart", setting), message, setting=setting)


def _addresses_found(event: AddressesFound) -> None:
    name, addresses, come, gone = event
    changes = [f"{what} {', '.join(which)}" for what, which in (("new", come), ("gone", gone)) if which]
    message = f"{name} has {addresses} addresses" + (f": {'; '.join(changes)}" if changes else " as before")
    fields = {"name": name, "addresses": addresses, "come": come, "gone": gone}
    say(logging.INFO, "addresses_found", ("name", name), message, **fields)


def _look_up_failed(event: LookUpFailed) -> None:
    name, addresses, why = event
    message = f"{name} could not be looked up, and its {addresses} known addresses stay: {why}"
    say(logging.WARNING, "look_up_failed", ("name", name), message, name=name, addresses=addresses, why=why)


def _vectors_replaced(event: VectorsReplaced) -> None:
    model, deployment = event
    message = (
        f"the vectors of {model} are others than before: those of {deployment} count now; indexes that were "
        "made with the others must be made anew"
    )
    about = ("vectors", model)
    say(logging.WARNING, "vectors_replaced", about, message, model=model, deployment=deployment)


_TELLERS: dict[type[Any], Callable[[Any], None]] = {
    AddressesFound: _addresses_found,
    BadAnswerSeen: _bad_answer,
    ConfigRead: _config_read,
    DeploymentGone: _gone,
    InputRefused: _input_refused,
    KeysRead: _keys_read,
    LookUpFailed: _look_up_failed,
    VectorsReplaced: _vectors_replaced,
}
