"""Read whom the gateway and its servers talk to beside callers: hosts of images, and TLS to the servers."""

import re
import ssl
from collections.abc import Callable
from pathlib import Path

from gateway.config.reader import Value
from gateway.core.settings import TlsSettings

_HOST = re.compile(r"(?:\*\.)?[a-z0-9-]+(?:\.[a-z0-9-]+)*(?::[0-9]{1,5})?", re.IGNORECASE)
_FILES = ("ca_file", "cert_file", "key_file")


def read_media_hosts(value: Value) -> tuple[str, ...]:
    found = []
    for item in value.items():
        host = item.text("a host")
        if host is not None and not _HOST.fullmatch(host):
            item.wrong("a host such as images.example.com or *.example.com, with :PORT for an unusual port")
        elif host is not None:
            found.append(host.lower())
    return tuple(found)


def read_tls(value: Value, folder: Path) -> TlsSettings:
    """Files that are there, and that fit together. Relative paths start at `folder`."""
    value.only(_FILES)
    paths = {name: folder / text for name in _FILES if value[name].given and (text := value[name].text())}
    tls = TlsSettings(**paths)
    if tls.key_file and not tls.cert_file:
        value["key_file"].problem("expected cert_file beside it")
        return tls
    if tls.ca_file:
        _try(value["ca_file"], lambda: ssl.create_default_context(cafile=tls.ca_file))
    if cert_file := tls.cert_file:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # Asked for a password it would wait at the terminal.
        _try(value["cert_file"], lambda: context.load_cert_chain(cert_file, tls.key_file, lambda: ""))
    return tls


def _try(value: Value, load: Callable[[], object]) -> None:
    try:
        load()
    except ssl.SSLError:
        value.problem("expected PEM, with a key that fits and no password where there is a certificate")
    except OSError as error:
        value.problem(f"a file cannot be read: {error.strerror}")
