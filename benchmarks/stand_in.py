"""A stand-in for Infinity that costs nearly nothing: as many vectors as inputs, after a time of its own.

    python -m benchmarks.stand_in [--port 0] [--dimensions 384] [--service l,o,a,b]

With `--service` it works like one Infinity: one batch after the other, each for o + a·n + b·n·longest, and l
more before the answer leaves, which does not occupy it. Seconds; lengths are in characters, and a request of
more than a batch is sorted by them first. `POST /service` with the same four numbers changes them while it
runs, `POST /busy` tells how long it has worked and on how many items.
"""

import argparse
import asyncio
import base64
import random
import selectors
import struct
from typing import cast

import orjson
import uvloop

MODEL = "stand-in"


class StandIn:
    """What all connections share: the vectors, and the time until which the server is busy."""

    def __init__(self, dimensions: int, service: tuple[float, ...]) -> None:
        rng = random.Random(dimensions)
        vectors = [[rng.gauss(0, 1) for _ in range(dimensions)] for _ in range(16)]
        self.base64 = [b'"%b"' % base64.b64encode(struct.pack(f"<{dimensions}f", *v)) for v in vectors]
        self.floats = [orjson.dumps(v) for v in vectors]
        self.models = orjson.dumps({
            "object": "list",
            "data": [{
                "id": MODEL, "object": "model", "owned_by": "infinity", "created": 0, "backend": "torch",
                "capabilities": ["embed", "rerank"],
                "stats": {"queue_fraction": 0.0, "queue_absolute": 0, "results_pending": 0, "batch_size": 32},
            }],
        })  # fmt: skip
        self.service = service
        self.busy_until = 0.0
        self.busy_s = 0.0
        self.items = 0

    def answer(self, path: str, body: bytes) -> tuple[bytes, float]:
        """The answer's body, and how long it takes."""
        if path.endswith("/models"):
            return self.models, 0.0
        asked = orjson.loads(body) if body else {}
        if path.endswith("/service"):
            self.service = tuple(asked)
            return b"{}", 0.0
        if path.endswith("/metrics"):
            return b"", 0.0
        if path.endswith("/busy"):
            return orjson.dumps({"busy_s": self.busy_s, "items": self.items}), 0.0
        if path.endswith("/rerank"):
            documents = asked["documents"]
            scores = b",".join(
                b'{"relevance_score":%f,"index":%d,"document":null}' % (1 / (1 + len(text)), index)
                for index, text in enumerate(documents)
            )
            query = asked["query"]
            return (
                b'{"object":"rerank","results":[%b],"usage":{"total_tokens":%d}}'
                % (scores, sum(map(len, documents)) + len(query) * len(documents)),
                self._time([query + text for text in documents]),
            )
        texts = asked["input"]
        if type(texts) is str:
            texts = [texts]
        made = self.base64 if asked.get("encoding_format") == "base64" else self.floats
        data = b",".join(
            b'{"object":"embedding","embedding":%b,"index":%d}' % (made[len(text) & 15], index)
            for index, text in enumerate(texts)
        )
        size = sum(map(len, texts))
        usage = b'{"prompt_tokens":%d,"total_tokens":%d}' % (size, size)
        return b'{"object":"list","data":[%b],"model":"stand-in","usage":%b}' % (data, usage), self._time(
            texts
        )

    def _time(self, texts: list[str]) -> float:
        if not self.service:
            return 0.0
        latency, once, each, padded = self.service
        lengths = sorted(map(len, texts))
        count = len(lengths)
        work = sum(
            once + each * len(part) + padded * len(part) * part[-1]
            for part in (lengths[at : at + 32] for at in range(0, count, 32))
        )
        now = asyncio.get_running_loop().time()
        self.busy_until = max(now, self.busy_until) + work
        self.busy_s += work
        self.items += count
        return self.busy_until + latency - now


class _Connection(asyncio.Protocol):
    def __init__(self, stand_in: StandIn) -> None:
        self._stand_in = stand_in
        self._received = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        at = head.lower().find(b"\r\ncontent-length:")
        length = int(head[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(body) < length:
            return
        self._received = b""
        answer, seconds = self._stand_in.answer(head.split(b" ", 2)[1].decode(), body)
        if seconds:
            asyncio.get_running_loop().call_later(seconds, self._send, answer)
        else:
            self._send(answer)

    def _send(self, answer: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                % (len(answer), answer)
            )


async def serve(port: int, dimensions: int, service: tuple[float, ...]) -> None:
    stand_in = StandIn(dimensions, service)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(stand_in), "127.0.0.1", port, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def _exact_loop() -> asyncio.AbstractEventLoop:
    """The timers of uvloop, and of epoll, count milliseconds; those of select, microseconds."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--service", default="")
    options = parser.parse_args()
    service = tuple(float(part) for part in options.service.split(",") if part)
    with asyncio.Runner(loop_factory=_exact_loop if service else uvloop.new_event_loop) as runner:
        runner.run(serve(options.port, options.dimensions, service))


if __name__ == "__main__":
    main()
