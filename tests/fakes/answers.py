"""What the stand-in answers when nothing is wrong: its models behind Infinity's routes."""

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.fakes.vectors import (
    Vector,
    base64_of,
    bits_of,
    classes_of,
    logit_of,
    score_of,
    tokens_of,
    vector_of,
    vectors_of,
)
from tests.fakes.wire import Fields, Refusal, audio_characters, image_characters, problem, refusal

Answer = dict[str, Any]

UNNAMED = "default/not-specified"


@dataclass(frozen=True, slots=True)
class FakeModel:
    """One served model. The last three are what Infinity has options or kinds of models for."""

    name: str
    capabilities: tuple[str, ...] = ("embed",)
    dim: int = 8
    seed: str = ""  # Another seed, another vector space: what another revision would be.
    batch_size: int = 32
    counts_tokens: bool = False
    multi_vector: bool = False
    bit_packed: bool = False

    def embed(self, text: str) -> Vector:
        if self.multi_vector:
            return vectors_of(text, self.dim, self.seed)
        if self.bit_packed:
            return bits_of(text, self.dim, self.seed)
        return vector_of(text, self.dim, self.seed)

    def count(self, text: str) -> int:
        return tokens_of(text) if self.counts_tokens else len(text)


# The same kinds under the same names as `tiny_models` of tests/real_infinity.py.
TINY_MODELS = (
    FakeModel("bert"),
    FakeModel("cross", ("rerank",)),
    FakeModel("classifier", ("classify",)),
    FakeModel("clip", ("image_embed", "embed")),
    FakeModel("clap", ("audio_embed", "embed")),
    FakeModel("colbert", multi_vector=True),
    FakeModel("bert-tokens", counts_tokens=True),
    FakeModel("bert-bits", bit_packed=True),
)


@dataclass(frozen=True, slots=True)
class ServiceTime:
    """T = l + (o + a·n + b·n·longest) seconds; what is in the brackets occupies the server.

    More than `batch_size` items are sorted by length and cut into batches, as Infinity does.
    """

    l: float = 0  # noqa: E741  The names of the formula.
    o: float = 0
    a: float = 0
    b: float = 0

    def busy_s(self, lengths: Sequence[int], batch_size: int) -> float:
        waiting = list(lengths) if len(lengths) <= batch_size else sorted(lengths)
        batches = [waiting[i : i + batch_size] for i in range(0, len(waiting), batch_size)]
        return sum(self.o + self.a * len(batch) + self.b * len(batch) * max(batch) for batch in batches)


class Worker:
    """The part of Infinity that serves requests, one after another, and that may die."""

    def __init__(self, service: ServiceTime, queue_size: int) -> None:
        self.service = service
        self.queue_size = queue_size
        self.revive()

    def revive(self) -> None:
        self.dead = False
        self.queued_items = 0
        self._turn = asyncio.Lock()

    async def serve(self, lengths: Sequence[int], batch_size: int) -> None:
        self.queued_items += len(lengths)
        async with self._turn:
            if self.dead:  # Nobody else gets a turn either, and the queue only grows.
                await asyncio.Event().wait()
            self.queued_items -= len(lengths)
            if busy_s := self.service.busy_s(lengths, batch_size):
                await asyncio.sleep(busy_s)
        if self.service.l:
            await asyncio.sleep(self.service.l)


class Answers:
    """The bodies for Infinity's routes, or a `Refusal`."""

    def __init__(self, models: Sequence[FakeModel], worker: Worker) -> None:
        self._models = {model.name: model for model in models}
        self._worker = worker

    def models(self) -> Answer:
        queued = self._worker.queued_items
        return {
            "data": [
                {
                    "id": model.name,
                    "stats": {
                        "queue_fraction": queued / self._worker.queue_size,
                        "queue_absolute": queued,
                        "results_pending": 0,
                        "batch_size": model.batch_size,
                    },
                    "object": "model",
                    "owned_by": "infinity",
                    "created": int(time.time()),
                    "backend": "torch",
                    "capabilities": list(model.capabilities),
                }
                for model in self._models.values()
            ],
            "object": "list",
        }

    async def embeddings(self, body: Any) -> Answer:
        modality = body.get("modality", "text") if isinstance(body, dict) else "text"
        if modality not in ("text", "image", "audio"):
            kind = "union_tag_invalid" if isinstance(modality, str) else "union_tag_not_found"
            message = "Input tag does not match any of the expected tags: 'text', 'audio', 'image'"
            raise Refusal(422, {"detail": [problem(kind, ("body",), message, body)]})
        fields = Fields(body, ("body", modality))
        options = EmbeddingOptions.read(fields)
        if modality != "text":
            return await self._media(fields, options, modality, f"`embed` for modality `{modality}`")
        texts: list[str] = fields.read("input", fields.strings_or_string)
        fields.finish()
        model = self._model(options.model, "embed", "`embed` for modality `text`")
        usage = await self._serve(model, texts)
        return embedded(model, [model.embed(text) for text in texts], options, usage)

    async def embeddings_image(self, body: Any) -> Answer:
        fields = Fields(body)
        return await self._media(fields, EmbeddingOptions.read(fields), "image", "`image_embed`")

    async def embeddings_audio(self, body: Any) -> Answer:
        fields = Fields(body)
        return await self._media(fields, EmbeddingOptions.read(fields), "audio", "`audio_embed`")

    async def _media(
        self, fields: Fields, options: "EmbeddingOptions", modality: str, purpose: str
    ) -> Answer:
        media: list[bytes | str] = fields.read("input", fields.media)
        fields.finish()
        model = self._model(options.model, f"{modality}_embed", purpose)
        characters = image_characters if modality == "image" else audio_characters
        lengths = [characters(medium) for medium in media]
        await self._worker.serve(lengths, model.batch_size)
        vectors = [vector_of(repr(medium), model.dim, model.seed) for medium in media]
        return embedded(model, vectors, options, sum(lengths))

    async def rerank(self, body: Any) -> Answer:
        fields = Fields(body)
        query: str = fields.read("query", fields.string)
        documents: list[str] = fields.read("documents", fields.strings)
        return_documents = fields.read("return_documents", fields.flag, default=False)
        raw_scores = fields.read("raw_scores", fields.flag, default=False)
        name = fields.read("model", fields.name, default=UNNAMED)
        top_n = fields.read("top_n", fields.top_n, default=None)
        fields.finish()
        model = self._model(name, "rerank", "`rerank`")
        usage = await self._serve(model, [query + document for document in documents])
        score: Callable[[str, str], float] = logit_of if raw_scores else score_of
        results: list[dict[str, Any]] = [
            {
                "relevance_score": score(query, text),
                "index": i,
                "document": text if return_documents else None,
            }
            for i, text in enumerate(documents)
        ]
        results.sort(key=lambda result: result["relevance_score"], reverse=True)
        return {"object": "rerank", "results": results[:top_n], **envelope(model, usage)}

    async def classify(self, body: Any) -> Answer:
        fields = Fields(body)
        texts: list[str] = fields.read("input", fields.strings)
        name = fields.read("model", fields.name, default=UNNAMED)
        fields.read("raw_scores", fields.flag, default=False)  # It changes nothing in Infinity either.
        fields.finish()
        model = self._model(name, "classify", "`classify`")
        usage = await self._serve(model, texts)
        return {"object": "classify", "data": [classes_of(text) for text in texts], **envelope(model, usage)}

    def _model(self, name: str, capability: str, purpose: str) -> FakeModel:
        # With one model, Infinity takes any name for it.
        model = next(iter(self._models.values())) if len(self._models) == 1 else self._models.get(name)
        if model is None:
            known = f"Available model names are {list(self._models)}"
            raise refusal(400, f"Invalid model: Engine for model name `{name}` not found. {known}")
        if self._worker.queued_items > self._worker.queue_size:
            raise refusal(429, f"model {name} is currently overloaded")
        if capability not in model.capabilities:
            options = ", ".join(map(repr, model.capabilities))
            reason = f"the loaded moded cannot fullyfill `{capability}`. Options are {{{options}}}."
            message = f"ModelNotDeployedError: model=`{name}` does not support {purpose}. Reason: {reason}"
            raise refusal(400, message)
        return model

    async def _serve(self, model: FakeModel, texts: Sequence[str]) -> int:
        """Take the time it takes; returns what `usage` says."""
        lengths = [model.count(text) for text in texts]
        await self._worker.serve(lengths, model.batch_size)
        return sum(lengths)


@dataclass(frozen=True, slots=True)
class EmbeddingOptions:
    model: str
    encoding: str
    dimensions: int

    @classmethod
    def read(cls, fields: Fields) -> "EmbeddingOptions":
        model = fields.read("model", fields.name, default=UNNAMED)
        encoding = fields.read("encoding_format", fields.encoding, default="float")
        fields.read("user", fields.optional_name, default=None)
        # The deprecated routes, whose fields stand directly in the body, do not know it.
        sliced = len(fields.place) > 1
        return cls(model, encoding, fields.read("dimensions", fields.integer, default=0) if sliced else 0)


def embedded(model: FakeModel, vectors: list[Vector], options: EmbeddingOptions, usage: int) -> Answer:
    # Of several vectors a text Infinity counts and slices the vectors, not their numbers.
    size = len(vectors[0])
    if options.dimensions and not 1 <= options.dimensions <= size:
        out = f"matryoshka_dim={options.dimensions} is not in a valid range. Select between 1 and {size}."
        raise refusal(400, f"<class 'infinity_emb.primitives.MatryoshkaDimError'> -> {out}")
    if options.encoding == "base64" and model.bit_packed:
        reason = "as it uses uint8-bitpacking with EmbeddingDtype.ubinary"
        message = f"model {model.name} does not support base64 encoding, {reason}"
        raise refusal(500, f"InternalServerError: {message}")
    kept = [vector[: options.dimensions or None] for vector in vectors]
    rendered = [base64_of(vector) if options.encoding == "base64" else vector.tolist() for vector in kept]
    data = [{"object": "embedding", "embedding": vector, "index": i} for i, vector in enumerate(rendered)]
    return {"object": "list", "data": data, **envelope(model, usage)}


def envelope(model: FakeModel, usage: int) -> Answer:
    return {
        "model": model.name,
        "usage": {"prompt_tokens": usage, "total_tokens": usage},
        "id": f"infinity-{uuid.uuid4()}",
        "created": int(time.time()),
    }
