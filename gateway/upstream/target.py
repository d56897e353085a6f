"""The place that requests go to, and the head they begin with."""

import base64
import re
from typing import NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit

from gateway.core.retry import Failure
from gateway.pool import SendError

USER_AGENT = "infinity-gateway"
_PORTS = {"http": 80, "https": 443}


class Origin(NamedTuple):
    """Whom connections lead to, and so who may share them."""

    scheme: str
    host: str
    port: int
    address: str | None = None
    """The only one to connect to; None: any of the host's."""

    @property
    def endpoint(self) -> tuple[str, int]:
        return self.address or self.host, self.port


class Target:
    """Where requests go, and their head up to the length of the body. It holds the key, and shows nothing.
    With an `address` connections lead there, while the server and its certificate go by the host of the URL.

    Raises SendError for a URL or a key with which there can be no request.
    """

    __slots__ = ("authorization", "head", "host", "origin", "url")

    def __init__(self, url: str, key: str | None, address: str | None = None) -> None:
        origin = _origin(url)
        if origin is None:
            raise SendError(Failure.BAD_ANSWER, "api_base is no http:// or https:// address", reason="http")
        if key is not None and not key.isprintable():  # a line break would begin another header
            raise SendError(Failure.UNAUTHORIZED, "api_key has characters that no header can hold")
        parts = urlsplit(url)
        user, _, place = parts.netloc.rpartition("@")
        self.origin = origin._replace(address=address)
        at = place if address is None else f"{f'[{address}]' if ':' in address else address}:{origin.port}"
        self.url = urlunsplit((parts.scheme, at, parts.path, parts.query, ""))
        """What to connect to; `host` is what to say there."""
        self.authorization = f"Bearer {key}" if key is not None else _basic(user) if user else None
        self.host = re.sub(r"%[^\]]*", "", place.lower()).removesuffix(f":{_PORTS[origin.scheme]}")
        lines = [
            f"POST {urlunsplit(('', '', parts.path or '/', parts.query, ''))} HTTP/1.1",
            f"Host: {self.host}",
            f"User-Agent: {USER_AGENT}",
            "Accept-Encoding: identity",  # packing and unpacking costs more than a fast network
            "Content-Type: application/json",
            *([f"Authorization: {self.authorization}"] if self.authorization else []),
            "Content-Length: ",
        ]
        self.head = "\r\n".join(lines).encode()


def _origin(url: str) -> Origin | None:
    """None for what is no http or https URL of printable ASCII."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if not host or parts.scheme not in _PORTS or not re.fullmatch(r"[!-~]+", url):
        return None
    return Origin(parts.scheme, host, _PORTS[parts.scheme] if port is None else port)


def _basic(user: str) -> str:
    name, _, password = user.partition(":")
    return "Basic " + base64.b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode()
