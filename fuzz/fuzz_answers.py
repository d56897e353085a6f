"""What servers answer to a batch: the first byte names the call and the status, the rest is the body.

Either it is no answer, and the caller is told so, or the caller gets what is in it, in every dialect.
"""

import json
from typing import Any

from fuzz.answers import rankings_in, vectors_in
from fuzz.in_memory import InMemory
from fuzz.servers_in_memory import Answering, Wires

_loop = Wires()
_servers = Answering(_loop)

_EMBED = b'{"model":"bert","input":["a","b"]%b}'
_CALLS = [
    ("/v1/embeddings", _EMBED % b""),
    ("/v1/embeddings", _EMBED % b',"encoding_format":"base64","dimensions":2'),
    ("/infinity/embeddings", b'{"model":"bert","input":"a","encoding_format":"base64"}'),
    ("/v2/embed", b'{"model":"bert","texts":["a","b"],"output_dimension":1}'),
    ("/embed", b'{"model":"bert","inputs":["a"]}'),
    ("/v1/rerank", b'{"model":"cross","query":"q","documents":["a","b"],"return_documents":true}'),
    ("/v2/rerank", b'{"model":"cross","query":"q","documents":["a","b"],"top_n":1}'),
    ("/rerank", b'{"model":"cross","query":"q","documents":["a","b"],"top_k":1}'),
    ("/rerank", b'{"model":"cross","query":"q","texts":["a"],"return_text":true}'),
    ("/infinity/rerank", b'{"model":"cross","query":"q","documents":["a","b"]}'),
    ("/v1/classify", b'{"model":"classifier","input":["a","b"]}'),
    ("/infinity/classify", b'{"model":"classifier","input":["a"]}'),
]
_ANSWERED = [200, 200, 200, 400, 401, 404, 422, 429, 500, 503]
STATUSES = frozenset({200, 400, 429, 502, 503, 504})

_USAGE = b'"usage":{"prompt_tokens":2,"total_tokens":2}}'
_HUGE = b'"usage":{"total_tokens":999999999999999999999}}'
_BODIES = [
    b'{"data":[{"embedding":"AACAPwAAAEA=","index":0},{"index":1,"embedding":"AACAPwAAAMA="}],' + _USAGE,
    b'{"data":[{"embedding":[1.5,-2],"index":1},{"index":0,"embedding":[0,1e-9]}],' + _USAGE,
    b'{"data":[{"embedding":[[1.5],[2]],"index":0}],' + _USAGE,
    b'{"data":[{"embedding":"AACAPwAAAEA=","index":0}],' + _USAGE,
    b'{"results":[{"relevance_score":0.5,"index":1,"document":null},{"relevance_score":null,"index":0}],'
    + _USAGE,
    b'{"results":[{"relevance_score":1,"index":0}],' + _USAGE,
    b'{"data":[[{"score":0.5,"label":"a"}],[{"score":0.5,"label":"b"}]],' + _USAGE,
    b'{"data":[[{"score":0.5,"label":"a"}]],' + _USAGE,
    b'{"error":{"message":"ValueError: no at http://10.0.0.1:80/a api_key=x","type":null,"code":400}}',
    b'{"detail":[{"type":"missing","loc":["body"],"msg":"Field required"}]}',
    b'{"detail":"Not Found"}',
    b"<html>",
    # What was once let through:
    b'{"data":[[{"score":0.5,"label":"\xff"}]],' + _USAGE,
    b'{"results":[{"relevance_score":1,"index":0},{"relevance_score":1,"index":1}],' + _HUGE,
    b'{"data":[{"embedding":["1"],"index":0}],' + _USAGE,
    b'{"data":[{"embedding":[true],"index":0}],' + _USAGE,
    b'{"data":[{"embedding":[],"index":0}],' + _USAGE,
    b'{"data":[{"embedding":[1],"index":1},{"index":0,"embedding":[0,1]}],' + _USAGE,
    b'{"data":[{"embedding":[1e300,1],"index":0}],' + _USAGE,
]
SEEDS = [
    bytes([number + len(_CALLS) * status]) + body
    for number, _ in enumerate(_CALLS)
    for status in (0, 3, 8)
    for body in _BODIES
]


def check(data: bytes) -> None:
    if not data:
        return
    kind, number = divmod(data[0], len(_CALLS))
    status, body = _ANSWERED[kind % len(_ANSWERED)], data[1:]
    _loop.answer = b"HTTP/1.1 %d -\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)
    ask(_loop, _servers, number)


def ask(loop: Wires, servers: Answering, number: int) -> None:
    """Have one of the calls answered by servers that know nothing of what was before."""
    path, asked = _CALLS[number]
    memory = InMemory(servers, loop, [json.loads(asked)["model"]])
    try:
        status, raw = memory.answer(path, {}, asked)
        assert status in STATUSES, (status, raw)
        answer = json.loads(raw)
        if status == 200:
            _check_numbers(path, answer)
        else:
            message = answer["error"]["message"]
            assert message.isprintable(), message
            assert "http://" not in message, message
    finally:
        memory.close()


def _check_numbers(path: str, answer: Any) -> None:
    """They are told as numbers, or as null where the server had one that is none; vectors are of one size."""
    if path.endswith(("embeddings", "embed")):
        vectors = vectors_in(answer)
        assert all(vector and len(vector) == len(vectors[0]) for vector in vectors), answer
    elif path.endswith("rerank"):
        kinds = {type(score) for ranking in rankings_in(answer) for _, score in ranking}
        assert kinds <= {int, float, type(None)}, answer
