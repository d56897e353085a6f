"""Runs one local server and ends it, with all that it started, when the gateway stops or is gone.

    python -I -S warden.py STOP_S -- COMMAND…

Standard input is the leash, a pipe whose other end only the gateway holds. The kernel closes that end however
the gateway ends, SIGKILL included, so end of file means: stop. The server gets SIGTERM, after STOP_S seconds
SIGKILL, and whatever is left of its process group and its descendants SIGKILL too.

The exit code is the server's; 128 + the signal if a signal ended it, as in a shell.

It runs as a file, without site-packages, and imports nothing of the gateway: it must be up in no time, and a
broken installation must not stop it.
"""

import contextlib
import ctypes
import os
import select
import signal
import sys
from collections.abc import Callable, Sequence

STDIN = 0
EXIT_CANNOT_RUN = 127
"""What a shell exits with for a command that it cannot start."""

# From linux/prctl.h.
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def main(arguments: Sequence[str]) -> int:
    stop_s, _, *command = arguments
    wake = _wake_pipe(signal.SIGCHLD, signal.SIGTERM, signal.SIGALRM)
    # The leash alone says when to stop: a closed terminal says nothing about the gateway.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prctl = _prctl()
    if os.path.exists(_children_path()):
        # What the server leaves behind becomes our child instead of init's, so that `_sweep` finds it.
        prctl(PR_SET_CHILD_SUBREAPER, 1)
    server = _start(command, prctl)
    exit_code = _guard(server, float(stop_s), wake)
    _sweep(server)
    return exit_code if exit_code >= 0 else 128 - exit_code


def _wake_pipe(*signals: signal.Signals) -> int:
    """A pipe in which each of `signals` puts its number, so that one `select` waits for all there is."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    for number in signals:
        signal.signal(number, lambda *_: None)
    return reading


def _start(command: list[str], prctl: Callable[[int, int], object]) -> int:
    warden = os.getpid()
    # A SIGTERM that comes while the new process still has our handlers must wait, or it would be lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    server = os.fork()
    if server == 0:
        try:
            _become(command, warden, prctl)
        finally:
            os._exit(EXIT_CANNOT_RUN)
    # Also here: whoever comes first, no signal to the group can miss.
    with contextlib.suppress(OSError):
        os.setpgid(server, server)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    return server


def _become(command: list[str], warden: int, prctl: Callable[[int, int], object]) -> None:
    """In the new process: turn into the server. Returns only if that fails."""
    signal.set_wakeup_fd(-1)
    # Handlers end with exec, what is ignored stays so: Python ignores the last two, the warden two more.
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    os.setpgid(0, 0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), STDIN)
    # For the case that the warden itself is killed. It may have been between the fork and this line.
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != warden:
        return
    try:
        os.execv(command[0], command)  # noqa: S606 - no shell is wanted  # nosec B606
    except OSError as error:
        # For a script whose interpreter is gone the kernel says "No such file" too.
        hint = " (is the interpreter named in its first line there?)" if os.path.exists(command[0]) else ""
        print(f"cannot run {command[0]}: {error.strerror}{hint}", file=sys.stderr, flush=True)


def _guard(server: int, stop_s: float, wake: int) -> int:
    """Wait until the server has ended, by itself or told to; its exit code, or minus the signal."""
    watched = [STDIN, wake]
    while True:
        readable, _, _ = select.select(watched, [], [])
        signals = os.read(wake, 4096) if wake in readable else b""
        if signal.SIGCHLD in signals and (exit_code := _reap(server)) is not None:
            return exit_code
        if signal.SIGALRM in signals:
            _signal_group(server, signal.SIGKILL)
        released = STDIN in readable and not os.read(STDIN, 4096)
        if STDIN in watched and (released or signal.SIGTERM in signals):
            watched = [wake]
            signal.setitimer(signal.ITIMER_REAL, max(stop_s, 0.001))  # zero would mean never
            _signal_group(server, signal.SIGTERM)


def _reap(server: int) -> int | None:
    """Collect every child that has ended; the server's exit code if it is among them."""
    exit_code = None
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == server:
                exit_code = os.waitstatus_to_exitcode(status)
    return exit_code


def _sweep(group: int) -> None:
    """Kill what the server left behind, and wait until it is gone."""
    # The group's number can not be anybody else's yet: process numbers are handed out in a circle.
    _signal_group(group, signal.SIGKILL)
    while True:
        for pid in _children():
            os.kill(pid, signal.SIGKILL)  # only we can reap it, so the number is still its own
        try:
            os.waitpid(-1, 0)  # its children, if it had any, are now ours: look again
        except ChildProcessError:
            return


def _signal_group(group: int, number: signal.Signals) -> None:
    # macOS answers with a PermissionError when only zombies are left in the group.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _children_path() -> str:
    return f"/proc/self/task/{os.getpid()}/children"


def _children() -> list[int]:
    try:
        with open(_children_path(), encoding="ascii") as listed:
            return [int(pid) for pid in listed.read().split()]
    except OSError:
        return []


def _prctl() -> Callable[[int, int], object]:
    """Linux's prctl; elsewhere nothing, and the leash alone has to do."""
    if sys.platform != "linux":
        return lambda _option, _value: None
    prctl: Callable[[int, int], object] = ctypes.CDLL(None).prctl
    return prctl


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
