"""What can go wrong, in the gateway's words, by who must act.

    GatewayError
    ├── CallerError                the caller must change the call
    │   ├── BadRequest
    │   ├── TooLarge
    │   ├── Unauthorized
    │   ├── Forbidden
    │   └── UnknownModel
    ├── TemporaryError             nobody must act: try again later
    │   ├── Overloaded
    │   ├── BodiesFull
    │   ├── RateLimited
    │   ├── TooManyCalls
    │   ├── Draining
    │   ├── NoDeployment
    │   └── DeadlineExceeded
    └── UpstreamError              the operator must look at a server
        ├── ServerFailed
        └── BadAnswer

    StartError                     the operator: the gateway cannot start, or not go on
    └── ConfigError

Which HTTP status each GatewayError becomes is decided in `gateway.api.errors` alone.
"""

from collections.abc import Sequence


class GatewayError(Exception):
    """Base of all. `str(error)` is fit for a caller: no address, no key, no upstream text."""


class CallerError(GatewayError):
    """The call as it is can never succeed. `param` names the field at fault, where there is one; `detail` is
    what the dialect that refuses it has to say in its own words.
    """

    def __init__(self, message: str, *, param: str | None = None, detail: object = None) -> None:
        super().__init__(message)
        self.param = param
        self.detail = detail


class BadRequest(CallerError):
    pass


class TooLarge(CallerError):
    pass


class Unauthorized(CallerError):
    pass


class Forbidden(CallerError):
    pass


class UnknownModel(CallerError):
    pass


class TemporaryError(GatewayError):
    """The same call may succeed later; `retry_after_s` says when it is worth a try."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Overloaded(TemporaryError):
    """More is waiting than can be answered in time."""


class BodiesFull(TemporaryError):
    """The bodies of other calls take all the memory that bodies may."""


class RateLimited(TemporaryError):
    """The caller's key may send no more this minute."""


class TooManyCalls(TemporaryError):
    """The caller's key has as many calls under way as it may."""


class Draining(TemporaryError):
    """This gateway is about to stop."""


class NoDeployment(TemporaryError):
    """No server of the model is up."""


class DeadlineExceeded(TemporaryError):
    """The call's time ran out before its answer came."""


class UpstreamError(GatewayError):
    pass


class ServerFailed(UpstreamError):
    """The servers tried failed on this call: an error of theirs, or a connection that broke."""


class BadAnswer(UpstreamError):
    """The servers tried answered something that cannot be an answer to this call."""


class StartError(Exception):
    """Ends the process, in words that name the remedy. No caller ever meets it."""


class ConfigError(StartError):
    """The configuration cannot be used; each problem is one line that begins with its path in the file."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)
