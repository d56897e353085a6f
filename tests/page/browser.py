"""A real browser, Chromium without a window, told what to do over its DevTools protocol.

async with Browser() as browser, browser.tab() as tab:
    await tab.go(url)
    assert await tab.text("#state") == "Serving"
    assert tab.problems == []
"""

import asyncio
import base64
import json
import os
import re
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from tests.gateway_process import ROOT

_START_S_MAX = 30.0
_ANSWER_S_MAX = 10.0
_POLL_S = 0.02
_QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
"""As root, with little shared memory, and without asking anybody for anything."""


def executable() -> str:
    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    assert found, "there is no Chromium; tools/install-chromium gets one"
    return found


def axe_source() -> str:
    script = ROOT / ".cache" / "page" / "node_modules" / "axe-core" / "axe.min.js"
    assert script.exists(), f"there is no {script}; `make .cache/page/installed` gets it"
    return script.read_text()


class Browser:
    """A process with an empty profile. An async context manager."""

    def __init__(self) -> None:
        self._profile = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._tabs: dict[str, Tab] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._process: asyncio.subprocess.Process
        self._session: aiohttp.ClientSession
        self._socket: aiohttp.ClientWebSocketResponse

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *(executable(), *_QUIET, "--remote-debugging-port=0", f"--user-data-dir={self._profile.name}"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=os.environ | {"HOME": self._profile.name},
            start_new_session=True,
        )
        async with asyncio.timeout(_START_S_MAX):
            address = await self._address()
        self._session = aiohttp.ClientSession()
        self._socket = await self._session.ws_connect(address, max_msg_size=0)
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._drain())]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()
        # Debian's is a shell script, of which the browser is a child.
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        await asyncio.gather(*self._tasks)
        self._profile.cleanup()

    @asynccontextmanager
    async def tab(self, width: int = 1280, height: int = 900) -> AsyncIterator["Tab"]:
        """A tab that shares nothing with others."""
        context = (await self.send("Target.createBrowserContext"))["browserContextId"]
        made = await self.send("Target.createTarget", url="about:blank", browserContextId=context)
        attached = await self.send("Target.attachToTarget", targetId=made["targetId"], flatten=True)
        tab = self._tabs[attached["sessionId"]] = Tab(self, attached["sessionId"])
        for domain in ("Page", "Runtime", "Network", "Log", "Accessibility"):
            await tab.send(f"{domain}.enable")
        await tab.resize(width, height)
        try:
            yield tab
        finally:
            del self._tabs[attached["sessionId"]]
            await self.send("Target.disposeBrowserContext", browserContextId=context)

    async def send(self, method: str, session: str | None = None, /, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": params}
        await self._socket.send_json(message | ({"sessionId": session} if session else {}))
        async with asyncio.timeout(_ANSWER_S_MAX):
            said = await answer
        assert "error" not in said, (method, params, said["error"])
        result: dict[str, Any] = said["result"]
        return result

    async def _address(self) -> str:
        assert self._process.stderr
        said = []
        async for line in self._process.stderr:
            said.append(line.decode(errors="replace"))
            if found := re.search(r"DevTools listening on (ws://\S+)", said[-1]):
                return found[1]
        raise RuntimeError("Chromium did not start:\n" + "".join(said))

    async def _drain(self) -> None:
        assert self._process.stderr
        async for _ in self._process.stderr:
            pass

    async def _listen(self) -> None:
        async for message in self._socket:
            said = json.loads(message.data)
            if "id" in said:
                waiting = self._waiting.pop(said["id"])
                if not waiting.done():
                    waiting.set_result(said)
            elif tab := self._tabs.get(said.get("sessionId", "")):
                tab.on_event(said["method"], said["params"])


class Tab:
    """One page. `problems` are what its console complains of; `requests` all that it asked for."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self.problems: list[str] = []
        self.requests: list[dict[str, Any]] = []

    def on_event(self, method: str, params: dict[str, Any]) -> None:
        match method:
            case "Network.requestWillBeSent":
                self.requests.append(params["request"])
            case "Log.entryAdded":
                self.problems.append(params["entry"]["text"])
            case "Runtime.consoleAPICalled":
                self.problems.append(str(params["args"]))
            case "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                self.problems.append(details.get("exception", {}).get("description") or details["text"])

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        return await self._browser.send(method, self._session, **params)

    async def go(self, url: str) -> None:
        said = await self.send("Page.navigate", url=url)
        assert "errorText" not in said, said
        await self.until("document.readyState == 'complete' && location.href != 'about:blank'")

    async def eval(self, expression: str, context: int | None = None) -> Any:
        """What an expression is, as JSON; promises are awaited."""
        place = {"contextId": context} if context is not None else {}
        said = await self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, **place
        )
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    async def until(self, expression: str, within_s: float = 10) -> Any:
        """Wait until an expression is true; its value."""
        value = None
        try:
            async with asyncio.timeout(within_s):
                while not (value := await self.eval(expression)):  # noqa: ASYNC110 - nothing tells of it
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            seen = await self.eval("document.body.innerText")
            raise AssertionError(f"not within {within_s} s: {expression}\n{seen}\n{self.problems}") from None
        return value

    async def text(self, selector: str) -> str:
        """What is seen of the first element that fits; empty when nothing is."""
        found = f"document.querySelector({json.dumps(selector)})"
        return str(await self.eval(f"{found}?.checkVisibility() ? {found}.innerText : ''"))

    async def press(self, key: str, text: str = "") -> None:
        code = {"Tab": 9, "Enter": 13, " ": 32}.get(key, 0)
        for kind in ("keyDown", "keyUp"):
            typed = {"text": text} if text and kind == "keyDown" else {}
            await self.send("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **typed)

    async def write(self, text: str) -> None:
        """Into what has the focus."""
        await self.send("Input.insertText", text=text)

    async def resize(self, width: int, height: int, scale: float = 1) -> None:
        await self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )

    async def prefer(self, scheme: str, motion: str = "no-preference") -> None:
        """`light` or `dark`."""
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": motion},
        ]
        await self.send("Emulation.setEmulatedMedia", features=features)

    async def picture(self, path: Path, height: int = 0) -> None:
        """The page as PNG, from its top; all of it without a height."""
        size = (await self.send("Page.getLayoutMetrics"))["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": height or size["height"], "scale": 1}
        said = await self.send("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        await asyncio.to_thread(path.write_bytes, base64.b64decode(said["data"]))

    async def violations(self) -> list[str]:
        """What axe-core finds wrong for people who see, hear or move otherwise: serious and critical."""
        tree = await self.send("Page.getFrameTree")
        world = await self.send("Page.createIsolatedWorld", frameId=tree["frameTree"]["frame"]["id"])
        context: int = world["executionContextId"]
        await self.eval(axe_source() + "\n0", context)
        found = await self.eval("axe.run().then(({violations}) => violations)", context)
        return [
            f"{each['id']}: {node['html']} {node['failureSummary']}"
            for each in found
            if each["impact"] in ("serious", "critical")
            for node in each["nodes"]
        ]
