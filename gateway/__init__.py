"""infinity-gateway: batching and load balancing in front of Infinity embedding and rerank servers."""

from importlib.metadata import version

__version__ = version("infinity-gateway")
