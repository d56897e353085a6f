"""Starts and watches local Infinity servers: what `serve` does with neither a config nor INFINITY_API_BASE.

    gateway ── Supervisor ── Server (each) ── leash (a pipe) ── warden ── infinity_emb

`find` says what can be started here, or in words why nothing can. `Supervisor` starts it, starts it again
when it ends, and leaves nothing running. `warden` is a program of its own, so that this holds even when the
gateway is killed.
"""

from gateway.embedded.servers import EmbeddedError, LocalServers, find
from gateway.embedded.supervisor import Supervisor

__all__ = ["EmbeddedError", "LocalServers", "Supervisor", "find"]
