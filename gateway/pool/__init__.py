"""One model's pool: calls wait here, leave in batches for the servers, and get their answers back."""

from gateway.pool.pool import DeploymentStats, Pool, PoolStats
from gateway.pool.port import Answer, Encoding, Request, SendError, ServerFacts, Upstream

__all__ = [
    "Answer",
    "DeploymentStats",
    "Encoding",
    "Pool",
    "PoolStats",
    "Request",
    "SendError",
    "ServerFacts",
    "Upstream",
]
