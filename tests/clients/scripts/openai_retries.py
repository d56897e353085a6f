"""Two calls to a gateway that has no room at first: one that gives up at once, and one that tries again.

Prints the first's error and for how long that sent it away, and the second's vector and seconds.
"""

import json
import time

import openai

from tests.clients.inputs import TEXTS
from tests.clients.scripts.calls import KEY, URL

client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=5)
try:
    client.with_options(max_retries=0).embeddings.create(model="bert", input=TEXTS[0])
except openai.APIStatusError as error:
    refusal = {"class": type(error).__name__, "retry_after": error.response.headers["retry-after"]}
began = time.perf_counter()
vector = client.embeddings.create(model="bert", input=TEXTS[0]).data[0].embedding
print(json.dumps({**refusal, "vector": vector, "seconds": time.perf_counter() - began}))
