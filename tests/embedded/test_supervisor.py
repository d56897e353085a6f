import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest

from gateway.embedded import LocalServers, Supervisor
from gateway.embedded.restarts import SupervisionSettings
from tests.embedded.processes import Watched, descendants
from tests.embedded.stand_in import LINES_OF_CHATTER

Servers = Callable[..., LocalServers]
Begun = Callable[[], list[int]]

HURRIED = SupervisionSettings(stop_s=5, wait_s_min=0.01)
ROOT = Path(__file__).parents[2]


@dataclass
class Reports:
    """What a Supervisor reported, and a way to wait for it."""

    lines: list[str] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        self._news.set()

    async def wait_for(self, part: str, times: int = 1) -> None:
        async with asyncio.timeout(30):
            while sum(part in line for line in self.lines) < times:
                self._news.clear()
                await self._news.wait()


async def ask(api_base: str, path: str = "/health") -> Any:
    def get() -> Any:
        with urllib.request.urlopen(api_base + path, timeout=10) as answer:
            return json.load(answer)

    return await asyncio.to_thread(get)


async def crash(api_base: str) -> None:
    with pytest.raises((URLError, ConnectionError)):
        await ask(api_base, "/crash")


async def test_servers_run_while_it_is_entered(servers: Servers, begun: Begun) -> None:
    """Each server answers at its own address, and afterwards no process is left."""
    reports = Reports()
    async with Supervisor(servers("serve", count=2), report=reports, settings=HURRIED) as supervisor:
        await reports.wait_for("is up at", times=2)
        answers = [await ask(api_base) for api_base in supervisor.api_bases]
        watched = Watched(begun())

    with watched:
        assert len({answer["pid"] for answer in answers}) == 2
        assert watched.alive() == []
    assert len(reports.lines) == 2, "a server that does well is not talked about"


async def test_leaving_at_once_leaves_nothing(servers: Servers, begun: Begun) -> None:
    """Servers that are only about to start end too, and no SIGTERM is lost on them."""
    settings = replace(HURRIED, stop_s=60)

    async with asyncio.timeout(20):
        for turns in range(4):
            async with Supervisor(servers("serve", count=2), report=Reports(), settings=settings):
                for _ in range(turns):
                    await asyncio.sleep(0)

    assert begun() == []


async def test_a_server_that_ignores_sigterm_is_killed(servers: Servers, begun: Begun) -> None:
    """Work under way gets its time, and no more."""
    reports = Reports()
    settings = replace(HURRIED, stop_s=0.1)
    async with Supervisor(servers("ignore-sigterm"), report=reports, settings=settings):
        await reports.wait_for("is up at")
        watched = Watched(begun())

    with watched:
        assert watched.alive() == []


async def test_what_a_server_started_ends_with_it(servers: Servers) -> None:
    """Its children end too, even those that ignore SIGTERM or left for a session of their own."""
    reports = Reports()
    async with Supervisor(servers("have-children"), report=reports, settings=HURRIED) as supervisor:
        await reports.wait_for("is up at")
        answer = await ask(supervisor.api_bases[0])
        watched = Watched([answer["pid"], *answer["children"]])
        assert len(watched.alive()) == 3

    with watched:
        assert watched.alive() == []


async def test_a_server_that_ends_is_started_again(servers: Servers) -> None:
    """It comes back at the same address; its end is told, with its last words, and its children are gone."""
    reports = Reports()
    async with Supervisor(servers("have-children"), report=reports, settings=HURRIED) as supervisor:
        (api_base,) = supervisor.api_bases
        await reports.wait_for("is up at")
        first = await ask(api_base)
        with Watched(first["children"]) as watched:
            await crash(api_base)
            await reports.wait_for("is up at", times=2)

            assert watched.alive() == []
        second = await ask(api_base)

    assert first["pid"] != second["pid"]
    end = next(at for at, line in enumerate(reports.lines) if "ended with exit code 3 after" in line)
    assert reports.lines[end + 1 : end + 3] == ["    first line", "    last words"]
    assert reports.lines[end + 3] == "Infinity server 1 of 1 starts again in 0.01 s."


async def test_a_server_whose_warden_is_killed_is_started_again(servers: Servers, begun: Begun) -> None:
    """The kernel ends the server, so its port is free for the next."""
    reports = Reports()
    async with Supervisor(servers("serve"), report=reports, settings=HURRIED) as supervisor:
        await reports.wait_for("is up at")
        warden, server = begun()
        with Watched([server]) as watched:
            os.kill(warden, signal.SIGKILL)
            await reports.wait_for("is up at", times=2)

            assert watched.alive() == []
        await ask(supervisor.api_bases[0])

    assert any("lost its warden to signal 9 after" in line for line in reports.lines)


async def test_a_server_that_never_starts_is_given_up(servers: Servers) -> None:
    """After three tries the failure says what happened, in whose words, and how to look into it."""
    reports = Reports()
    async with Supervisor(servers("fail", count=2), report=reports, settings=HURRIED) as supervisor:
        error = await supervisor.failed()

    assert "does not start: 3 times in a row it ended before it opened its port" in str(error)
    assert "ended with exit code 1, having written 'RuntimeError: there is no such model'" in str(error)
    assert "infinity_emb v2 --model-id a-model" in str(error)
    assert reports.lines.count("    RuntimeError: there is no such model") <= 2, "each server says it once"
    assert any(line.endswith("Its last output was the same.") for line in reports.lines)


async def test_an_executable_that_is_gone_is_a_failed_start(tmp_path: Path) -> None:
    """It may have been there when it was looked for."""
    servers = LocalServers(tmp_path / "gone", "a-model", "a-model", 1)
    async with Supervisor(servers, report=Reports(), settings=HURRIED) as supervisor:
        error = await supervisor.failed()

    assert "gone: No such file or directory" in str(error)


async def test_only_the_last_lines_are_kept(servers: Servers) -> None:
    """However much a server writes, it is never blocked, and its last forty lines are told."""
    reports = Reports()
    settings = replace(HURRIED, failed_starts_max=1)
    async with Supervisor(servers("chatter"), report=reports, settings=settings) as supervisor:
        await supervisor.failed()

    told = [line for line in reports.lines if line.startswith("    ")]
    assert told == [f"    line {number}" for number in range(LINES_OF_CHATTER - 40, LINES_OF_CHATTER)]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a port can not be held for another process")
async def test_nobody_else_gets_a_servers_port(servers: Servers) -> None:
    """Its port stays its own between its end and its next start."""
    reports = Reports()
    settings = replace(HURRIED, wait_s_min=30)
    async with Supervisor(servers("fail"), report=reports, settings=settings) as supervisor:
        await reports.wait_for("starts again in")
        port = int(supervisor.api_bases[0].rpartition(":")[2])

        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_a_killed_gateway(executable: Path, loop: str, end: signal.Signals) -> None:
    """However the gateway ends, its servers and all that they started end."""
    command = [
        sys.executable,
        "-m",
        "tests.embedded.hold",
        loop,
        "2",
        str(executable),
        "a-model",
        "have-children",
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as gateway:
        assert gateway.stdout is not None
        up = [gateway.stdout.readline() for _ in range(2)]
        with Watched(descendants(gateway.pid)) as watched:
            assert len(watched.alive()) == 8, up

            gateway.send_signal(end)

            assert gateway.wait() == -end
            assert watched.alive(within_s=10) == []
