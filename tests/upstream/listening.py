"""Servers of bytes and of TLS, for what the stand-in does not speak."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trustme


@asynccontextmanager
async def listening(
    handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any],
    host: str = "127.0.0.1",
    **options: Any,
) -> AsyncIterator[str]:
    """A server of bytes on a free port; its URL. In the end it hangs up."""
    tasks: set[asyncio.Task[Any]] = set()

    async def handled(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await handle(reader, writer)
            writer.close()
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            tasks.discard(task)

    async with await asyncio.start_server(handled, host, 0, **options) as server:
        port = server.sockets[0].getsockname()[1]
        yield f"http://{host}:{port}"
        ending = list(tasks)
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
    await asyncio.sleep(0)  # for the sockets to close


async def never(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()
    raise AssertionError("a connection was made that must not be")


def tls(authority: trustme.CA | None = None, *names: str) -> ssl.SSLContext:
    """A server's; without an authority, of one that nobody here trusts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    names = names or ("infinity.invalid", "127.0.0.1")
    (authority or trustme.CA()).issue_cert(*names).configure_cert(context)
    return context
