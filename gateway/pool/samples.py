"""What servers are asked before they get work, and what of their answers is compared (core/sameness.py)."""

from array import array

import orjson

from gateway import vectors
from gateway.core.lanes import BatchKey, Value
from gateway.core.sameness import Sample
from gateway.messages import Task

SHORT = "ping"
LONG = " ".join(["ping"] * 100 + ["the river"] * 50 + ["a stone of another colour"] * 20)
"""Some 300 tokens, of which a model that truncates sooner than others sees other parts."""

_NUMBERS_MAX = 8192
_BYTE_MIN, _BYTE_MAX = -128, 255


def trial_key(task: Task) -> BatchKey:
    """What a server is asked. Raw scores, since the others are all close to 0 or 1."""
    if task is Task.RERANK:
        return BatchKey(task, b'{"raw_scores":true}', SHORT)
    return BatchKey(task)


def sample_of(task: Task, value: Value, *, binary: bool = False) -> Sample:
    """The answer to one text. `binary`: of a server whose vectors cannot be base64."""
    if isinstance(value, float | int):
        return Sample("a score", [float(value)], is_score=True)
    if task is Task.CLASSIFY:
        classes = sorted((str(each["label"]), float(each["score"])) for each in orjson.loads(value))
        labels = [label for label, _ in classes]
        return Sample(
            f"{len(labels)} labels from {labels[0]} to {labels[-1]}", [score for _, score in classes]
        )
    found = vectors.floats(value)
    form = f"{' x '.join(map(str, found.shape))} numbers"
    numbers = array("f", found.ravel()[:_NUMBERS_MAX].tolist())
    are_bits = binary and all(_BYTE_MIN <= n <= _BYTE_MAX and n == int(n) for n in numbers)
    return Sample(form, numbers, are_bits=are_bits)
