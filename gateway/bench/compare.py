"""The same calls to a server directly and through a gateway, by turns."""

import asyncio
import base64
import itertools
import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from gateway.bench.inputs import Inputs
from gateway.bench.load import TOO_MANY, ClosedLoop, Load, OpenLoop, Result
from gateway.bench.measured import Measured
from gateway.bench.table import line, number, remarks, status_words
from gateway.bench.target import Target

SIDES = ("direct", "gateway")
SAMPLE = 16
COSINE_MIN = 0.99
SCORE_APART_MAX = 0.05
_ASK_S = 60.0
_READY = 4_000


@dataclass(frozen=True, slots=True)
class Plan:
    levels: Sequence[float]
    """Callers who wait, or rates if `is_open`."""
    is_open: bool
    rounds: int
    duration_s: float
    warm_up_s: float
    connections_max: int
    timeout_s: float
    seed: int

    @property
    def takes_s(self) -> float:
        return len(self.levels) * self.rounds * len(SIDES) * (self.duration_s + self.warm_up_s)


@dataclass(frozen=True, slots=True)
class Ratio:
    """The gateway's part over the direct one's: the median of the rounds, and the least and the most."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, pairs: Sequence[tuple[float, float]]) -> "Ratio":
        """Of (direct, gateway) in each round."""
        found = [gateway / direct for direct, gateway in pairs if direct > 0 and not math.isnan(gateway)]
        return cls(statistics.median(found), min(found), max(found)) if found else cls(*[math.nan] * 3)

    def verdict(self, *, more_is_better: bool) -> str:
        """Of the gateway: `faster`, `slower`, or `even` when the rounds do not agree which."""
        if math.isnan(self.median):
            return ""
        if self.least > 1:
            return "faster" if more_is_better else "slower"
        if self.most < 1:
            return "slower" if more_is_better else "faster"
        return "even"


_FIGURES: dict[str, tuple[Callable[[Result], float], bool]] = {
    "calls/s": (lambda result: result.rate, True),
    "p50 ms": (lambda result: result.percentile_ms(50), False),
    "p99 ms": (lambda result: result.percentile_ms(99), False),
}  # fmt: skip
_WIDTHS = (7, 8, 9, 9, 6, 14, 7)


class Comparison(Measured):
    """Each level in rounds of direct, gateway, gateway, direct, …: if the machine slows, it does for both.

    Both get the same texts in the same order, and at the same times where no answer decides those."""

    def __init__(
        self, direct: Target, gateway: Target, inputs: Inputs, plan: Plan, tell: Callable[[str], None]
    ) -> None:
        super().__init__(inputs, tell)
        self._targets = dict(zip(SIDES, (direct, gateway), strict=True))
        self._plan = plan

    async def run(self) -> None:
        await self._compare_answers()
        self._tell(
            line(
                ("rate" if self._plan.is_open else "callers", "", *SIDES, "ratio", "least..most", ""), _WIDTHS
            )
        )
        for level in self._plan.levels:
            await self._level(level)

    async def _level(self, level: float) -> None:
        found: dict[str, list[Result]] = {side: [] for side in SIDES}
        try:
            for number_of_round in range(self._plan.rounds):
                self._inputs.ready(self._place + _READY)
                used = []
                for side in SIDES if number_of_round % 2 == 0 else SIDES[::-1]:
                    result = await self._load(self._targets[side], level, number_of_round).run()
                    found[side].append(result)
                    used.append(result.ended)
                # No text twice to one target: then an answer may be at hand. Some may have been cut off.
                self._place += max(used) + int(level if not self._plan.is_open else 0)
        finally:
            if all(found.values()):
                self._add(level, found)

    def _load(self, target: Target, level: float, number_of_round: int) -> Load:
        plan = self._plan
        bodies = self._inputs.bodies(target.model, self._place)
        if plan.is_open:
            return OpenLoop(
                target.route,
                bodies,
                level,
                plan.duration_s,
                plan.warm_up_s,
                connections_max=plan.connections_max,
                timeout_s=plan.timeout_s,
                seed=plan.seed + number_of_round,
            )
        return ClosedLoop(
            target.route, bodies, int(level), plan.duration_s, plan.warm_up_s, timeout_s=plan.timeout_s
        )

    def _add(self, level: float, found: dict[str, list[Result]]) -> None:
        plan = self._plan
        row: dict[str, Any] = {"rate" if plan.is_open else "callers": level, "rounds": len(found[SIDES[0]])}
        for name, (figure, more_is_better) in _FIGURES.items():
            each = {side: [figure(result) for result in results] for side, results in found.items()}
            ratio = Ratio.of(list(zip(*each.values(), strict=False)))
            word = ratio.verdict(more_is_better=more_is_better)
            key = name.replace("/", "_").replace(" ", "_")
            medians = {side: statistics.median(values) for side, values in each.items()}
            row[key] = {
                **medians,
                "ratio": ratio.median,
                "least": ratio.least,
                "most": ratio.most,
                "verdict": word,
            }
            cells = (
                f"{level:g}" if name == "calls/s" else "", name, *map(number, medians.values()),
                number(ratio.median), f"{number(ratio.least)}..{number(ratio.most)}", word,
            )  # fmt: skip
            self._tell(line(cells, _WIDTHS))
        said = []
        for side, results in found.items():
            all_rounds = _merged(results)
            self.answered += all_rounds.calls
            row[f"{side}_statuses"] = status_words(all_rounds.statuses, plan.timeout_s)
            if rejected := all_rounds.statuses[TOO_MANY]:
                said.append(f"{side}: {rejected:,} × 429")
            most = plan.connections_max if plan.is_open else None
            said += [f"{side}: {each}" for each in remarks(all_rounds, most, plan.timeout_s)]
        row["remarks"] = said
        for remark in said:
            self._tell(f"         {remark}")
        self.rows.append(row)

    async def _compare_answers(self) -> None:
        """Whether both answer the first calls alike: one by one there, all at once, so in batches, here."""
        bodies = {
            side: [body for body, _ in zip(self._inputs.bodies(target.model, 0), range(SAMPLE), strict=False)]
            for side, target in self._targets.items()
        }
        self._place += SAMPLE
        direct, gateway = (self._targets[side].route for side in SIDES)
        try:
            alone = [await direct.ask(body, _ASK_S) for body in bodies[SIDES[0]]]
            together = await asyncio.gather(*(gateway.ask(body, _ASK_S) for body in bodies[SIDES[1]]))
        except OSError as error:
            self.notes.append(f"answers could not be compared: {str(error) or 'one took too long'}")
            return
        read = _scores if self._inputs.capability == "rerank" else _vectors
        try:
            pairs = [(read(*one), read(*other)) for one, other in zip(alone, together, strict=True)]
        except (ValueError, KeyError, TypeError) as error:
            self.notes.append(f"answers could not be compared: {error}")
            return
        if any(one.shape != other.shape for one, other in pairs):
            self.agrees = False
            self.notes.append("answers differ in shape: these are not the same models")
        elif read is _scores:
            worst = max(float(np.abs(one - other).max()) for one, other in pairs)
            self.agrees = worst <= SCORE_APART_MAX
            self.notes.append(f"scores of {SAMPLE} calls: at most {worst:.2g} apart{self._doubt()}")
        else:
            worst = min(float(_cosines(one, other).min()) for one, other in pairs)
            self.agrees = worst >= COSINE_MIN
            self.notes.append(f"vectors of {SAMPLE} calls: the worst cosine is {worst:.6f}{self._doubt()}")

    def _doubt(self) -> str:
        return "" if self.agrees else ": THESE ARE NOT THE SAME ANSWERS"


def _merged(results: Sequence[Result]) -> Result:
    return Result(
        max(result.connections for result in results),
        sum(result.seconds for result in results),
        sum(result.calls for result in results),
        sorted(itertools.chain.from_iterable(result.latencies_s for result in results)),
        sum((result.statuses for result in results), Counter[int]()),
        waited=sum(result.waited for result in results),
        lag_s=statistics.median(result.lag_s for result in results),
        core=statistics.median(result.core for result in results),
    )


def _vectors(status: int, body: bytes) -> "np.ndarray[Any, np.dtype[np.float32]]":
    data = sorted(_read(status, body)["data"], key=lambda each: each["index"])
    return np.array([
        np.frombuffer(base64.b64decode(each["embedding"]), np.float32)
        if isinstance(each["embedding"], str)
        else np.array(each["embedding"], np.float32)
        for each in data
    ])  # fmt: skip


def _scores(status: int, body: bytes) -> "np.ndarray[Any, np.dtype[np.float32]]":
    results = sorted(_read(status, body)["results"], key=lambda each: each["index"])
    return np.array([each["relevance_score"] for each in results], np.float32)


def _read(status: int, body: bytes) -> dict[str, Any]:
    if status != 200:
        raise ValueError(f"one was answered with {status}: {body[:200].decode(errors='replace')}")
    said: dict[str, Any] = orjson.loads(body)
    return said


def _cosines(
    one: "np.ndarray[Any, np.dtype[np.float32]]", other: "np.ndarray[Any, np.dtype[np.float32]]"
) -> "np.ndarray[Any, np.dtype[np.float32]]":
    lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    return np.asarray((one * other).sum(axis=-1) / np.maximum(lengths, 1e-30))
