"""Whether a deployment is fit for work, from what its answers and our probes say.

    STARTING ──probe answered──▶ UP ──refused, or failures in a row──▶ DOWN
                                  ◀──────── probe answered ───────────┘

                  ──answers otherwise than its pool──▶ DIFFERENT, until a probe is answered as it should be

Answers to real batches count as probes, so a busy deployment is never probed. `probe_at` says when
the next probe is due. One that gives cause for doubt is put on hold: it stays up and gets no work until it
answers anything.
"""

import math
from enum import Enum

from gateway.core.settings import HealthSettings

_DIFFERENT_TIMES = 4.0
"""So many times as rarely one with other vectors is probed as one that is down."""


class State(Enum):
    STARTING = "starting"
    UP = "up"
    DOWN = "down"
    DIFFERENT = "different"
    """It answers, but with other vectors than its pool: see core/sameness.py."""


class Health:
    """The state of one deployment. Every transition is in this class; `on_*` return whether there is news:
    another state, or another reason for not being up."""

    __slots__ = (
        "_failed_at",
        "_failures",
        "_settings",
        "_since",
        "_suspect",
        "_up_since",
        "answered_at",
        "is_ejected",
        "is_full",
        "is_up",
        "outages",
        "proven_at",
        "state",
        "takes_work",
        "why",
    )

    def __init__(self, settings: HealthSettings, now: float) -> None:
        self._settings = settings
        self._failures = 0
        self._failed_at = -math.inf
        self._suspect = False
        self._up_since = self.answered_at = now
        self.proven_at = -math.inf
        """The latest that anything was asked which it has answered: since then it lives, or was well."""
        self._since = now - settings.probe_interval_s  # a new deployment is probed at once
        self.state = State.STARTING
        self.is_up = False
        self.takes_work = False
        """It is up, and not on hold."""
        self.is_ejected = False
        """It is down for errors in a row, while it may answer other calls well."""
        self.is_full = False
        """It is down because it takes no work, and said so."""
        self.outages = 0
        self.why = "has not answered yet"

    def become(self, settings: HealthSettings) -> None:
        """By other settings from now on; the state stays."""
        self._settings = settings

    def probe_at(self) -> float:
        """When to ask the deployment next, unless it answers of itself before."""
        if self._suspect and (self.is_up or self.is_different):
            return self._since
        settings = self._settings
        if self.is_up and not self._failures:
            return self._since + settings.silent_s_max
        # One that answers is asked less often, and may be restarted as what it should be.
        times = _DIFFERENT_TIMES if self.is_different else 1.0
        return self._since + min(settings.silent_s_max, times * settings.probe_interval_s)

    @property
    def is_unknown(self) -> bool:
        """It is new, and its first probe has not ended yet."""
        return self.state is State.STARTING and self._failed_at == -math.inf

    @property
    def is_different(self) -> bool:
        return self.state is State.DIFFERENT

    def suspect(self) -> None:
        """Something took long that may have had other reasons: have it probed at once."""
        self._suspect = True

    def hold(self) -> None:
        """It owes an answer for too long, or takes no work: no more of it until it has answered a probe."""
        self._suspect = True
        self.takes_work = False

    def has_answered_since(self, time: float) -> bool:
        return self.answered_at > time

    def on_answer(self, now: float, asked: float = -math.inf) -> None:
        """A batch was answered. Alone it does not end DOWN: what answers now may have been asked long ago."""
        self.proven_at = max(self.proven_at, asked)
        self._failures = 0
        self._suspect = False
        self.takes_work = self.is_up
        self._since = self.answered_at = now

    def on_probe_answer(self, now: float, asked: float = -math.inf) -> bool:
        """A probe was answered. What fails on calls may answer probes all the same: that forgives old
        failures alone."""
        lately = self.is_up and now < self._failed_at + self._settings.silent_s_max
        failures = self._failures if lately else 0
        self.on_answer(now, asked)
        self._failures = failures
        if not self.is_up:
            self._up_since = now
        return self._move_to(State.UP, "answers")

    def on_different(self, now: float, why: str) -> bool:
        """It was answered, but not as the pool answers."""
        self.on_answer(now)
        return self._move_to(State.DIFFERENT, why)

    def on_failure(
        self,
        now: float,
        why: str,
        *,
        refused: bool = False,
        asked: float | None = None,
        may_eject: bool = True,
        full: bool = False,
    ) -> bool:
        """A batch or a probe failed; `refused` when that leaves no doubt, as when nothing listens there.

        One that was `asked` before the last outage was of a server that is gone, and does not count.
        Unless it `may_eject`, failures in a row do not take it down: probes decide. `full`: it said that it
        has too much to do.
        """
        self.is_full = full
        if self.is_up and asked is not None and asked < self._up_since:
            return False
        self._failures += 1
        self._suspect = False
        self._since = self._failed_at = now
        if self.state is State.STARTING:
            return self._move_to(State.STARTING, why)
        if self.state is State.UP and not refused:
            if self._failures < self._settings.failures_max or not may_eject:
                return False
            self.is_ejected = True
        return self._move_to(State.DOWN, why)

    def _move_to(self, state: State, why: str) -> bool:
        self.outages += self.is_up and state is State.DOWN
        told = state in (State.UP, State.DIFFERENT)  # in words that change from probe to probe
        moved = state is not self.state or (not told and why != self.why)
        self.state = state
        self.is_up = self.takes_work = state is State.UP
        self.is_ejected &= not self.is_up
        self.is_full &= not self.is_up
        self.why = why
        return moved

    def __repr__(self) -> str:
        return f"<Health {self.state.value}: {self.why}>"
