"""What comes over a connection to a server: the first byte says in which pieces and what then, then it comes.

It is an answer to a batch, or the caller is told of a server that gave none.
"""

from fuzz.fuzz_answers import ask
from fuzz.servers_in_memory import Answering, Wires

_loop = Wires()
_servers = Answering(_loop)

_BODY = b'{"data":[{"embedding":[1],"index":0},{"index":1,"embedding":[2]}],"usage":{"total_tokens":1}}'
_CHUNKS = b"5;a=b\r\n%b\r\n%x\r\n%b\r\n0\r\nx: y\r\n\r\n" % (_BODY[:5], len(_BODY) - 5, _BODY[5:])
_ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY),
    b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(_BODY), _BODY),
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n" + _CHUNKS,
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY),
    b"HTTP/1.0 200 OK\r\n\r\n" + _BODY,
    b"HTTP/1.1 307 -\r\nLocation: http://elsewhere/\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 101 -\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
    b"HTTP/1.1 204 -\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n{",
]
SEEDS = [bytes([how]) + answer for how in (0, 1, 2, 15) for answer in _ANSWERS]


def check(data: bytes) -> None:
    if not data:
        return
    _loop.piece, _loop.hangs_up = divmod(data[0], 2)
    _loop.answer = data[1:]
    ask(_loop, _servers, 0)
