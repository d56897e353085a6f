"""Who may call: a key, compared in constant time."""

import hashlib
import hmac
from collections.abc import Mapping

from gateway.core.settings import Secret
from gateway.errors import Unauthorized


class Keys:
    """The callers' key. Without one every caller is let in."""

    def __init__(self, master_key: Secret | None) -> None:
        self._key = master_key.reveal().encode() if master_key else None
        self._usual = b"Bearer %b" % self._key if self._key is not None else b""
        """The header as nearly everybody sends it."""

    def caller(self, headers: Mapping[bytes, bytes]) -> str:
        """Who asks, as far as fair shares go: where one key is everybody's, all are one caller; where none is
        needed, callers differ by what they send all the same. No secret: a digest.
        """
        given = headers.get(b"authorization") if self._key is None else None
        return hashlib.blake2b(given, digest_size=8).hexdigest() if given else ""

    def check(self, headers: Mapping[bytes, bytes]) -> None:
        """Raise Unauthorized unless the headers carry the key, as `Authorization: Bearer` or `api-key`."""
        if self._key is None:
            return
        given = headers.get(b"authorization", b"")
        if hmac.compare_digest(given, self._usual):
            return
        scheme, _, key = given.partition(b" ")
        if scheme.lower() != b"bearer":
            key = headers.get(b"api-key", b"")
        key = key.strip()
        if not key:
            raise Unauthorized("no key came with the request; send it as 'Authorization: Bearer KEY'")
        if not hmac.compare_digest(key, self._key):
            raise Unauthorized("the key that came with the request is not valid here")
