import asyncio
import base64
from typing import Any

import numpy as np
import openai

from tests.clients.inputs import DIMENSIONS, EMBEDDER, MANY, TEXTS
from tests.clients.scripts.calls import KEY, URL, Calls, report

calls = Calls("openai")
client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)


def vectors(answer: Any) -> Any:
    return [row.embedding for row in sorted(answer.data, key=lambda row: row.index)]


def embed(given: Any = TEXTS, using: Any = client, **options: Any) -> Any:
    return using.embeddings.create(model=EMBEDDER, input=given, **options)


def decoded() -> Any:
    rows = embed(encoding_format="base64").data
    return [np.frombuffer(base64.b64decode(row.embedding), "<f4").tolist() for row in rows]


async def gathered() -> Any:
    async with openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key=KEY) as asynchronous:
        answers = await asyncio.gather(*(embed([text], asynchronous) for text in MANY))
        return [vectors(answer)[0] for answer in answers]


calls("embeddings.create", "vectors", vectors, embed())
calls("embeddings.create", "first", lambda: vectors(embed(TEXTS[0])))
calls("embeddings.create", "vectors", lambda: vectors(embed(encoding_format="float")))
calls("embeddings.create", "vectors", decoded)
calls("embeddings.create", "shortened", lambda: vectors(embed(dimensions=DIMENSIONS)))
calls("embeddings.create", "many", lambda: vectors(embed(MANY)))
calls("embeddings.create (async)", "many", asyncio.run, gathered())
calls("embeddings.create", "usage", lambda: embed().usage.model_dump())
bare = openai.OpenAI(base_url=URL, api_key=KEY)
calls("embeddings.create", "vectors", lambda: vectors(embed(using=bare)))
azure = openai.AzureOpenAI(azure_endpoint=URL, api_key=KEY, api_version="2024-10-21")
calls("AzureOpenAI embeddings.create", "vectors", lambda: vectors(embed(using=azure)))
calls("models.list", "models", lambda: [model.id for model in client.models.list()])

stranger = client.with_options(api_key="sk-another")
calls.fails("a wrong key", embed, using=stranger)
calls.fails("an unknown model", client.embeddings.create, model="nobody", input="a")
calls.fails("no input", embed, [])
calls.fails("token ids", embed, [[15339, 1917]])
report(calls)
