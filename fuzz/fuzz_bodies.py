"""Bodies of calls: the first byte names the route and who asks, the rest is the body."""

from fuzz.answers import check_answer, check_result
from fuzz.in_memory import InMemory, Servers
from gateway.messages import Call

_memory = InMemory(Servers())
_PATHS = sorted([*_memory.calls, *_memory.named])
_ASKING = [b"python", b"litellm/1.83.0"]

_BODIES = {
    "embeddings": [
        b'{"model":"bert","input":"a"}',
        b'{"model":"bert","input":["a","b"],"encoding_format":"base64","dimensions":2,"user":"u","x":1.5}',
        b'{"input":["data:image/png;base64,AAAA"],"model":"clip","modality":"image","output_dtype":"float"}',
        b'{"model":"bert","input":[[1]],"normalized":true,"late_chunking":false,"embedding_type":"float"}',
    ],
    "rerank": [
        b'{"model":"cross","query":"q","documents":["a",{"text":"b"}],"top_n":1,"return_documents":true}',
        b'{"model":"cross","query":"q","documents":["a","b"],"top_k":null,"raw_scores":true}',
        b'{"model":"cross","query":"q","texts":["a","b"],"return_text":true,"truncation_direction":"Right"}',
    ],
    "classify": [b'{"model":"classifier","input":["a","b"],"raw_scores":"off"}'],
    "embed": [
        b'{"model":"bert","texts":["a"],"embedding_types":["float"],"truncate":"END","output_dimension":4}',
        b'{"model":"bert","inputs":["a"],"normalize":true,"truncate":true,"prompt_name":"query"}',
    ],
}
SEEDS = [
    bytes([2 * number + len(body) % 2]) + body
    for number, path in enumerate(_PATHS)
    for kind, bodies in _BODIES.items()
    if path.rpartition("/")[2].startswith(kind)
    for body in bodies
]


def check(data: bytes) -> None:
    if not data:
        return
    number, asking = divmod(data[0], 2)
    path, headers, body = _PATHS[number % len(_PATHS)], {b"user-agent": _ASKING[asking]}, data[1:]
    status, raw = _memory.answer(path, headers, body)
    answer = check_answer(path, status, raw)
    if status == 200:
        check_result(_call(path, headers, body), answer)


def _call(path: str, headers: dict[bytes, bytes], body: bytes) -> Call:
    """What a good body is read as."""
    endpoint = _memory.calls.get(path) or _memory.calls["/v1/embeddings"]
    return endpoint.dialect(endpoint.parse(body), headers).call
