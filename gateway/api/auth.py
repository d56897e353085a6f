"""Who may call, and how much: a key comes with each request, and the config says what it may.

Where no key is asked for, since only this machine can connect, a page of another site in a browser here still
could call. What its requests say of hosts gives it away.

Nothing but the key says who calls. The master key is compared in constant time; of the others only digests
are known, so that to look one up tells nothing of it.
"""

import hashlib
import hmac
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from ipaddress import ip_address
from typing import NamedTuple

from gateway.config import Config
from gateway.core.quota import Quota, Quotas
from gateway.errors import Unauthorized


class Keys:
    """The callers' keys. Where none is configured every caller is let in."""

    def __init__(self, config: Config, quotas: Quotas) -> None:
        self._open = not config.keyed
        self._key = config.master_key.reveal().encode() if config.master_key else None
        self._usual = b"Bearer %b" % self._key if self._key is not None else None
        """The header as nearly everybody sends it."""
        self._quotas = quotas

    def caller(self, headers: Mapping[bytes, bytes]) -> str:
        """Who asks without a named key, as far as fair shares go: where one key is everybody's, all are one
        caller; where none is needed, callers differ by what they send all the same. No secret: a digest.
        """
        given = headers.get(b"authorization") if self._open else None
        return hashlib.blake2b(given, digest_size=8).hexdigest() if given else ""

    def check(self, headers: Mapping[bytes, bytes]) -> Quota | None:
        """The quota of the key that came as `Authorization: Bearer` or `api-key`; None when it may do all.

        Raises Unauthorized when none came, or none that is valid.
        """
        if self._open:
            return None
        given = headers.get(b"authorization", b"")
        if self._usual is not None and hmac.compare_digest(given, self._usual):
            return None
        scheme, _, key = given.partition(b" ")
        if scheme.lower() != b"bearer":
            key = headers.get(b"api-key", b"")
        key = key.strip()
        if not key:
            raise Unauthorized("no key came with the request; send it as 'Authorization: Bearer KEY'")
        if self._key is not None and hmac.compare_digest(key, self._key):
            return None
        quota = self._quotas.find(hashlib.sha256(key).digest())
        if quota is None:
            raise Unauthorized("the key that came with the request is not valid here")
        return quota


class Stranger(NamedTuple):
    """What is answered to a page of another site."""

    status: int
    reason: str
    message: str


_REMEDY = "without a key only this machine is served; set a key, or gateway.allow_anonymous: true"
_FOREIGN_HOST = Stranger(
    421, "foreign_host", f"the header Host must be localhost or a loopback address: {_REMEDY}"
)
_FOREIGN_ORIGIN = Stranger(403, "foreign_origin", f"pages of other sites may not call: {_REMEDY}")


def stranger_in(headers: Mapping[bytes, bytes]) -> Stranger | None:
    """What to tell whoever is no program on this machine, nor a page that the gateway itself has served.
    Programs may leave out both fields; browsers send `Host` always, and `Origin` with each POST.
    """
    host = headers.get(b"host", b"")
    if host and not _is_loopback(host):
        return _FOREIGN_HOST
    origin = headers.get(b"origin")
    if origin is not None and origin.lower().partition(b"://")[2] != host.lower():
        return _FOREIGN_ORIGIN
    return None


@lru_cache(maxsize=256)
def _is_loopback(host: bytes) -> bool:
    """Of `Host`, with a port or without. Names below localhost are this machine's own (RFC 6761)."""
    name = host.decode("latin-1").lower()
    name = name[1:].partition("]")[0] if name[:1] == "[" else name.partition(":")[0].removesuffix(".")
    with suppress(ValueError):
        return ip_address(name).is_loopback
    return name == "localhost" or name.endswith(".localhost")


def rate_fields(quota: Quota, now: float) -> list[tuple[bytes, bytes]]:
    """How much is left of a quota, in OpenAI's header fields, and when it is all there again."""
    fields: list[tuple[bytes, bytes]] = []
    for kind, most, left, full_s in quota.levels(now):
        limit, remaining, reset = _RATE_FIELDS[kind]
        fields += ((limit, b"%d" % most), (remaining, b"%d" % left), (reset, b"%.3fs" % full_s))
    return fields


_RATE_FIELDS = {
    kind: tuple(f"x-ratelimit-{field}-{kind}".encode() for field in ("limit", "remaining", "reset"))
    for kind in ("requests", "items")
}
