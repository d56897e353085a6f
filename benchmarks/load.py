"""The load of `infinity-gateway bench`, with the same bodies again and again."""

import itertools
from collections.abc import Sequence

from gateway.bench.load import ClosedLoop, OpenLoop, Result
from gateway.bench.wire import Route

__all__ = ["Result", "closed_loop", "open_loop"]


async def closed_loop(
    url: str,
    bodies: Sequence[bytes],
    connections: int,
    seconds: float,
    warm_up_s: float = 1.0,
    key: str = "",
) -> Result:
    """POST `bodies` in turn to `url` over so many connections, for `seconds` after a warm-up."""
    return await ClosedLoop(Route(url, key), itertools.cycle(bodies), connections, seconds, warm_up_s).run()


async def open_loop(
    url: str,
    bodies: Sequence[bytes],
    rate: float,
    seconds: float,
    warm_up_s: float = 1.0,
    key: str = "",
    seed: int = 1,
) -> Result:
    """POST `bodies` in turn to `url`, `rate` a second at random times, for `seconds` after a warm-up."""
    return await OpenLoop(
        Route(url, key), itertools.cycle(bodies), rate, seconds, warm_up_s, connections_max=10_000, seed=seed
    ).run()
