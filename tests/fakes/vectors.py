"""What the stand-in computes instead of a model: all of it a function of the text alone."""

import base64
import functools
import hashlib

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]

LABELS = ("negative", "neutral", "positive")

# What Rust's `trim` takes off, and pydantic with it. Python's `strip` takes \x1c to \x1f as well.
WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)


def trim(text: str) -> str:
    return text.strip(WHITE_SPACE)


@functools.lru_cache(maxsize=65_536)
def _drawn(key: str, count: int) -> Vector:
    seed = hashlib.blake2b(key.encode(), digest_size=8).digest()
    drawn = np.random.default_rng(int.from_bytes(seed, "big")).standard_normal(count).astype(np.float32)
    drawn.setflags(write=False)  # The cache hands it out again and again.
    return drawn


def vector_of(text: str, dim: int = 8, seed: str = "") -> Vector:
    """The vector for `text`: of length 1, the same on every machine, another one for every seed."""
    drawn = _drawn(f"vector {seed}\0{trim(text)}", dim)
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)


def vectors_of(text: str, dim: int = 8, seed: str = "") -> Vector:
    """One row a token, as a multi-vector model answers: a word is a token, and two more stand at the ends."""
    return np.stack([vector_of(f"{i} {trim(text)}", dim, seed) for i in range(tokens_of(text) + 2)])


def bits_of(text: str, dim: int = 8, seed: str = "") -> Vector:
    """What `--embedding-dtype ubinary` makes of the vector: one number for 8."""
    return np.packbits(vector_of(text, dim, seed) > 0).astype(np.float32)


def logit_of(query: str, document: str) -> float:
    """A float32 over a few units."""
    return float(_drawn(f"logit {trim(query)}\0{trim(document)}", 1)[0] * np.float32(2))


def score_of(query: str, document: str) -> float:
    """The `relevance_score` without `raw_scores`: the sigmoid, in float32 as in Infinity."""
    return float(1 / (1 + np.exp(-np.float32(logit_of(query, document)))))


def classes_of(text: str) -> list[dict[str, str | float]]:
    weights = np.exp(_drawn(f"classes {trim(text)}", len(LABELS)).astype(np.float64))
    scored = sorted(zip(weights / weights.sum(), LABELS, strict=True), reverse=True)
    return [{"score": float(score), "label": label} for score, label in scored]


def tokens_of(text: str) -> int:
    return len(text.split())


def base64_of(vector: Vector) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
