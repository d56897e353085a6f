"""Servers of bytes and of TLS, for what the stand-in does not speak."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

# For a name that does not exist; made for this file with `openssl req -x509`.
SELF_SIGNED = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgCAnrNfGi5rB52QYx
0HimfTc5+t9F2NlL/pwcvuEAWi2hRANCAAQfUVikjp3gnMIo5U+WdLGnzJXiqh7Z
gJjLgn3qz+FKjHf9ecOBvU7hihyuAKVMDbkx3hfmW82OQGHCIEe6yich
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBjjCCATOgAwIBAgIUFN1WTVGrib5HnJVacNyDNVWA1fwwCgYIKoZIzj0EAwIw
GzEZMBcGA1UEAwwQaW5maW5pdHkuaW52YWxpZDAgFw0yNjExMjIxMTExMThaGA8y
MTI2MTAyOTExMTExOFowGzEZMBcGA1UEAwwQaW5maW5pdHkuaW52YWxpZDBZMBMG
ByqGSM49AgEGCCqGSM49AwEHA0IABB9RWKSOneCcwijlT5Z0safMleKqHtmAmMuC
ferP4UqMd/15w4G9TuGKHK4ApUwNuTHeF+ZbzY5AYcIgR7rKJyGjUzBRMB0GA1Ud
DgQWBBSSYJkdDA2OdTiI5GItJmi9OhT5AjAfBgNVHSMEGDAWgBSSYJkdDA2OdTiI
5GItJmi9OhT5AjAPBgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0kAMEYCIQDc
eIkXw0yteSClaEazhFmMkyz3xVphi9LM2u4j/7ASCQIhAJsCTi0Yn0A3IAiXHqpN
8B+QBsQxEeRC2wbTUhajLffY
-----END CERTIFICATE-----
"""


@asynccontextmanager
async def listening(
    handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any], **options: Any
) -> AsyncIterator[str]:
    """A server of bytes on a free port; its URL."""
    async with await asyncio.start_server(handle, "127.0.0.1", 0, **options) as server:
        port = server.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"


async def never(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()
    raise AssertionError("a connection was made that must not be")


def tls(directory: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (directory / "self-signed.pem").write_text(SELF_SIGNED)
    context.load_cert_chain(directory / "self-signed.pem")
    return context
