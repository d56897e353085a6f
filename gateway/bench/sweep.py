"""Rates of calls, given or found, and what each meets."""

import asyncio
import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.bench.inputs import Inputs
from gateway.bench.load import TIMED_OUT, TOO_MANY, UNSENT, OpenLoop, Result
from gateway.bench.measured import Measured
from gateway.bench.table import line, number, remarks, status_words
from gateway.bench.target import Target

PERCENTILES = (50, 90, 95, 99, 99.9)
_COLUMNS = {
    "calls/s": 8, "answered": 8, **{f"p{each:g} ms": 8 for each in PERCENTILES}, "max ms": 8, "429": 6,
    "errors": 6, "conns": 5,
}  # fmt: skip

_FIRST_RATE = 16.0
_REFINED = 1.1
"""The knee is known well enough when this factor is between a rate that goes and one that does not."""
_ANSWERED_MIN = 0.95
_ERRORS_MAX = 0.01
_SLOWER = 10.0
_P99_MS_MIN = 50.0
_SETTLE_S = 60.0


@dataclass(frozen=True, slots=True)
class Plan:
    rates: Sequence[float] | None
    """None looks for the knee."""
    duration_s: float
    warm_up_s: float
    connections_max: int
    timeout_s: float
    seed: int
    within_s: float = 90.0
    """Time for the search of the knee."""
    p99_ms_max: float | None = None
    """Latency that says stop; None is ten times the median at the first rate."""


class Sweep(Measured):
    """Runs rates one after the other, and tells of each when it has ended."""

    def __init__(self, target: Target, inputs: Inputs, plan: Plan, tell: Callable[[str], None]) -> None:
        super().__init__(inputs, tell)
        self._target = target
        self._plan = plan

    async def run(self) -> None:
        self._tell(line(_COLUMNS, list(_COLUMNS.values())))
        if self._plan.rates is None:
            await self._find_knee()
        else:
            for rate in self._plan.rates:
                await self._meet(rate)

    async def _find_knee(self) -> None:
        """Double the rate until latency or errors say stop, then look between the last two."""
        loop, plan = asyncio.get_running_loop(), self._plan
        until = loop.time() + plan.within_s
        rate, goes, stops, why, p99_ms_max = _FIRST_RATE, 0.0, math.inf, "", plan.p99_ms_max or 0.0
        best: Result | None = None
        while stops / max(goes, 1e-9) > _REFINED and loop.time() + plan.warm_up_s + plan.duration_s <= until:
            result = await self._meet(rate)
            p99_ms_max = p99_ms_max or max(_P99_MS_MIN, _SLOWER * result.percentile_ms(50))
            if said := says_stop(result, p99_ms_max):
                stops, why = rate, said
                await self._settle()
            else:
                goes, best = rate, result
            rate = math.sqrt(goes * stops) if stops < math.inf and goes else goes * 2 if goes else rate / 4
        if best:
            self.notes.append(
                f"knee: {number(goes)} calls/s are carried, with a p99 of {number(best.percentile_ms(99))} ms"
                + (
                    f"; at {number(stops)} {why}"
                    if why
                    else f"; no limit was found within {plan.within_s:g} s"
                )
            )
        else:
            self.notes.append(f"knee: none, since even at {number(stops)} calls/s {why}")

    async def _meet(self, rate: float) -> Result:
        plan = self._plan
        expected = int(rate * (plan.warm_up_s + plan.duration_s) * 1.2)
        self._inputs.ready(self._place + expected)
        load = OpenLoop(
            self._target.route,
            self._inputs.bodies(self._target.model, self._place),
            rate,
            plan.duration_s,
            plan.warm_up_s,
            connections_max=plan.connections_max,
            timeout_s=plan.timeout_s,
            seed=plan.seed,
        )
        try:
            return await load.run()
        finally:  # Interrupted, too: what there is, is told.
            result = load.result()
            self._place += result.ended
            self.answered += result.calls
            self._add(rate, result)

    def _add(self, rate: float, result: Result) -> None:
        rejected = result.statuses[TOO_MANY]
        latencies = {f"p{each:g}_ms": result.percentile_ms(each) for each in PERCENTILES}
        latencies["max_ms"] = result.percentile_ms(100)
        said = remarks(result, self._plan.connections_max, self._plan.timeout_s)
        self.rows.append({
            "rate": rate, "seconds": result.seconds, "answered": result.rate, **latencies,
            "rejected": rejected, "errors": result.errors - rejected,
            "statuses": status_words(result.statuses, self._plan.timeout_s),
            "connections": result.connections, "waited": result.waited, "lag_ms": 1e3 * result.lag_s,
            "core": result.core, "remarks": said,
        })  # fmt: skip
        cells = [
            number(rate), number(result.rate), *map(number, latencies.values()), f"{rejected:,}",
            f"{result.errors - rejected:,}", f"{result.connections:,}",
        ]  # fmt: skip
        self._tell(line(cells, list(_COLUMNS.values())))
        for remark in said:
            self._tell(f"          {remark}")

    async def _settle(self) -> None:
        """Let a server finish what nobody waits for any more: one call more stands behind all of it."""
        body = next(self._inputs.bodies(self._target.model, self._place))
        self._place += 1
        with contextlib.suppress(OSError):  # of which TimeoutError is one
            await self._target.route.ask(body, _SETTLE_S)


def says_stop(result: Result, p99_ms_max: float) -> str:
    """Why a rate is too much, or nothing."""
    without = result.statuses[TIMED_OUT] + result.statuses[UNSENT]
    calls = len(result.latencies_s) - without + result.errors
    if result.errors > _ERRORS_MAX * calls:
        return f"{result.errors / calls:.0%} of the calls failed"
    if result.percentile_ms(99) > p99_ms_max:
        return f"the p99 is {number(result.percentile_ms(99))} ms, more than {number(p99_ms_max)} ms"
    if result.calls < _ANSWERED_MIN * calls:
        return f"only {number(result.rate)} a second were answered in time"
    return ""
