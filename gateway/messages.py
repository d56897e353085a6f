"""What callers ask for and what they get, in the domain's words; free of any wire format."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Scalar = str | int | float | bool | None


class Task(StrEnum):
    EMBED = "embed"
    RERANK = "rerank"
    CLASSIFY = "classify"


class Modality(StrEnum):
    TEXT = "text"
    IMAGE = "image"
    AUDIO = "audio"


@dataclass(slots=True)
class EmbeddingCall:
    """Embed `inputs`, each a text or, for other modalities, a data URI or URL."""

    inputs: Sequence[str]
    model: str | None = None
    modality: Modality = Modality.TEXT
    dimensions: int | None = None
    """Keep the first so many numbers of each vector (Matryoshka), not normalised again."""
    role: str | None = None
    """`query` or `document`, for models that want a prefix on one or both."""
    params: Mapping[str, Scalar] = field(default_factory=dict)
    """Passed on to the server as they are."""
    timeout_s: float | None = None
    caller: str = ""
    """Who asks, for fair shares between callers."""
    bulk: bool = False
    """It may wait behind interactive calls, however small it is."""
    models: tuple[str, ...] = ()
    """Names and patterns (`bge-*`) of the models that may answer it; all when there are none."""
    trace: Any = field(default=None, compare=False, repr=False)
    """What a listener has put there, to find the call again in the batches that it is part of."""


@dataclass(slots=True)
class RerankCall:
    """Score each of `documents` against `query`; the best `top_n` in falling order, all when None."""

    query: str
    documents: Sequence[str]
    model: str | None = None
    top_n: int | None = None
    params: Mapping[str, Scalar] = field(default_factory=dict)
    timeout_s: float | None = None
    caller: str = ""
    bulk: bool = False
    models: tuple[str, ...] = ()
    trace: Any = field(default=None, compare=False, repr=False)


@dataclass(slots=True)
class ClassifyCall:
    inputs: Sequence[str]
    model: str | None = None
    params: Mapping[str, Scalar] = field(default_factory=dict)
    timeout_s: float | None = None
    caller: str = ""
    bulk: bool = False
    models: tuple[str, ...] = ()
    trace: Any = field(default=None, compare=False, repr=False)


Call = EmbeddingCall | RerankCall | ClassifyCall


@dataclass(slots=True)
class Timings:
    """Where a call's time went, in seconds. Both are of the batch that ended last."""

    queue_s: float = 0.0
    upstream_s: float = 0.0


@dataclass(slots=True)
class EmbeddingResult:
    """One vector for each input, in order.

    A vector is a JSON fragment exactly as the server wrote it: a quoted base64 string of float32
    little-endian, or nested lists of numbers from a model with several vectors for one input.
    """

    model: str
    vectors: Sequence[bytes]
    tokens: int
    timings: Timings


@dataclass(slots=True)
class RerankResult:
    """`(index, score)` in falling order of score; ties keep the order of the documents."""

    model: str
    ranking: Sequence[tuple[int, float]]
    tokens: int
    timings: Timings
    warnings: Sequence[str] = ()


@dataclass(slots=True)
class ClassifyResult:
    """For each input the JSON fragment of its list of `{score, label}`, as the server wrote it."""

    model: str
    labels: Sequence[bytes]
    tokens: int
    timings: Timings


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What callers may know of one model."""

    name: str
    capabilities: tuple[str, ...]
    """In Infinity's words: embed, rerank, classify, image_embed, audio_embed."""
