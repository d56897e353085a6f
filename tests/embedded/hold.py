"""A gateway as far as these tests need one: holds a Supervisor until it is killed, and prints its reports.

python -m tests.embedded.hold LOOP COUNT EXECUTABLE MODEL [BEHAVIOUR]
"""

import asyncio
import functools
import sys
from pathlib import Path

import uvloop

from gateway.embedded import LocalServers, Supervisor


async def hold(servers: LocalServers) -> None:
    report = functools.partial(print, flush=True)
    async with Supervisor(servers, report=report) as supervisor:
        raise await supervisor.failed()


if __name__ == "__main__":
    loop, count, executable, model, *arguments = sys.argv[1:]
    what = LocalServers(Path(executable), model, "a-model", int(count), tuple(arguments))
    factory = uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(hold(what))
