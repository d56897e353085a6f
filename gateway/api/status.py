"""What `/status` answers: every pool and server now, and counts since the start.

Counts only grow, and `time_s` says by which clock: who asks twice has rates and percentiles of the time
between, and nothing is kept here for who looks on.
"""

import asyncio
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from gateway import __version__
from gateway.bootstrap import Runtime
from gateway.observability.metrics import Distribution, Metrics

_ID = os.urandom(6).hex()
"""Of this process: several may take turns in answering at one address."""


def render_status(runtime: Runtime, *, draining: bool) -> bytes:
    """JSON. Call it in the event loop."""
    gateway, metrics = runtime.gateway, runtime.metrics
    return orjson.dumps(
        {
            "ready": gateway.ready,
            "gateway": {
                "id": _ID,
                "host": socket.gethostname(),
                "version": __version__,
                "draining": draining,
                "time_s": round(asyncio.get_running_loop().time(), 3),
            },
            "bounds": {
                "seconds": metrics.bounds("request_duration_seconds"),
                "items": metrics.bounds("batch_items"),
            },
            "requests": {
                "statuses": {
                    status: count for (status,), count in metrics.counts("requests_total", "status").items()
                },
                "seconds": _histogram(metrics.distributions("request_duration_seconds"), (), metrics),
            },
            "models": _models(runtime),
            "not_answered": gateway.untold(),
        }
    )
