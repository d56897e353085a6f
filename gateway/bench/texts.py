"""Made-up texts: from a seed, all different, in the lengths that retrieval has."""

import random
from collections.abc import Iterator

_WORDS = """
    the of and to in is that for it as was with be by on not he this are or his from at which but have
    an had they you were their one all we can her has there been if more when will would who so no what
    up out server vector model search index query token batch latency queue memory cache cluster node
    network disk energy market history science river mountain capital language music water light system
    theory average
""".split()  # noqa: SIM905 - as a list literal it is a page long


def short_questions(seed: int = 1) -> Iterator[str]:
    """Without end: questions of 5 to 14 words."""
    rng, number = random.Random(seed), 0
    while True:
        yield _sentence(rng, rng.randint(5, 14), number)
        number += 1


def mixed_lengths(seed: int = 2) -> Iterator[str]:
    """Without end: texts of 4 to 220 words, 27 on average, with a long tail."""
    rng, number = random.Random(seed), 0
    while True:
        yield _sentence(rng, max(4, min(220, round(rng.lognormvariate(2.8, 0.95)))), number)
        number += 1


def _sentence(rng: random.Random, words: int, number: int) -> str:
    return " ".join(rng.choices(_WORDS, k=words - 1)) + f" {number}"
