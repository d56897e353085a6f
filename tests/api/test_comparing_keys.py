"""How keys are compared: never in a time that tells how much of one is right."""

from typing import Any, Never

import pytest

from gateway.api.auth import Keys
from gateway.core.quota import Quotas
from gateway.core.settings import Secret
from gateway.errors import Unauthorized
from tests.api.configs import config, named_key


class Guarded(bytes):
    """What a caller sent as a key. All that stops at the first byte that differs raises; only the whole can
    be compared or hashed, as a buffer.
    """

    def _told(self, *_: Any) -> Never:
        raise AssertionError("how long this takes tells how much of a key is right")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __hash__ = __contains__ = __getitem__ = _told
    startswith = endswith = find = index = count = removeprefix = _told

    def strip(self, chars: Any = None, /) -> "Guarded":
        return Guarded(super().strip(chars))

    def partition(self, sep: Any, /) -> tuple[bytes, bytes, "Guarded"]:
        scheme, space, rest = super().partition(sep)
        return scheme, space, Guarded(rest)


@pytest.mark.parametrize("master", [None, "sk-master"])
@pytest.mark.parametrize(
    ("header", "prefix"), [(b"authorization", b"Bearer "), (b"authorization", b"BEARER  "), (b"api-key", b"")]
)
@pytest.mark.parametrize("key", [b"sk-master", b"sk-named", b"sk-mastes", b"sk-other"])
def test_keys_are_compared_whole(master: str | None, header: bytes, prefix: bytes, key: bytes) -> None:
    """The master key in constant time, named keys by their digests: else one could be found byte by byte."""
    settings = config(master_key=Secret(master) if master else None, keys=(named_key("rag", "sk-named"),))
    keys = Keys(settings, Quotas(settings.keys))

    try:
        quota = keys.check({header: Guarded(prefix + key)})
    except Unauthorized:
        found = None
    else:
        found = quota.key.name if quota else "master"

    assert found == {b"sk-named": "rag", b"sk-master": "master" if master else None}.get(key)
