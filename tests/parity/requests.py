"""Requests to Infinity's API, made from a seed: good ones, odd ones and broken ones."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.api.media import orange, tone

JSON = "application/json"
_TEXT_CHARS_MAX = 122_880
_ITEMS_MAX = 2048


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    body: bytes = b""
    content_type: str = JSON

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.body[:160].decode(errors='replace')}"


_TEXTS = [
    "a dog", "The weather in Munich is fine.", "", " ", "  both ends\t", "\u2003em\u3000", "\x1c\x1f kept",
    "ünïcödé", "日本語のテキスト", "🐕‍🦺 family 👨‍👩‍👧", "\u0000null", "line\nfeed", "x" * 700, "same",
    "same",    "العربية", '"quoted" \\ back', "\ufeffmark", "\x85next\xa0line",
]  # fmt: skip
_ODD = [
    None, True, False, 0, 1, -1, 2, 1.0, 1.5, -0.0, 1e30, 3e18, 2**53, "", "1", " 7 ", "1_0", "1__0", "_1",
    "+5", "-3", "5.0", "5.5", "5.", ".0", "1e2", "0x1", "x", "yes", "YES", " yes", "Off", "t", "n", "1.0",
    "２", [], [1], ["a"], {}, {"text": "a"}, [[1, 2]], "float", "base64", "FLOAT",
]  # fmt: skip
_BROKEN = [
    b"", b" ", b"{", b"}", b"null", b"[]", b"5", b'"text"', b"true", b'{"input": }', b"{'input': 'a'}",
    b'{"input": "a",}', b'{"input": "a"} x', b'{"input": "a" "model": "bert"}', b"\xff\xfe",
    b'{"input": "\xff"}',
    b'\xef\xbb\xbf{"model": "bert", "input": "mark", "query": "q", "documents": ["a"]}',
    '{"model": "bert", "input": "sixteen"}'.encode("utf-16"), b'{"model": "bert", "input": "a\tb"}',
    b'{"model": "bert", "input": "\\ud83d\\ude00"}', b'{"model": "bert", "model": "clip", "input": "twice"}',
    b'{"model": "bert", "input": ["\\ud800"]}', b'{"model": "bert", "input": "a", "dimensions": NaN}',
    b'{"model": "bert", "input": "a", "extra": NaN}', b'{"input": ' + b"[" * 200_000,
    b'{"model": "bert", "input": "a", "dimensions": Infinity}', b'{"model": "bert", "input": "a"}\x00',
    b'{"a": 1, "input": tru}', b"[1, 2", b'{"model": "bert", "input": "unended', b'{"input": 01}',
]  # fmt: skip
_MODELS = ["bert", "cross", "classifier", "clip", "clap", "colbert", "bert-tokens", "bert-bits"]
_EMBEDDERS = ["bert", "bert", "bert", "clip", "clap", "colbert", "bert-tokens", "bert-bits"]
_URIS = [
    orange(8), orange(20), tone(400), "data:image/png;base64,aGFsbG8=", "data:,hello",
    "data:image/png;base64,a", "data:image/png;base64,====", "no address", "", "data:", "data:;base64",
    "ftp://host/x", "http://", "/path",
    "data:image/png;name=a.png;base64,aGFsbG8=", "x" * 100,
]  # fmt: skip


def requests(seed: int) -> Iterator[Request]:
    """Some hundreds, always the same."""
    rng = random.Random(seed)
    for _ in range(110):
        yield _post("/embeddings", _mutated(rng, _embedding(rng)))
    for _ in range(70):
        yield _post("/rerank", _mutated(rng, _reranking(rng)))
    for _ in range(40):
        yield _post("/classify", _mutated(rng, _classification(rng)))
    for value in _ODD:
        yield _post("/embeddings", {"model": "bert", "input": value})
        yield _post("/embeddings", {"model": "bert", "input": "a", "dimensions": value})
        yield _post("/rerank", {"model": "cross", "query": "q", "documents": ["a", "b"], "top_n": value})
        yield _post(
            "/rerank",
            {
                "model": "cross",
                "query": "q",
                "documents": ["a", "b"],
                "raw_scores": value,
                "return_documents": value,
            },
        )
    for path in ("/embeddings", "/rerank", "/classify", "/embeddings_image"):
        for body in _BROKEN if path == "/embeddings" else _BROKEN[:8]:
            yield Request("POST", path, body)
    yield from _at_the_limits()
    yield from _media(rng)
    for path in ("/models", "/health", "/nowhere", "/embeddings", "/rerank", "/embeddings/x"):
        yield Request("GET", path)
    for path in ("/models", "/health", "/nowhere", "/tokenize"):
        yield Request("POST", path, b"{}")
    yield Request("DELETE", "/embeddings")
    yield Request("POST", "/embeddings/", b'{"model": "bert", "input": "a"}')
    for kind in ("text/plain", "application/vnd.api+json", "application/json; charset=latin-1", ""):
        yield Request("POST", "/embeddings", b'{"model": "bert", "input": "a"}', kind)


def _post(path: str, body: Any) -> Request:
    return Request("POST", path, json.dumps(body).encode())


def _texts(rng: random.Random) -> list[str]:
    return rng.choices(_TEXTS, k=rng.choice([1, 2, 3, 9, 40]))


def _embedding(rng: random.Random) -> dict[str, Any]:
    texts = _texts(rng)
    body: dict[str, Any] = {"model": rng.choice(_EMBEDDERS), "input": rng.choice([texts, texts[0]])}
    if rng.random() < 0.4:
        body["encoding_format"] = rng.choice(["float", "base64"])
    if rng.random() < 0.3:
        body["dimensions"] = rng.choice([0, 1, 5, 8, 32, 33, 10_000, -4])
    if rng.random() < 0.2:
        body["modality"] = rng.choice(["text", "text", "image", "audio", "video", None, 5, ["text"]])
    return body


def _reranking(rng: random.Random) -> dict[str, Any]:
    body: dict[str, Any] = {"model": "cross", "query": rng.choice(_TEXTS), "documents": _texts(rng)}
    for name, values in (
        ("return_documents", [True, False, "yes", 0]),
        ("raw_scores", [True, False, "off", 1]),
        ("top_n", [None, 1, 2, 99, 0, -1, "3"]),
    ):
        if rng.random() < 0.4:
            body[name] = rng.choice(values)
    return body


def _classification(rng: random.Random) -> dict[str, Any]:
    body: dict[str, Any] = {"model": "classifier", "input": _texts(rng)}
    if rng.random() < 0.4:
        body["raw_scores"] = rng.choice([True, False, "on", 5])
    return body


def _mutated(rng: random.Random, body: dict[str, Any]) -> dict[str, Any]:
    """Half of them as they are; of the others some fields are odd, missing or unknown."""
    if rng.random() < 0.5:
        return body
    for _ in range(rng.choice([1, 1, 2, 3])):
        name = rng.choice(list(body) or ["input"])
        match rng.randrange(5):
            case 0:
                body.pop(name, None)
            case 1:
                body[name] = rng.choice(_ODD)
            case 2:
                body["model"] = rng.choice([*_MODELS, "none", "", "Bert", "default/not-specified"])
            case 3:
                body[rng.choice(["user", "task", "input_type", "instruction"])] = rng.choice(_ODD)
            case _ if isinstance(body.get(name), list):
                body[name] = [*body[name], rng.choice(_ODD)]
            case _:
                body["encoding_format"] = rng.choice(_ODD)
    return body


def _at_the_limits() -> Iterator[Request]:
    longest = "y" * _TEXT_CHARS_MAX
    for text in (longest, f"  {longest} ", longest + "y"):
        yield _post("/embeddings", {"model": "bert", "input": text})
        yield _post("/rerank", {"model": "cross", "query": text, "documents": [text]})
    yield _post("/embeddings", {"model": "bert", "input": ["a", longest + "y"]})
    for count in (0, _ITEMS_MAX, _ITEMS_MAX + 1):
        texts = [str(i % 5) for i in range(count)]
        yield _post("/embeddings", {"model": "bert", "input": texts})
        yield _post("/rerank", {"model": "cross", "query": "q", "documents": texts, "top_n": 3})
        yield _post("/classify", {"model": "classifier", "input": texts})


def _media(rng: random.Random) -> Iterator[Request]:
    for uri in _URIS:
        yield _post("/embeddings", {"model": "clip", "input": [uri], "modality": "image"})
        yield _post("/embeddings_image", {"model": "clip", "input": uri})
    odd: list[Any] = [None, 5, [], [5], {}, [orange(8), None], [orange(8)] * 32, [orange(8)] * 33]
    for value in odd:
        yield _post("/embeddings_image", {"model": "clip", "input": value})
        yield _post("/embeddings", {"model": "clap", "input": value, "modality": "audio"})
    yield _post("/embeddings_image", {"model": "clip", "input": "http://127.0.0.1:9/orange.png"})
    yield _post("/embeddings_audio", {"model": "clap", "input": [tone(300), tone(900)]})
    yield _post("/embeddings_audio", {"model": "clap", "input": tone(300), "encoding_format": "base64"})
    yield _post("/embeddings_image", {"model": "bert", "input": orange(8)})
    yield _post("/embeddings_image", {"model": "clip", "input": orange(8), "dimensions": 4, "user": 5})
    yield _post("/embeddings", {"model": "clip", "input": orange(9), "modality": "image", "dimensions": 4})
    yield _post("/embeddings_image", {"model": "none", "input": orange(8)})
    for model in _MODELS:
        path = rng.choice(["/rerank", "/classify", "/embeddings"])
        yield _post(path, {"model": model, "input": ["a"], "query": "q", "documents": ["a"]})
