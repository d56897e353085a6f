"""Waiting for what cannot be awaited, for a bounded time."""

import asyncio
from collections.abc import Awaitable, Callable

_POLL_S = 0.005


async def until(holds: Callable[[], bool] | Callable[[], Awaitable[bool]], within_s: float = 10) -> None:
    async with asyncio.timeout(within_s):
        while True:
            held = holds()
            if held if isinstance(held, bool) else await held:
                return
            await asyncio.sleep(_POLL_S)
