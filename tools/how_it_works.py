"""What docs/how-it-works.md draws: the core at work on known texts, and in a simulation.

    python -m tools.how_it_works

It writes docs/images/how-it-works.json, from which tools/draw.py makes the pictures. The same code and seeds
give the same file.
"""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.scale import Gateway, Server, Simulation, Tally, Window
from benchmarks.texts import mixed_lengths
from gateway.core.balancer import Balancer, Permit
from gateway.core.lanes import Batch, BatchKey, Lanes, Ticket
from gateway.core.packing import tokens_of
from gateway.messages import Task

FILE = Path(__file__).parents[1] / "docs" / "images" / "how-it-works.json"

ITEMS_MAX = 32
WAITING = 128
RATIO = 100.0
"""o / b in padded tokens: what is assumed of a server of which nothing is known yet."""
_KEY = BatchKey(Task.EMBED)
_LEARN_S = 8.0
_TURN_S = 0.3
"""When calls get more, from the beginning of what is shown."""
_FAST = 4.0
_TIMEOUT_S = 5.0


@dataclass
class Run:
    """One server's work, as seconds from the beginning of what is shown."""

    speed: float
    sent: list[tuple[float, int]] = field(default_factory=list)
    """When a batch left for it, and how many texts it held."""
    work: list[tuple[float, float, int]] = field(default_factory=list)
    """From when to when it was busy with how many texts."""
    down: list[tuple[float, float]] = field(default_factory=list)


class _Seen(Server):
    """Remembers when it worked."""

    def __init__(self, simulation: Simulation, run: Run, window: Window) -> None:
        super().__init__(simulation, run.speed, random.Random(f"noise {run.speed}"), window)
        self.run = run
        self._began = 0.0

    def _work(self) -> None:
        self._began = self._simulation.now
        super()._work()

    def _done(self, batch: list[Any], deaths: int) -> None:
        if deaths == self.deaths:
            self.run.work.append((self._began - _LEARN_S, self._simulation.now - _LEARN_S, len(batch)))
        super()._done(batch, deaths)


class _Sending(Gateway):
    """Remembers when batches left."""

    runs: Sequence[Run] = ()

    def _send(self, batch: Batch, permit: Permit) -> None:
        self.runs[int(permit.deployment.name)].sent.append((permit.sent - _LEARN_S, len(batch)))
        super()._send(batch, permit)


def by_arrival(tokens: Sequence[int]) -> list[list[int]]:
    return [list(tokens[at : at + ITEMS_MAX]) for at in range(0, len(tokens), ITEMS_MAX)]


def by_cut(texts: Sequence[str]) -> list[list[int]]:
    """All of them waiting at once, taken batch by batch as for one server."""
    lanes = Lanes(items_max=ITEMS_MAX)
    for text in texts:
        lanes.add(Ticket(_KEY, [text], 0.0, _TIMEOUT_S))
    batches = []
    while batch := lanes.take(ITEMS_MAX, RATIO, 0.0):
        batches.append([entry.tokens for entry in batch.entries])
    return batches


def cost(batches: Sequence[Sequence[int]]) -> float:
    """In padded tokens, a batch more as so many; without what each text costs anyway."""
    return sum(RATIO + len(batch) * max(batch) for batch in batches)


def simulated(
    speeds: Sequence[float],
    few: float,
    many: float,
    shown_s: float,
    dies: tuple[int, float, float] | None = None,
) -> dict[str, Any]:
    """Calls of one text each: `few` a second, then `many`. `dies`: which server, when, and until when."""
    simulation, end = Simulation(), _LEARN_S + shown_s
    window = Window(0.0, end)
    runs = [Run(speed) for speed in speeds]
    servers = [_Seen(simulation, run, window) for run in runs]
    gateway = _Sending(simulation, servers, Balancer(random.Random(1)), Tally(window), 0.1)
    gateway.runs = runs
    arrived = []
    texts = mixed_lengths(4096)
    for number, at in enumerate(_arrivals(few, many, end)):
        arrived.append(at - _LEARN_S)
        text = f"{texts[number % len(texts)]} {number}"
        simulation.at(at, gateway.ask, Ticket(_KEY, [text], at, at + _TIMEOUT_S))
    if dies:
        which, start, back = dies
        simulation.at(_LEARN_S + start, servers[which].die)
        simulation.at(_LEARN_S + back, servers[which].come_back)
        runs[which].down.append((start, back))
    simulation.run(end)
    sent_before = sum(items for run in runs for at, items in run.sent if at <= 0)
    return {
        "shown_s": shown_s,
        "waiting": sum(at <= 0 for at in arrived) - sent_before,
        "arrived": [round(at, 4) for at in arrived if at > 0],
        "servers": [asdict(run) | {"sent": _shown(run.sent), "work": _shown(run.work)} for run in runs],
    }


def _arrivals(few: float, many: float, end: float) -> Iterator[float]:
    """Both rates in turn, so that the server is known when what is shown begins."""
    rng, at = random.Random(7), 0.0
    while True:
        since = at - _LEARN_S if at >= _LEARN_S else at % 1.0
        at += rng.expovariate(few if since < _TURN_S else many)
        if at >= end:
            return
        yield at


def _shown(rows: Sequence[tuple[float, ...]]) -> list[list[float]]:
    return [[round(value, 4) for value in row] for row in rows if row[-2] > 0]


def made() -> dict[str, Any]:
    texts = mixed_lengths(WAITING)
    return {
        "arrival": by_arrival([tokens_of(text) for text in texts]),
        "cut": by_cut(texts),
        "leaving": simulated([_FAST], 25, 230, 0.9),
        "balancing": simulated([_FAST, _FAST, _FAST / 3], 120, 480, 1.8, (1, 0.6, 1.0)),
    }


if __name__ == "__main__":
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(json.dumps(made()) + "\n")
