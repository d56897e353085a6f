"""Lists of the texts that `infinity-gateway bench` makes up as well."""

from itertools import islice

from gateway.bench import texts


def short_questions(count: int, seed: int = 1) -> list[str]:
    """Questions of 5 to 14 words."""
    return list(islice(texts.short_questions(seed), count))


def mixed_lengths(count: int, seed: int = 2) -> list[str]:
    """Texts of 4 to 220 words, 27 on average, with a long tail."""
    return list(islice(texts.mixed_lengths(seed), count))
