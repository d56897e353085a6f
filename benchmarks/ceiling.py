"""What could a server do at most, if its batches are cut out of so many texts that wait?

Long-tailed lengths, cut exactly, so that o + a·n + b·n·longest is least over all batches; the server is never
idle. The times are those that a gateway has learned of a server (`/status`, in seconds), by default of the
tiny model here. Of several gateways that share callers each sees its part only, and none can do better than
what is told for so many.

    python -m benchmarks.ceiling [--service O,A,B] [--waiting 8,16,32,64,128,256]
"""

import argparse
import random
from collections.abc import Sequence

from benchmarks.texts import mixed_lengths
from gateway.core.packing import tokens_of

_ITEMS_MAX = 32
_TEXTS = 3000


def least_work_s(tokens: Sequence[int], once_s: float, each_s: float, padded_s: float) -> float:
    """The work on texts of so many tokens, in the batches for which it is least."""
    ascending = sorted(tokens)
    least = [0.0]
    for end, longest in enumerate(ascending, 1):
        item_s = each_s + padded_s * longest
        least.append(min(least[end - n] + once_s + item_s * n for n in range(1, min(_ITEMS_MAX, end) + 1)))
    return least[-1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--service", default="0.004,0.00009,0.000041", metavar="O,A,B")
    parser.add_argument("--waiting", default="8,16,32,64,128,256")
    options = parser.parse_args()
    once_s, each_s, padded_s = map(float, options.service.split(","))
    tokens = [tokens_of(text) for text in mixed_lengths(20_000)]
    rng = random.Random(1)
    for waiting in map(int, options.waiting.split(",")):
        draws = max(20, _TEXTS // waiting)
        work_s = sum(
            least_work_s(rng.sample(tokens, waiting), once_s, each_s, padded_s) for _ in range(draws)
        )
        print(f"{waiting:>5} waiting: {draws * waiting / work_s:.0f} texts/s")


if __name__ == "__main__":
    main()
