"""What connections to the servers are secured with."""

import os
import ssl
from pathlib import Path

from gateway.core.settings import TlsSettings

_Stamps = tuple[tuple[int, int, int] | None, ...]


class Tls:
    """Contexts that verify certificates and host names. Files that have changed are read again, for
    certificates are renewed while a gateway runs; what cannot be read is tried again, and meanwhile what was
    read before holds.
    """

    def __init__(self, settings: TlsSettings) -> None:
        self._settings = settings
        self._context: ssl.SSLContext | None = None
        self._stamps: _Stamps = ()

    def become(self, settings: TlsSettings) -> None:
        """Other files from the next connection on; they have been tried."""
        if settings != self._settings:
            self._settings = settings
            self._stamps = ()

    def context(self) -> ssl.SSLContext:
        """For the next connection. Raises OSError when there was never one."""
        settings = self._settings
        stamps = tuple(map(_stamp, (settings.ca_file, settings.cert_file, settings.key_file)))
        if self._context is None or stamps != self._stamps:
            try:
                self._context = _made(settings)
                self._stamps = stamps
            except OSError:
                if self._context is None:
                    raise
        return self._context


def _made(settings: TlsSettings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.ca_file)
    if settings.cert_file:
        # Asked for a password it would wait at the terminal.
        context.load_cert_chain(settings.cert_file, settings.key_file, lambda: "")
    context.set_alpn_protocols(["http/1.1"])
    return context


def _stamp(path: Path | None) -> tuple[int, int, int] | None:
    """What differs when a file does, also behind a link that leads elsewhere."""
    try:
        found = os.stat(path) if path else None
    except OSError:
        found = None
    return (found.st_ino, found.st_size, found.st_mtime_ns) if found else None
