"""What do divided lists and shared requests bring to a reranker?

Four equal stand-ins. `divided`: how long one call of 1,000 documents takes through the gateway before all
four, against the gateway before one. `shared`: two hundred callers with ten queries over the same documents:
the pairs that the servers score for a call, against direct calls. `lists`: calls a second and latency for
short and long lists, with one query or a new one in each call; direct callers are spread evenly over the
four.

    python -m benchmarks.rerank [--service l,o,a,b] [--parts divided,shared,lists] [--seconds 3] [--json FILE]
"""

import argparse
import statistics
import sys
from collections.abc import Sequence

import orjson

from benchmarks import record
from benchmarks.scripted import Rows, Server, gateway, measure, parser, stand_ins
from benchmarks.stand_in import MODEL
from benchmarks.texts import short_questions
from tests.gateway_process import GatewayProcess

_SERVERS = 4
_DOCUMENTS = short_questions(1000, seed=5)
_QUERIES = short_questions(2000, seed=6)
_CALLS = 15
_CALLERS = 200
_SHARED_DOCUMENTS = 50
_CONNECTIONS = 8


def _rerank(query: str, documents: int) -> bytes:
    return orjson.dumps({"model": MODEL, "query": query, "documents": _DOCUMENTS[:documents]})


def _urls(target: str, servers: Sequence[Server], process: GatewayProcess) -> list[str]:
    bases = [process.url] if target == "gateway" else [server.url for server in servers]
    return [f"{base}/rerank" for base in bases]


async def benchmark(options: argparse.Namespace) -> Rows:
    rows = Rows()
    async with stand_ins([options.service] * _SERVERS) as servers, gateway(servers) as process:
        if "divided" in options.parts:
            await _divided(rows, servers, process)
        if "shared" in options.parts:
            await _shared(rows, servers, process, options.seconds)
        if "lists" in options.parts:
            await _lists(rows, servers, process, options.seconds)
    return rows


async def _divided(rows: Rows, servers: list[Server], process: GatewayProcess) -> None:
    bodies = [_rerank(query, len(_DOCUMENTS)) for query in _QUERIES[:_CALLS]]
    latencies_ms: dict[int, float] = {}
    async with gateway(servers[:1]) as single:
        for count, target in ((1, single), (_SERVERS, process)):
            # One caller, whose first calls are those from which the gateway learns.
            seconds = 0.5 * _CALLS / count
            measured = await measure([f"{target.url}/rerank"], bodies, 1, seconds, servers, [target], 2.0)
            latencies_ms[count] = measured.result.percentile_ms(50)
            rows.add(
                part="divided", servers=count, documents=len(_DOCUMENTS), calls=measured.result.calls,
                p50_ms=latencies_ms[count], of_one=latencies_ms[count] / latencies_ms[1],
                errors=measured.result.errors, core=measured.core,
            )  # fmt: skip


async def _shared(rows: Rows, servers: list[Server], process: GatewayProcess, seconds: float) -> None:
    bodies = [_rerank(query, _SHARED_DOCUMENTS) for query in _QUERIES[:10]]
    per_call: dict[str, float] = {}
    for target in ("direct", "gateway"):
        urls = _urls(target, servers, process)
        # Each direct server must meet all ten queries, as the gateway does.
        measured = await measure(urls, bodies * len(urls), _CALLERS, seconds, servers, [process])
        result, items = measured.result, sum(work.items for work in measured.work)
        per_call[target] = items / max(1, result.calls)
        rows.add(
            part="shared", target=target, callers=_CALLERS, queries=len(bodies),
            documents=_SHARED_DOCUMENTS, calls_s=result.rate, pairs_a_call=per_call[target],
            of_direct=per_call[target] / per_call["direct"], p99_ms=result.percentile_ms(99),
            errors=result.errors, core=measured.core,
        )  # fmt: skip


async def _lists(rows: Rows, servers: list[Server], process: GatewayProcess, seconds: float) -> None:
    for documents in (20, 100, 1000):
        for queries in ("same", "new"):
            bodies = [_rerank(query, documents) for query in _QUERIES[: 1 if queries == "same" else None]]
            rates: list[float] = []
            for target in ("direct", "gateway"):
                urls = _urls(target, servers, process)
                measured = await measure(
                    urls, bodies * (len(urls) if queries == "same" else 1), _CONNECTIONS, seconds, servers,
                    [process],
                )  # fmt: skip
                result = measured.result
                rates.append(result.rate)
                rows.add(
                    part="lists", documents=documents, query=queries, target=target, calls_s=result.rate,
                    ratio=result.rate / rates[0] if rates[0] else float("nan"),
                    p50_ms=result.percentile_ms(50), p99_ms=result.percentile_ms(99), errors=result.errors,
                    busy=statistics.mean(work.busy_s for work in measured.work) / seconds, core=measured.core,
                )  # fmt: skip


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--parts", default="divided,shared,lists")
    options.add_argument("--seconds", type=float, default=3)
    return record.run(options, benchmark)


if __name__ == "__main__":
    sys.exit(main())
