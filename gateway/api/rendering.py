"""What every dialect makes of an answer: a body, and what the metrics and headers say of it."""

import time
from collections.abc import Generator
from typing import Any, NamedTuple, Protocol

from gateway.messages import Call, Timings


class Reply(NamedTuple):
    body: bytes
    model: str
    timings: Timings


Rendering = Generator[None, None, Reply]
"""A reply in the making: it yields where others may have their turn."""


class Exchange(Protocol):
    """One call as a dialect has read it, which knows how its answer is written."""

    @property
    def call(self) -> Call: ...

    @property
    def items(self) -> int: ...

    def render(self, result: Any, request_id: bytes) -> Rendering:
        """The reply to a result of the call's kind."""
        ...


def usage(tokens: int) -> bytes:
    return b'{"prompt_tokens":%d,"total_tokens":%d}' % (tokens, tokens)


def envelope(request_id: bytes) -> bytes:
    """The answer's id and time, as Infinity has them. The id is the request's, so that it can be found."""
    return b'"id":"infinity-%b","created":%d' % (request_id, time.time())  # noqa: TID251 - a date for people
