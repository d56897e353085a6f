"""Servers that die of inputs and of other things, under callers of every kind, by a clock that jumps.

    python -m tests.pool.mortality --runs 200

A run has a pool of servers that die, freeze and lose connections at random, and callers whose texts are well
but for a few that kill: at once, by hanging, or after a while.
"""

import argparse
import asyncio
import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Literal

from gateway.core.retry import Failure
from gateway.core.settings import DeploymentSettings
from gateway.errors import BadRequest, GatewayError
from gateway.pool import Answer, Pool, Request, SendError, ServerFacts
from tests.fakes.time import run
from tests.fakes.upstream import PING, RecordingUpstream
from tests.pool.pools import ask, now, running

Kind = Literal["closes", "hangs", "lingers"]
KINDS: tuple[Kind, ...] = ("closes", "hangs", "lingers")
_LINGERS_S = 0.5
_FAULTS = ("killed", "killed", "frozen", "hangs", "drops")


@dataclass(frozen=True)
class Setting:
    servers: int = 4
    lasts_s: float = 120.0
    fault_every_s: float = 15.0
    """On average, in the pool; never when fewer than three are well."""
    killer_every_s: float = 20.0
    back_s: tuple[float, float] = (1.0, 5.0)
    callers: int = 3
    bulk: int = 1
    kinds: tuple[Kind, ...] = KINDS
    batch_s: float = 0.01
    item_s: float = 0.001


@dataclass
class Tally:
    calls: Counter[str] = field(default_factory=Counter)
    """What came of calls whose texts are all well, asked with time enough."""
    died: Counter[int] = field(default_factory=Counter)
    """Servers that died of one text → texts."""
    faults: Counter[str] = field(default_factory=Counter)


class Mortal(RecordingUpstream):
    """Servers with a life: what is under way when it ends is lost."""

    def __init__(self, setting: Setting, rng: random.Random) -> None:
        super().__init__()
        self.setting = setting
        self.rng = rng
        self.lives: Counter[str] = Counter()
        self.ends: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.drops: set[str] = set()
        self.frozen: dict[str, asyncio.Event] = {}
        self.busy: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.killed_by: dict[str, set[tuple[str, int]]] = defaultdict(set)
        self.returns: set[asyncio.Task[None]] = set()
        self.scarce_at = 0.0
        """When fewer than two servers were last up and well."""

    def well(self) -> list[str]:
        names = [f"s{i}" for i in range(self.setting.servers)]
        return [n for n in names if n not in self.down | self.hung | self.drops and n not in self.frozen]

    def die(self, name: str, back_s: float | None = None) -> None:
        """All its connections break, and nothing listens there until it is back."""
        self.lives[name] += 1
        ends, self.ends[name] = self.ends[name], asyncio.Event()
        self.busy[name] = asyncio.Lock()
        self.hung.discard(name)
        self.down.add(name)
        ends.set()
        task = asyncio.get_running_loop().create_task(self._return(name, back_s))
        self.returns.add(task)
        task.add_done_callback(self.returns.discard)

    async def _return(self, name: str, back_s: float | None) -> None:
        await asyncio.sleep(self.rng.uniform(*self.setting.back_s) if back_s is None else back_s)
        self.down.discard(name)

    def blame(self, name: str, text: str) -> None:
        self.killed_by[text].add((name, self.lives[name]))

    async def inspect(self, deployment: DeploymentSettings, timeout_s: float) -> ServerFacts:
        await self._alive(deployment.name, [], timeout_s)
        return await super().inspect(deployment, timeout_s)

    async def send(self, deployment: DeploymentSettings, request: Request, timeout_s: float) -> Answer:
        await self._alive(deployment.name, request.items, timeout_s)
        return self._answer(deployment.name, request)

    async def _alive(self, name: str, items: list[str], timeout_s: float) -> None:
        """Be worked on; raises what becomes of a request otherwise."""
        if name in self.down:
            raise SendError(Failure.REFUSED, "refused")
        ends = self.ends[name]
        work = asyncio.get_running_loop().create_task(self._work(name, items))
        end = asyncio.get_running_loop().create_task(ends.wait())
        try:
            await asyncio.wait({work, end}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if ends.is_set():
                raise SendError(Failure.DISCONNECTED, "connection lost")
            if not work.done():
                raise SendError(Failure.TIMEOUT, "late")
            await work
        finally:
            end.cancel()
            if not items or items == [PING]:
                work.cancel()

    async def _work(self, name: str, items: list[str]) -> None:
        life = self.lives[name]
        async with self.busy[name]:  # It does not notice that somebody has gone.
            while name in self.frozen:
                await self.frozen[name].wait()
            if self.lives[name] != life:
                return
            if name in self.drops:
                raise SendError(Failure.DISCONNECTED, "connection lost")
            if name in self.hung:
                await asyncio.sleep(3600)
            await asyncio.sleep(self.setting.batch_s + self.setting.item_s * len(items))
            if self.lives[name] != life:
                return
            for text in items:
                match text.split()[0]:
                    case "closes":
                        self.blame(name, text)
                        self.die(name)
                    case "hangs":
                        self.blame(name, text)
                        self.hung.add(name)
                        asyncio.get_running_loop().call_later(15, self._restarted, name, life)
                        await asyncio.sleep(3600)
                    case "lingers":
                        await asyncio.sleep(_LINGERS_S)
                        if self.lives[name] == life:
                            self.blame(name, text)
                            self.die(name)

    def _restarted(self, name: str, life: int) -> None:
        if self.lives[name] == life:
            self.die(name)


async def live(setting: Setting, seed: int, tally: Tally) -> None:
    rng = random.Random(seed)
    upstream = Mortal(setting, random.Random(rng.random()))
    names = [f"s{i}" for i in range(setting.servers)]
    members = [DeploymentSettings(name, f"http://{name}") for name in names]
    async with running(upstream, members, seed=seed) as pool:
        tasks = [
            *(
                _calls(pool, upstream, tally, f"call {i}", (1, 3), setting, rng.random())
                for i in range(setting.callers)
            ),
            *(
                _calls(pool, upstream, tally, f"bulk {i}", (30, 100), setting, rng.random())
                for i in range(setting.bulk)
            ),
            _faults(upstream, tally, setting, random.Random(rng.random())),
            _killers(pool, setting, random.Random(rng.random())),
            _watch(pool, upstream, setting),
        ]
        await asyncio.gather(*tasks)
        for task in list(upstream.returns):
            task.cancel()
    tally.died.update(len(died) for died in upstream.killed_by.values())
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()


async def _calls(
    pool: Pool,
    upstream: Mortal,
    tally: Tally,
    name: str,
    sizes: tuple[int, int],
    setting: Setting,
    seed: float,
) -> None:
    rng, number = random.Random(seed), 0
    while now() < setting.lasts_s:
        number += 1
        texts = [f"{name} {number} {i}" for i in range(rng.randint(*sizes))]
        try:
            asked = now()
            await ask(pool, texts, within_s=60)
            tally.calls["answered"] += 1
        except GatewayError as error:
            scarce = " while less than two servers were up" if upstream.scarce_at >= asked - 0.1 else ""
            tally.calls[type(error).__name__ + scarce] += 1
        await asyncio.sleep(rng.expovariate(1 / 0.05))


async def _watch(pool: Pool, upstream: Mortal, setting: Setting) -> None:
    while now() < setting.lasts_s:
        up = {each.name for each in pool.stats().deployments if each.state == "up"}
        if len(up & set(upstream.well())) < 2:
            upstream.scarce_at = now()
        await asyncio.sleep(0.02)


async def _faults(upstream: Mortal, tally: Tally, setting: Setting, rng: random.Random) -> None:
    while now() < setting.lasts_s:
        await asyncio.sleep(rng.expovariate(1 / setting.fault_every_s))
        well = upstream.well()
        if len(well) < 3:
            continue
        name, kind, for_s = rng.choice(well), rng.choice(_FAULTS), rng.uniform(0.3, 8.0)
        tally.faults[kind] += 1
        match kind:
            case "killed":
                upstream.die(name)
            case "frozen":
                upstream.frozen[name] = asyncio.Event()
                await asyncio.sleep(for_s)
                upstream.frozen.pop(name).set()
            case "hangs":
                upstream.hung.add(name)
                await asyncio.sleep(for_s)
                if name in upstream.hung:
                    upstream.die(name)
            case "drops":
                upstream.drops.add(name)
                await asyncio.sleep(for_s)
                upstream.drops.discard(name)


async def _killers(pool: Pool, setting: Setting, rng: random.Random) -> None:
    """Asked again and again by callers with more and less patience, until they are refused."""
    number = 0
    while setting.kinds and now() < setting.lasts_s:
        await asyncio.sleep(rng.expovariate(1 / setting.killer_every_s))
        number += 1
        text = f"{rng.choice(setting.kinds)} {number}"
        within_s = rng.choice([0.3, 2.0, 60.0])
        for _ in range(8):
            try:
                beside = [f"beside {number} {i}" for i in range(rng.choice([0, 0, 4]))]
                await ask(pool, [text, *beside], within_s=within_s)
            except BadRequest:
                break
            except GatewayError:
                pass
            await asyncio.sleep(rng.uniform(0.0, 1.0))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    total = Tally()
    for seed in range(options.seed, options.seed + options.runs):
        run(live(Setting(), seed, total))
        died = dict(sorted(total.died.items()))
        print(f"{seed}: {dict(total.calls)}, servers that died of one text: {died}", flush=True)


if __name__ == "__main__":
    main()
