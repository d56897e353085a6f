"""Takes the README's pictures of the page: `python -m tests.page.pictures`.

Three real Infinity servers with tiny models under a load of questions and documents; one of them is killed.
"""

import asyncio
import random
from itertools import count
from pathlib import Path

from gateway.bootstrap import EventLoop
from tests.api.caller import Caller
from tests.gateway_process import ROOT, GatewayProcess
from tests.page.browser import Browser
from tests.real_infinity import RealInfinity, ServedModel, model_dir

_CALLERS = 24
_CALM_S, _AFTER_S = 40, 6
"""The lines need some time to be lines."""
_SHOTS = (("wide", 1280, 0), ("phone", 390, 844))
"""Width and height in CSS pixels; 0: all of it."""


async def call(caller: Caller, numbers: "count[int]", rng: random.Random) -> None:
    while True:
        words = [f"{'word ' * rng.randint(1, 40)}{next(numbers)}" for _ in range(rng.randint(1, 6))]
        if rng.random() < 0.8:
            await caller.embed(words)
        else:
            await caller.rerank(f"question {next(numbers)}", words)
        await asyncio.sleep(rng.expovariate(4))


async def take(folder: Path) -> None:
    models = [ServedModel(name, model_dir(name)) for name in ("bert", "cross")]
    with RealInfinity(models) as one, RealInfinity(models) as two, RealInfinity(models) as three:
        environ = {"INFINITY_API_BASE": ",".join(each.url for each in (one, two, three))}
        async with (
            GatewayProcess(environ=environ) as gateway,
            Caller(gateway.url) as caller,
            Browser() as browser,
            browser.tab() as tab,
        ):
            await gateway.wait_ready(6)
            numbers, rng = count(), random.Random(1)
            tasks = [asyncio.create_task(call(caller, numbers, rng)) for _ in range(_CALLERS)]
            await tab.go(gateway.url)
            await asyncio.sleep(_CALM_S)
            three.kill()
            await asyncio.sleep(_AFTER_S)
            for name, width, height in _SHOTS:
                await tab.resize(width, height or 900, scale=2)
                for scheme in ("light", "dark"):
                    await tab.prefer(scheme, "reduce")
                    await tab.picture(folder / f"page-{name}-{scheme}.png", height)
            assert tab.problems == []
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    images = ROOT / "docs" / "images"
    images.mkdir(parents=True, exist_ok=True)
    with asyncio.Runner(loop_factory=EventLoop) as runner:
        runner.run(take(images))
