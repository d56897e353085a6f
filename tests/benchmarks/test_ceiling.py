"""The ceiling is that of the best batches there are."""

from itertools import combinations, pairwise

import pytest

from benchmarks.ceiling import least_work_s

ONCE_S, EACH_S, PADDED_S = 4.0, 1.0, 0.5


def cost_s(batch: list[int]) -> float:
    return ONCE_S + EACH_S * len(batch) + PADDED_S * len(batch) * max(batch)


@pytest.mark.parametrize("tokens", [[3], [7, 7, 7], [1, 2, 3, 50, 60, 61], [40, 1, 40, 2, 9, 1, 1]])
def test_no_way_to_cut_is_better(tokens: list[int]) -> None:
    ascending = sorted(tokens)
    every_cut = [
        (0, *cuts, len(tokens)) for n in range(len(tokens)) for cuts in combinations(range(1, len(tokens)), n)
    ]

    least_s = min(sum(cost_s(ascending[i:j]) for i, j in pairwise(cut)) for cut in every_cut)

    assert least_work_s(tokens, ONCE_S, EACH_S, PADDED_S) == pytest.approx(least_s)


def test_a_batch_has_32_items_at_most() -> None:
    assert least_work_s([1] * 33, 1.0, 0.0, 0.0) == 2.0
