"""Callers who go on calling while something breaks, each of whom knows what it must get."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import aiohttp
import numpy as np

from tests.api.caller import numbers

CLOSE = 1e-4
"""Padding and the order of sums change the last digits of a real model's vectors, and nothing else may."""
_CALL_S_MAX = 60.0


class Load:
    """So many callers over as many connections, each with one call after another until the block ends.

    A call has one text, `text_of(caller, call)`, and must be answered with 200 and `vector_of(text)`.
    `failures` holds what was not.
    """

    def __init__(
        self,
        url: str,
        text_of: Callable[[int, int], str],
        vector_of: Callable[[str], Sequence[float]],
        *,
        model: str,
        callers: int = 200,
    ) -> None:
        self._url = url
        self._text_of = text_of
        self._vector_of = vector_of
        self._model = model
        self._answered = asyncio.Condition()
        self._enough = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._session: aiohttp.ClientSession
        self.callers = callers
        self.answers = Counter[int]()
        """Of each caller."""
        self.failures: list[str] = []
        self.longest_s = 0.0

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            self._url,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=_CALL_S_MAX),
        )
        self._tasks = [asyncio.create_task(self._call_on(number)) for number in range(self.callers)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._enough.set()
        if kind:
            for task in self._tasks:
                task.cancel()
        try:
            await asyncio.gather(*self._tasks, return_exceptions=bool(kind))
        finally:
            await self._session.close()

    async def more(self, count: int) -> None:
        """Until so many more calls have been answered."""
        wanted = self.answers.total() + count
        async with self._answered:
            await self._answered.wait_for(lambda: self.answers.total() >= wanted)

    async def everybody(self) -> None:
        """Until each caller has the answer to a call that it sends from now on."""
        # The next answer may be to a call from before.
        wanted = Counter({number: self.answers[number] + 2 for number in range(self.callers)})
        async with self._answered:
            await self._answered.wait_for(lambda: wanted <= self.answers)

    async def _call_on(self, number: int) -> None:
        loop, call = asyncio.get_running_loop(), 0
        while not self._enough.is_set():
            text, sent = self._text_of(number, call), loop.time()
            if wrong := await self._call(text):
                self.failures.append(f"caller {number}, call {call}: {wrong}")
            self.longest_s = max(self.longest_s, loop.time() - sent)
            call += 1
            async with self._answered:
                self.answers[number] += 1
                self._answered.notify_all()

    async def _call(self, text: str) -> str:
        """What is wrong with the answer."""
        body = {"model": self._model, "input": text, "encoding_format": "base64"}
        try:
            async with self._session.post("/v1/embeddings", json=body) as reply:
                if reply.status != 200:
                    return f"{reply.status} {await reply.text()}"
                found = numbers((await reply.json())["data"][0]["embedding"])
        except (aiohttp.ClientError, TimeoutError) as error:
            return repr(error)
        expected = self._vector_of(text)
        if len(found) != len(expected) or np.abs(np.subtract(found, expected)).max() > CLOSE:
            return "the vector of another text"
        return ""
