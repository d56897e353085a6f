"""Whether a deployment is fit for work, from what its answers and our probes say.

    STARTING ──probe answered──▶ UP ──refused, or failures in a row──▶ DOWN
                                  ◀──────── probe answered ───────────┘

Answers to real batches count as probes, so a busy deployment is never probed. `probe_at` says when
the next probe is due.
"""

from enum import Enum

from gateway.core.settings import HealthSettings


class State(Enum):
    STARTING = "starting"
    UP = "up"
    DOWN = "down"


class Health:
    """The state of one deployment. Every transition is in this class; `on_*` return whether there is news:
    another state, or another reason for not being up."""

    __slots__ = (
        "_answered_at",
        "_failures",
        "_settings",
        "_since",
        "_suspect",
        "_up_since",
        "is_up",
        "state",
        "why",
    )

    def __init__(self, settings: HealthSettings, now: float) -> None:
        self._settings = settings
        self._failures = 0
        self._suspect = False
        self._up_since = self._answered_at = now
        self._since = now - settings.probe_interval_s  # a new deployment is probed at once
        self.state = State.STARTING
        self.is_up = False
        self.why = "has not answered yet"

    def probe_at(self) -> float:
        """When to ask the deployment next, unless it answers of itself before."""
        if self.is_up and self._suspect:
            return self._since
        calm = self.is_up and not self._failures
        return self._since + (self._settings.silent_s_max if calm else self._settings.probe_interval_s)

    def suspect(self) -> None:
        """Something took long that may have had other reasons: have it probed at once."""
        self._suspect = True

    def has_answered_since(self, time: float) -> bool:
        return self._answered_at > time

    def on_answer(self, now: float) -> None:
        """A batch was answered. Alone it does not end DOWN: what answers now may have been asked long ago."""
        self._failures = 0
        self._suspect = False
        self._since = self._answered_at = now

    def on_probe_answer(self, now: float) -> bool:
        """A probe was answered."""
        self.on_answer(now)
        if not self.is_up:
            self._up_since = now
        return self._move_to(State.UP, "answers")

    def on_failure(self, now: float, why: str, *, refused: bool = False, asked: float | None = None) -> bool:
        """A batch or a probe failed; `refused` when that leaves no doubt, as when nothing listens there.

        One that was `asked` before the last outage was of a server that is gone, and does not count.
        """
        if self.is_up and asked is not None and asked < self._up_since:
            return False
        self._failures += 1
        self._suspect = False
        self._since = now
        if self.state is State.STARTING:
            return self._move_to(State.STARTING, why)
        if self.state is State.UP and not refused and self._failures < self._settings.failures_max:
            return False
        return self._move_to(State.DOWN, why)

    def _move_to(self, state: State, why: str) -> bool:
        moved = state is not self.state or (state is not State.UP and why != self.why)
        self.state = state
        self.is_up = state is State.UP
        self.why = why
        return moved

    def __repr__(self) -> str:
        return f"<Health {self.state.value}: {self.why}>"
