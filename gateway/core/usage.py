"""How many tokens each item of a batch is charged: what it would have been charged alone."""

from collections.abc import Sequence


def share_out(total: int, lengths: Sequence[int]) -> list[int]:
    """Each item's part of the `total` that a server counted for a batch.

    `lengths` are in characters. A server that counts characters (Infinity's default) reports their sum,
    and each item is charged exactly its own. One that counts tokens reports one number for the batch: each
    item that is not empty has one of them, if there are enough, and what is left is shared out by length
    with the largest remainders, so that the parts always add up to it.
    """
    whole = sum(lengths)
    if total == whole:
        return list(lengths)
    if whole == 0:
        lengths, whole = [1] * len(lengths), len(lengths)
    # Or a short text beside long ones that are few tokens would be charged nothing.
    own = [min(1, length) for length in lengths]
    rest = total - sum(own)
    if rest < 0:
        own, rest = [0] * len(lengths), total
    parts = [least + rest * length // whole for least, length in zip(own, lengths, strict=True)]
    missing = total - sum(parts)
    if missing:
        by_remainder = sorted(range(len(lengths)), key=lambda i: rest * lengths[i] % whole, reverse=True)
        for i in by_remainder[:missing]:
            parts[i] += 1
    return parts
