"""What the scripts share: where the gateway is, and a record of what a client's calls gave."""

import json
import os
import re
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, ParamSpec
from urllib.request import urlopen

P = ParamSpec("P")

URL = os.environ["GATEWAY_URL"]
OPEN_URL = os.environ["OPEN_GATEWAY_URL"]  # For clients that cannot send a key.
KEY = os.environ["GATEWAY_KEY"]

_COUNTED = re.compile(r'infinity_gateway_requests_total\{.*?route="([^"]+)".*?\} (\S+)')


class Calls:
    """One client's calls. `print` writes them as JSON, for the test that started the script."""

    def __init__(self, package: str) -> None:
        self._client = {"client": package, "version": version(package)}
        self.made: list[dict[str, Any]] = []

    def __call__(
        self, call: str, kind: str, make: Callable[P, Any], *args: P.args, **options: P.kwargs
    ) -> None:
        """`make` calls the gateway; `kind` says which of Infinity's answers it must give."""
        before = _answered()
        got = make(*args, **options)
        routes = sorted(_answered() - before)
        self.made.append({**self._client, "call": call, "kind": kind, "routes": routes, "got": got})

    def fails(self, call: str, make: Callable[P, Any], *args: P.args, **options: P.kwargs) -> None:
        """`make` must raise: its class, its status and what it says are what the call gave."""

        def error() -> dict[str, Any]:
            try:
                answer = make(*args, **options)
            except Exception as raised:
                status = getattr(raised, "status_code", None)
                return {"class": type(raised).__name__, "status": status, "message": str(raised)}
            raise AssertionError(f"{call} did not fail: {answer!r}")

        self(call, "error", error)


def report(*clients: Calls) -> None:
    print(json.dumps([made for client in clients for made in client.made]))


def _answered() -> Counter[str]:
    """The calls so far, by route."""
    total: Counter[str] = Counter()
    for url in (URL, OPEN_URL):
        with urlopen(f"{url}/metrics") as answer:
            for route, count in _COUNTED.findall(answer.read().decode()):
                total[route] += int(float(count))
    return total
