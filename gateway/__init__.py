"""infinity-gateway: batching and load balancing in front of Infinity embedding and rerank servers.

    from gateway import embedding, rerank, aembedding, arerank, Gateway

What these raise is in `gateway.errors`, a `GatewayError` each.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gateway.errors import GatewayError as GatewayError
    from gateway.sdk import Gateway as Gateway
    from gateway.sdk import aembedding as aembedding
    from gateway.sdk import arerank as arerank
    from gateway.sdk import embedding as embedding
    from gateway.sdk import rerank as rerank

    __version__: str

__all__ = ["Gateway", "GatewayError", "__version__", "aembedding", "arerank", "embedding", "rerank"]


def __getattr__(name: str) -> Any:
    """Found on first use, so that whoever imports a part, or nothing but this, does not wait for the rest."""
    if name == "__version__":
        found = import_module("importlib.metadata").version("infinity-gateway")
    elif name in __all__:
        found = getattr(import_module("gateway.errors" if name == "GatewayError" else "gateway.sdk"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
