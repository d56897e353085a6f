"""Coverage-guided fuzzing of all that reads what others wrote.

A target is a module `fuzz_NAME` with a function `check`, which takes any bytes and fails when they are
handled wrongly, and the `SEEDS` to begin with. `python -m fuzz NAME` looks for more inputs, with atheris; the
tests replay those that are committed, without it.
"""
