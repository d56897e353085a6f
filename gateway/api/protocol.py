"""HTTP/1.1 as uvicorn speaks it, with what it lacks."""

import re
from typing import cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

_OFFER = re.compile(rb"\r\nupgrade:", re.IGNORECASE)


class Protocol(HttpToolsProtocol):
    """Lets the offer of another protocol pass by.

    Java's HttpClient offers HTTP/2 with its first call to a plain address (`Upgrade: h2c`). The offer may be
    ignored, but httptools takes the body that follows for the other protocol, and the call would never end.
    """

    def data_received(self, data: bytes) -> None:
        cycle = cast("RequestResponseCycle | None", self.cycle)  # None before the first request
        if cycle is None or cycle.response_complete:
            head, end, body = data.partition(b"\r\n\r\n")
            data = _OFFER.sub(b"\r\nx-offer:", head) + end + body
        super().data_received(data)
