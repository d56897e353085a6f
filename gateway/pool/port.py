"""The servers, as a pool needs them: what it sends, what comes back, and how that fails."""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from gateway.core.lanes import BatchKey, Value
from gateway.core.retry import Failure
from gateway.core.sameness import Samples
from gateway.core.settings import DeploymentSettings

ITEMS_MAX = 32
"""Infinity's default batch size, for a server that does not tell its own."""


class Encoding(StrEnum):
    """How vectors are asked for. Base64 is a third of the size and needs no parsing."""

    BASE64 = "base64"
    FLOAT = "float"


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server has told of one of its models."""

    capabilities: frozenset[str]
    batch_size: int = ITEMS_MAX
    encoding: Encoding = Encoding.BASE64
    backend: str = ""
    """What it runs the model with, in its own word."""
    samples: Samples = ()
    """Its answers to fixed texts, `SHORT` of samples.py first; none when there is nothing to compare."""


class Request(NamedTuple):
    """One batch as it goes to a server."""

    key: BatchKey
    items: list[str]
    encoding: Encoding
    traces: Sequence[object] = ()
    """Those of the calls in it that have one."""
    head: bytes = b""
    """Header lines to send with it, each with its line end."""
    fresh: bool = False
    """Over a connection of its own, and once whatever becomes of it: it may be what breaks them."""


class Answer(NamedTuple):
    """One value for each item, in order, and what the server counted for all of them."""

    values: list[Value]
    tokens: int


class SendError(Exception):
    """A batch or a probe failed. `str(error)` may be logged; only for `REJECTED` is it shown to callers."""

    def __init__(
        self,
        failure: Failure,
        message: str,
        *,
        reason: str = "",
        may_be_input: bool = False,
        is_gone: bool = False,
    ) -> None:
        super().__init__(message)
        self.failure = failure
        self.is_gone = is_gone
        """Nothing listens there any more."""
        self.may_be_input = may_be_input
        """The server's own error, which something in the batch may have caused."""
        self.reason = reason or failure.value
        """One word of a small set, for metrics."""


class Upstream(Protocol):
    """The servers, as the pool needs them. Every failure leaves as a SendError."""

    async def inspect(self, deployment: DeploymentSettings, timeout_s: float) -> ServerFacts:
        """Ask a server that is to join what it serves, and see it answer a real call."""
        ...

    async def spent_s(
        self, deployment: DeploymentSettings, capabilities: frozenset[str], timeout_s: float
    ) -> float | None:
        """How long requests for these have been with a server since its start, summed up over all that it has
        answered, whoever asked, in seconds; None when it does not tell."""
        ...

    def send(
        self, deployment: DeploymentSettings, request: Request, timeout_s: float
    ) -> Awaitable[Answer]: ...
