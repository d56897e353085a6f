"""Which status and body each error becomes; native.py alone has others, Infinity's own."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import orjson

from gateway.errors import (
    BadAnswer,
    BadRequest,
    BodiesFull,
    DeadlineExceeded,
    Draining,
    Forbidden,
    GatewayError,
    NoDeployment,
    Overloaded,
    RateLimited,
    ServerFailed,
    TemporaryError,
    TooLarge,
    TooManyCalls,
    Unauthorized,
    UnknownModel,
)
from gateway.messages import Call

STATUS: Mapping[type[GatewayError], tuple[int, str, str]] = {
    # error: (status, type, code), the last two in OpenAI's words
    BadRequest: (400, "invalid_request_error", "bad_request"),
    Unauthorized: (401, "authentication_error", "invalid_api_key"),
    Forbidden: (403, "permission_error", "model_not_allowed"),
    UnknownModel: (404, "invalid_request_error", "model_not_found"),
    TooLarge: (413, "invalid_request_error", "body_too_large"),
    # 429, not 503: ingresses take a pod that answers 5xx out of service, and the load moves to the others.
    Overloaded: (429, "rate_limit_error", "overloaded"),
    BodiesFull: (429, "rate_limit_error", "overloaded"),
    RateLimited: (429, "rate_limit_error", "rate_limit_exceeded"),
    TooManyCalls: (429, "rate_limit_error", "too_many_calls"),
    ServerFailed: (502, "api_error", "server_failed"),
    BadAnswer: (502, "api_error", "bad_answer"),
    NoDeployment: (503, "api_error", "no_server_up"),
    Draining: (503, "api_error", "draining"),
    DeadlineExceeded: (504, "timeout_error", "deadline_exceeded"),
}

CALLER_GONE = 499  # nginx's word for a caller who left before the answer; never sent, only counted


class Told(NamedTuple):
    """An error as its caller gets it."""

    status: int
    body: bytes
    headers: list[tuple[bytes, bytes]]


def tell(error: GatewayError | None, _call: Call | None = None) -> Told:
    """In OpenAI's shape; None is a bug of ours."""
    if error is None:
        return Told(500, error_body("internal error", "api_error", None, "internal_error"), [])
    return Told(status_of(error), body_of(error), headers_of(error))


def status_of(error: GatewayError) -> int:
    return STATUS[type(error)][0]


def body_of(error: GatewayError) -> bytes:
    """OpenAI's error body."""
    _, kind, code = STATUS[type(error)]
    return error_body(str(error), kind, getattr(error, "param", None), code)


def error_body(message: str, kind: str, param: str | None, code: str) -> bytes:
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})


def headers_of(error: GatewayError) -> list[tuple[bytes, bytes]]:
    status = status_of(error)
    if status == 401:
        return [(b"www-authenticate", b"Bearer")]
    if isinstance(error, TemporaryError) and status in (429, 503):
        return [(b"retry-after", str(max(1, math.ceil(error.retry_after_s))).encode())]
    return []
