"""The page at `/`: live figures of what `/status` tells, for a browser.

It is one document of static files, the same for everybody, and holds no data. So it is open where `/status`
is closed: a browser cannot send a key before there is a page that asks for one.
"""

import base64
import hashlib
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response


class Page:
    """Style and script stand in the document and are allowed by their hashes, so that it works below any
    path, and never with parts of two versions.
    """

    def __init__(self) -> None:
        folder = files("gateway.api")
        document, style, script = (
            folder.joinpath(f"page.{kind}").read_text("utf-8") for kind in ("html", "css", "js")
        )
        for tag, text in (("<style>", style), ('<script type="module">', script)):
            document = document.replace(tag, tag + text)
        self._body = document.encode()
        self._headers = {
            "ETag": f'"{hashlib.sha256(self._body).hexdigest()[:32]}"',
            "Cache-Control": "no-cache",
            "Content-Security-Policy": _policy(style, script),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }

    async def answer(self, request: Request) -> Response:
        """The document; 304 to who has it already."""
        if self._headers["ETag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=self._headers)
        return Response(self._body, headers=self._headers, media_type="text/html")


def _policy(style: str, script: str) -> str:
    """Nothing from elsewhere, nowhere else to, in no frame, and no text that turns into markup."""
    return "; ".join(
        (
            "default-src 'none'",
            f"style-src {_hash(style)}",
            f"script-src {_hash(script)}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
