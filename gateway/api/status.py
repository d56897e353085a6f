"""What `/status` answers: every pool and server now, and counts since the start.

Counts only grow, and `time_s` is the clock they go by: who asks twice has rates and percentiles of the time
between. Nothing is kept here for who looks on.
"""

import asyncio
import socket
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson

from gateway import __version__
from gateway.api.drain import Drain
from gateway.bootstrap import Runtime
from gateway.observability.metrics import ITEMS, SECONDS, Totals, Values
from gateway.pool import PoolStats

_NO_SECONDS = Values([0] * (len(SECONDS) + 1), 0.0)
_NO_ITEMS = Values([0] * (len(ITEMS) + 1), 0.0)


class Status:
    """JSON with times in seconds. Histograms are `{counts, sum}` over the bounds of their unit, with one more
    count for what lies above them all.
    """

    def __init__(self, runtime: Runtime, drain: Drain) -> None:
        self._runtime = runtime
        self._drain = drain

    def render(self) -> bytes:
        """Call it in the event loop."""
        gateway, totals = self._runtime.gateway, self._runtime.metrics.totals()
        return orjson.dumps(
            {
                "ready": gateway.ready,
                "gateway": {
                    # Several gateways may take turns in answering at one address, and a new one counts anew.
                    "id": self._runtime.id,
                    "host": socket.gethostname(),
                    "version": __version__,
                    "draining": self._drain.draining,
                    "time_s": round(asyncio.get_running_loop().time(), 3),
                },
                "bounds": {"seconds": SECONDS, "items": ITEMS},
                "requests": {
                    "statuses": {status: count for (status,), count in totals.statuses.items()},
                    "seconds": _histogram(totals.request_seconds.get((), _NO_SECONDS)),
                },
                "models": list(_models(gateway.stats(), totals)),
                "not_answered": gateway.untold(),
            }
        )


def _models(pools: Iterable[PoolStats], totals: Totals) -> Iterator[dict[str, Any]]:
    outcomes: dict[tuple[str, str], dict[str, int]] = {}
    for (model, name, outcome), count in totals.batches.items():
        outcomes.setdefault((model, name), {})[outcome] = count
    for pool in pools:
        model = pool.model
        waits = totals.queue_seconds.get((model,), _NO_SECONDS)
        yield {
            "model": model,
            "in_flight_requests": pool.in_flight_calls,
            "queued_items": pool.queued_items,
            "calls": sum(waits.counts),
            "items": totals.items.get((model,), 0),
            "queue_seconds": _histogram(waits),
            "deployments": [
                {
                    "name": deployment.name,
                    "state": deployment.state,
                    "why": deployment.why,
                    "breaker": deployment.breaker,
                    "in_flight_batches": deployment.batches,
                    "in_flight_items": deployment.items,
                    "limit": deployment.limit,
                    "busy_ratio": round(deployment.busy_ratio, 3),
                    "requests_of_others": round(deployment.others, 2),
                    "service_seconds": deployment.service,
                    "batches": outcomes.get((model, deployment.name), {}),
                    "batch_items": _histogram(totals.batch_items.get((model, deployment.name), _NO_ITEMS)),
                    "batch_seconds": _histogram(
                        totals.batch_seconds.get((model, deployment.name), _NO_SECONDS)
                    ),
                }
                for deployment in pool.deployments
            ],
        }


def _histogram(values: Values) -> Mapping[str, Any]:
    return {"counts": values.counts, "sum": round(values.sum, 6)}
