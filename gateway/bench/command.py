"""The options of `infinity-gateway bench`, and what it prints."""

import argparse
import asyncio
import math
import random
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from gateway.bench import compare, sweep
from gateway.bench.inputs import MADE_UP, Inputs, MadeUp, read
from gateway.bench.measured import Measured
from gateway.bench.target import find
from gateway.errors import StartError

_KEYS = ("GATEWAY_MASTER_KEY", "LITELLM_MASTER_KEY")
_DIRECT_KEYS = ("INFINITY_API_KEY",)
_ENVIRON = "os.environ/"
_CALLERS = [1, 8, 64, 256]
_CONNECTIONS_MAX = 512
_OTHER_FILES = 64
_STEP_S, _RATE_S, _ROUND_S = 5.0, 10.0, 4.0


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    # fmt: off
    add("url", metavar="URL", nargs="?", help="base URL of a gateway or an Infinity, with /v1 or without")
    add("--compare", nargs=2, metavar=("DIRECT", "GATEWAY"),
        help="the same calls to a server and through a gateway by turns, and the ratios")
    add("--rate", type=_rates, metavar="N[,N…]",
        help="calls a second. Left out, the rate is doubled until latency or errors say stop; with "
        "--compare, callers wait for their answers instead")
    add("--connections", type=_counts, metavar="N[,N…]",
        help=f"most that are opened ({_CONNECTIONS_MAX}); with --compare and no rate, callers "
        f"({','.join(map(str, _CALLERS))})")
    add("--duration", type=_positive, metavar="S",
        help=f"seconds of each rate ({_RATE_S:g}; while it is looked for {_STEP_S:g}), or of each side in a "
        f"round ({_ROUND_S:g})")
    add("--warm-up", type=_seconds, default=1.0, metavar="S",
        help="seconds before that, which do not count (%(default)g)")
    add("--rounds", type=_count, default=4, metavar="N", help="of --compare (%(default)d)")
    add("--within", type=_positive, default=90.0, metavar="S",
        help="seconds in which the rate is looked for (%(default)g)")
    add("--p99-max", type=_positive, metavar="MS",
        help="milliseconds that say stop (ten times the median at the first rate, at least 50)")
    add("--timeout", type=_positive, default=10.0, metavar="S",
        help="longest wait for an answer, in seconds (%(default)g)")
    add("--model", metavar="NAME", help="asked of /models when left out")
    add("--texts", default="short", metavar="short|mixed|FILE",
        help="made up; or one a line; or, in FILE.jsonl, a call a line: `input`, or `query` and `documents` "
        "(%(default)s)")
    add("--items", type=_count, metavar="N", help="texts a call (1), or documents (20)")
    add("--rerank", action="store_true", help="calls of /rerank instead of /embeddings")
    add("--repeat", action="store_true",
        help="send a file's texts again as they are when all were sent; else they get a number then, so that "
        "none is sent twice")
    add("--seed", type=int,
        help="of texts and times; drawn when left out, so that no run has another's texts")
    add("--key", metavar="KEY",
        help=f"what the URL, or GATEWAY, asks for; {_ENVIRON}NAME reads a variable, which others on the "
        f"machine do not see ({_ENVIRON}{_KEYS[0]})")
    add("--direct-key", metavar="KEY", help=f"the same for DIRECT ({_ENVIRON}{_DIRECT_KEYS[0]})")
    add("--json", action="store_true", help="all of it as JSON on stdout, and the table on stderr")
    # fmt: on


async def bench(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """0, or 1 when no call was answered or the two that are compared give other answers.

    Interrupted, it tells what there is.

    Raises StartError when nothing can be measured.
    """
    if (options.url is None) == (options.compare is None):
        raise StartError("bench: expected a URL, or --compare with two of them; see --help")
    seed = random.SystemRandom().randrange(1 << 31) if options.seed is None else options.seed
    inputs = _inputs(options, seed)
    output = sys.stderr if options.json else sys.stdout

    def tell(text: str) -> None:
        print(text, file=output, flush=True)

    _allow(max(options.connections or [_CONNECTIONS_MAX]))
    prepare = _comparison if options.compare else _sweep
    run, about = await prepare(options, environ, inputs, seed, tell)
    try:
        await run.run()
    except asyncio.CancelledError:  # Ctrl-C
        run.notes.append("interrupted: only what came before counts")
    run.remark_repeated()
    for note in ["", *run.notes] if run.notes else []:
        tell(note)
    if options.json:
        found = {**about, "texts": inputs.words, "seed": seed, "notes": run.notes, "rows": run.rows}
        sys.stdout.write(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode() + "\n")
    return 0 if run.answered and run.agrees else 1


async def _sweep(
    options: argparse.Namespace,
    environ: Mapping[str, str],
    inputs: Inputs,
    seed: int,
    tell: Callable[[str], None],
) -> tuple[Measured, dict[str, Any]]:
    target = await find(options.url, _key(options.key, _KEYS, environ), inputs, options.model)
    most = options.connections or [_CONNECTIONS_MAX]
    if len(most) > 1:
        raise StartError("bench: --connections has several numbers; that is for --compare without --rate")
    plan = sweep.Plan(
        rates=options.rate,
        duration_s=options.duration or (_RATE_S if options.rate else _STEP_S),
        warm_up_s=options.warm_up,
        connections_max=most[0],
        timeout_s=options.timeout,
        seed=seed,
        within_s=options.within,
        p99_ms_max=options.p99_max,
    )
    tell(f"POST {target.route.url}, model {target.model}: {inputs.words}")
    how = "" if options.rate else f"; doubled until latency or errors say stop, within {plan.within_s:g} s"
    each = f"open loop, {plan.duration_s:g} s a rate after {plan.warm_up_s:g} s"
    tell(f"{each}, latency from the time a call was due{how}")
    tell("")
    return sweep.Sweep(target, inputs, plan, tell), {"url": target.route.url, "model": target.model}


async def _comparison(
    options: argparse.Namespace,
    environ: Mapping[str, str],
    inputs: Inputs,
    seed: int,
    tell: Callable[[str], None],
) -> tuple[Measured, dict[str, Any]]:
    direct_url, gateway_url = options.compare
    gateway = await find(gateway_url, _key(options.key, _KEYS, environ), inputs, options.model)
    direct = await find(
        direct_url, _key(options.direct_key, _DIRECT_KEYS, environ), inputs, gateway.model, strict=False
    )
    most = options.connections or ([_CONNECTIONS_MAX] if options.rate else _CALLERS)
    if options.rate and len(most) > 1:
        raise StartError(
            "bench: --connections has several numbers; beside --rate it is the most that are opened"
        )
    plan = compare.Plan(
        levels=options.rate or most,
        is_open=bool(options.rate),
        rounds=options.rounds,
        duration_s=options.duration or _ROUND_S,
        warm_up_s=options.warm_up,
        connections_max=most[0],
        timeout_s=options.timeout,
        seed=seed,
    )
    tell(f"direct   POST {direct.route.url}, model {direct.model}")
    tell(f"gateway  POST {gateway.route.url}, model {gateway.model}")
    tell(inputs.words)
    how = "open loop" if plan.is_open else "callers who wait for their answers"
    tell(f"{how}, {plan.rounds} rounds of {plan.duration_s:g} s each; about {plan.takes_s:.0f} s in all")
    tell("")
    about = {"direct": direct.route.url, "gateway": gateway.route.url, "model": gateway.model}
    return compare.Comparison(direct, gateway, inputs, plan, tell), about


def _allow(connections: int) -> None:
    """Let as many be open, if that is ours to say; else what cannot be would look like the server's fault."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or wanted <= soft:
        return
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise StartError(
            f"bench: --connections {connections}: only {hard} files may be open here (ulimit -n)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _inputs(options: argparse.Namespace, seed: int) -> Inputs:
    if options.texts in MADE_UP:
        return MadeUp(options.texts, options.rerank, options.items, seed)
    return read(Path(options.texts), options.rerank, options.items, options.repeat)


def _key(given: str | None, names: Sequence[str], environ: Mapping[str, str]) -> str | None:
    if given is None:
        return next((environ[name] for name in names if environ.get(name)), None)
    if not given.startswith(_ENVIRON):
        return given
    name = given.removeprefix(_ENVIRON)
    if not environ.get(name):
        raise StartError(f"bench: {given}: there is no variable {name}")
    return environ[name]


# What argparse reads


def _count(text: str) -> int:
    if text.isdigit() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 1")


def _counts(text: str) -> list[int]:
    return [_count(part) for part in text.split(",")]


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if 0 <= value < math.inf:
        return value
    raise argparse.ArgumentTypeError(f"{text!r}: expected a number")


def _positive(text: str) -> float:
    if value := _seconds(text):
        return value
    raise argparse.ArgumentTypeError(f"{text!r}: expected a number above 0")


def _rates(text: str) -> list[float]:
    return [_positive(part) for part in text.split(",")]
