"""What every client asks."""

EMBEDDER, RERANKER, RAW_RERANKER = "bge-small", "rerank", "rerank-raw"

TEXTS = [
    "The food was delicious and the waiter...",
    "good morning from litellm",
    'Žluťoučký kůň 🐎 \u2028 "quoted"',
    "about cats " * 40,
]
MANY = [f"{i} kittens and {i % 7} dogs " * (1 + i % 5) for i in range(100)]
QUERY = "What is the capital of the United States?"
DOCUMENTS = [
    "Carson City is the capital city of the American state of Nevada.",
    "Saipan is the capital of the Northern Mariana Islands, a group of islands in the Pacific Ocean.",
    "Washington, D.C. is the capital of the United States.",
    "Capital punishment has existed in the United States since before it was a country.",
]
TOP_N = 2
DIMENSIONS = 8
