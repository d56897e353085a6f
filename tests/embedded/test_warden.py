import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from gateway.embedded.process import WARDEN
from tests.embedded.processes import Watched, descendants

# Says that it is there, then waits for ever.
WAIT = (sys.executable, "-S", "-c", "import signal; print('up', flush=True); signal.pause()")
DEAF = (
    *WAIT[:3],
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()",
)


@contextmanager
def warden(command: Sequence[str], stop_s: float = 5) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(WARDEN), str(stop_s), "--", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    with process:
        yield process


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("pass", 0),
        ("import sys; sys.exit(7)", 7),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 128 + signal.SIGKILL),
    ],
)
def test_the_exit_code_is_passed_on(code: str, expected: int) -> None:
    """The warden ends with the server, as the server ended."""
    with warden((sys.executable, "-S", "-c", code)) as process:
        assert process.wait() == expected


def test_end_of_file_ends_the_server() -> None:
    """When the other end of the leash is closed the server gets SIGTERM."""
    with warden(WAIT) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with Watched(descendants(process.pid)) as watched:
            assert watched.alive()

            process.communicate()

            assert process.returncode == 128 + signal.SIGTERM
            assert watched.alive() == []


def test_sigterm_ends_the_server() -> None:
    """Whoever ends the warden in an orderly way ends the server."""
    with warden(WAIT) as process:
        assert process.stdout is not None
        process.stdout.readline()

        process.send_signal(signal.SIGTERM)

        assert process.wait() == 128 + signal.SIGTERM


def test_a_server_that_ignores_sigterm_is_killed() -> None:
    """When its time is up."""
    with warden(DEAF, stop_s=0.1) as process:
        assert process.stdout is not None
        process.stdout.readline()

        process.communicate()

        assert process.returncode == 128 + signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has ended")
def test_the_server_does_not_outlive_a_killed_warden() -> None:
    """If the warden itself is killed, the kernel kills the server."""
    with warden(WAIT) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with Watched(descendants(process.pid)) as watched:
            assert watched.alive()

            process.kill()

            assert watched.alive(within_s=5) == []


def test_a_command_that_is_not_there() -> None:
    """A command that can not be run is said in words, with a shell's exit code for it."""
    with warden(("/nowhere/infinity_emb",)) as process:
        assert process.stdout is not None
        output = process.stdout.read()

    assert process.returncode == 127
    assert output == "cannot run /nowhere/infinity_emb: No such file or directory\n"


def test_it_loads_nothing_of_the_gateway() -> None:
    """The warden runs where the gateway's packages are broken or slow to import."""
    code = f"import runpy, sys; runpy.run_path({str(WARDEN)!r}); print(*sys.modules)"

    answer = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )

    assert not [
        name for name in answer.stdout.split() if name.split(".")[0] in {"gateway", "asyncio", "subprocess"}
    ]
