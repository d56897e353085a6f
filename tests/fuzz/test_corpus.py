"""Every input that a search has kept is handled as it should be, without the fuzzer."""

import importlib
from collections.abc import Callable

import pytest

from fuzz import corpus

_KEPT_BYTES_MAX = 300_000


@pytest.mark.parametrize("target", corpus.TARGETS)
def test_what_was_once_found_is_handled(target: str) -> None:
    """Seeds and corpus: what a caller, a server or an operator may send is answered or refused in words."""
    module = importlib.import_module(f"fuzz.fuzz_{target}")
    check: Callable[[bytes], None] = module.check
    kept = corpus.read(target)
    assert kept
    for data in [*module.SEEDS, *kept]:
        try:
            check(data)
        except Exception as error:
            raise AssertionError(f"{target} handles this wrongly: {data!r}") from error


def test_the_corpus_is_small() -> None:
    """It is read by whoever clones."""
    assert sum(len(data) for target in corpus.TARGETS for data in corpus.read(target)) < _KEPT_BYTES_MAX


def test_only_inputs_that_reach_new_code_are_kept() -> None:
    """The shortest first, and none that goes only where a seed has been."""
    check = importlib.import_module("fuzz.fuzz_config").check

    kept = corpus.least(check, [b"[]"], [b"[]", b"[1]", b"a: 1", b"a: 2", b"a: 1\na: 2"])

    assert kept == [b"a: 1", b"a: 1\na: 2"]
