"""A vector as the server wrote it: kept as its JSON fragment, opened only where somebody must look inside.

A fragment is either a quoted base64 string of float32 little-endian, or a list of numbers (servers with a
binary dtype), or a list of lists (models with several vectors for one input).
"""

import binascii
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt
import orjson

from gateway.errors import BadRequest

Floats = npt.NDArray[np.float32]

_QUOTE = ord('"')
_FLOAT32 = np.dtype("<f4")
_base64 = msgspec.json.Decoder(bytes)  # three times as fast as binascii, quotes included


def is_base64(fragment: bytes) -> bool:
    return fragment[0] == _QUOTE


def floats(fragment: bytes) -> Floats:
    """The numbers: shape (dimensions,), or (vectors, dimensions) from a multi-vector model."""
    if is_base64(fragment):
        return np.frombuffer(_base64.decode(fragment), _FLOAT32)
    return np.asarray(orjson.loads(fragment), dtype=np.float32)


def as_base64(fragment: bytes) -> bytes:
    """The fragment as a quoted base64 string; several vectors are flattened, as Infinity does."""
    if fragment[0] == _QUOTE:
        return fragment
    return _quoted(floats(fragment).astype("<f4").tobytes())


def as_floats(fragment: bytes) -> bytes:
    """The fragment as a list of numbers, each in the shortest form that is the same float32."""
    if fragment[0] != _QUOTE:
        return fragment
    return orjson.dumps(floats(fragment), option=orjson.OPT_SERIALIZE_NUMPY)


def cut(fragments: Sequence[bytes], dimensions: int) -> list[bytes]:
    """Each vector's first `dimensions` numbers.

    Raises BadRequest when the vectors have fewer, or are several for one input.
    """
    return [_cut(fragment, dimensions) for fragment in fragments]


def _cut(fragment: bytes, dimensions: int) -> bytes:
    if is_base64(fragment):
        raw = _base64.decode(fragment)
        _check(dimensions, len(raw) // 4)
        return _quoted(raw[: 4 * dimensions])
    numbers = orjson.loads(fragment)
    if numbers and isinstance(numbers[0], list):
        raise BadRequest(
            "this model gives several vectors for one input, which cannot be cut", param="dimensions"
        )
    _check(dimensions, len(numbers))
    return orjson.dumps(numbers[:dimensions])


def _check(dimensions: int, most: int) -> None:
    if not 1 <= dimensions <= most:
        raise BadRequest(
            f"dimensions must be from 1 to {most} for this model, not {dimensions}", param="dimensions"
        )


def _quoted(raw: bytes) -> bytes:
    return b'"' + binascii.b2a_base64(raw, newline=False) + b'"'


def cosine(query: bytes, documents: Sequence[bytes]) -> list[float]:
    """The cosine similarity of the query's vector and each document's, from -1 to 1.

    Raises BadRequest for vectors that are several for one input.
    """
    first = floats(query).astype(np.float64)
    if first.ndim != 1:
        raise BadRequest("this model gives several vectors for one input, which have no one similarity")
    rows = np.stack([floats(document) for document in documents]).astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(first)
    scores = np.divide(rows @ first, lengths, out=np.zeros(len(documents)), where=lengths > 0)
    similarities: list[float] = scores.tolist()
    return similarities
