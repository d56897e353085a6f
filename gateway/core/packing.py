"""Which of what waits shares a batch: the cheapest cut.

A batch is padded to its longest text, so n texts of which the longest has L tokens cost o + a·n + b·n·L. Sort
what waits by length, cut it into runs of at most a batch each, and choose the cuts so that the sum is least:
`a` falls out, since every text pays it once, and what remains is how many padded tokens one batch more is
worth, o / b. The run that holds the next in turn is sent.

Exactly solved over every text that waits, that takes milliseconds. Lengths are therefore gathered into
classes that grow by a fifth, which costs a few per cent of padding at most, and the cut is made between
classes: tens of microseconds, however much waits.
"""

from collections.abc import Sequence

TOKENS_MAX = 512
"""Where models truncate, unless set: what stands behind costs nothing."""

_GROWTH = 1.2
_CHARS_A_TOKEN = 4


def tokens_of(text: str, most: int = TOKENS_MAX) -> int:
    """About how many tokens a model sees of `text`: a quarter for each ASCII character, one for any other,
    two around them, at most `most`.
    """
    head = text[: most * _CHARS_A_TOKEN]
    size = len(head)
    if not head.isascii():
        size += (_CHARS_A_TOKEN - 1) * (size - len(head.encode("ascii", "ignore")))
    return min(size // _CHARS_A_TOKEN + 2, most)


def _classes(most: int) -> tuple[list[int], list[int]]:
    """The longest length of each class, and the class of each length from 0 to `most`."""
    longest = [0]
    while longest[-1] < most:
        longest.append(min(most, max(longest[-1] + 1, int(longest[-1] * _GROWTH))))
    return longest, [index for index, last in enumerate(longest) for _ in range(
        (longest[index - 1] if index else -1), last)]  # fmt: skip


LONGEST, CLASS_OF = _classes(8192)


def cut(counts: Sequence[int], longest: Sequence[int], head: int, most: int, ratio: float) -> tuple[int, int]:
    """The first and last class of the run that holds class `head`, in the partition that costs least.

    counts: how many wait in each class that is not empty, shortest first.
    longest: the length of each, in tokens, ascending.
    most: items that fit in a batch.
    ratio: o / b, in padded tokens: what one batch more costs.
    """
    # best[i]: the least cost of the classes before i; first[i]: where their last run begins.
    best, first = [0.0], [0]
    for last, length in enumerate(longest):
        items = 0
        least, begin = float("inf"), last
        for start in range(last, -1, -1):
            count = counts[start]
            # Cut here instead, and all that is shorter pays less; one batch more is all that costs.
            if (length - longest[start]) * count > ratio and start != last:
                break
            items += count
            cost = best[start] - (-items // most) * ratio + items * length
            if cost < least:
                least, begin = cost, start
        best.append(least)
        first.append(begin)
    end = len(counts)
    while first[end] > head:
        end = first[end]
    return first[end], end - 1
