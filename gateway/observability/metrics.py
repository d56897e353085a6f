"""Prometheus metrics, made from what the core reports and, at each scrape, from the pools' own counts.

The names are part of the contract (README, "Watch it"). Everything runs in one event loop, so counts are
plain numbers, which become prometheus-client's families at a scrape: its own counters take a lock for each
step. The series that an event adds to are looked up once and kept.
"""

import asyncio
import platform
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from itertools import accumulate
from math import inf
from operator import add
from typing import Any, NamedTuple

from prometheus_client import Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from gateway.core.balancer import BREAKER_STATES, Outcome
from gateway.core.events import (
    AddressesFound,
    BadAnswerSeen,
    BatchEnded,
    BatchRetried,
    CacheUsed,
    CallRejected,
    CallServed,
    ConfigRead,
    DeploymentGone,
    Event,
    FellBack,
    Hedged,
    ItemsShared,
    KeysRead,
    LookUpFailed,
    NameGone,
    RequestEnded,
)
from gateway.pool import PoolStats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

SECONDS = (
    0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.075,
    0.1, 0.15, 0.25, 0.5, 0.75, 1, 2.5, 5, 10, 30, 60,
)  # fmt: skip
_SHORT_SECONDS = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1,
)  # fmt: skip
ITEMS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024, 2048)
_RATIOS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
_ITEMS_PER_S = (
    1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000,
)  # fmt: skip

_TOGETHER = 64
"""So many events are counted together."""

_PREFIX = "infinity_gateway"


class Values(NamedTuple):
    """What a histogram holds: how many lie up to each bound but above the one before it, those above all
    bounds last; and the sum of all.
    """

    counts: Sequence[int]
    sum: float


class Totals(NamedTuple):
    """Counts since the start, by what stands in the keys. All of them only grow."""

    statuses: Mapping[tuple[str, ...], int]
    """Of requests."""
    request_seconds: Mapping[tuple[str, ...], Values]
    """Of all requests; bounds: SECONDS."""
    items: Mapping[tuple[str, ...], int]
    """Model → answered."""
    queue_seconds: Mapping[tuple[str, ...], Values]
    """Model → a value for each call that was answered; bounds: SECONDS."""
    batches: Mapping[tuple[str, ...], int]
    """Model, deployment, outcome."""
    batch_items: Mapping[tuple[str, ...], Values]
    """Model, deployment; bounds: ITEMS."""
    batch_seconds: Mapping[tuple[str, ...], Values]
    """Model, deployment; bounds: SECONDS."""


class _Count:
    """One series of a counter."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


class _Distribution:
    """One series of a histogram: how many values lie up to each bound, but above the one before it."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class _Counter:
    """A counter. Without labels it has its one series from the beginning."""

    def __init__(self, name: str, text: str, *labels: str) -> None:
        self._name = name
        self._text = text
        self._labels = labels
        self.series: dict[tuple[str, ...], _Count] = {}
        if not labels:
            self.of()

    def of(self, *values: str) -> _Count:
        """The series with these values of the labels."""
        return self.series.setdefault(values, _Count())

    def add_one(self, *values: str) -> None:
        self.of(*values).value += 1

    def summed(self, *labels: str) -> dict[tuple[str, ...], int]:
        """By these of its labels."""
        places = [self._labels.index(label) for label in labels]
        found: dict[tuple[str, ...], int] = {}
        for values, count in self.series.items():
            key = tuple(values[place] for place in places)
            found[key] = found.get(key, 0) + count.value
        return found

    def family(self) -> Metric:
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for values, count in self.series.items():
            family.add_metric(values, count.value)
        return family


class _Histogram:
    """A histogram. Without labels it has its one series from the beginning."""

    def __init__(self, name: str, text: str, bounds: Sequence[float], *labels: str) -> None:
        self._name = name
        self._text = text
        self._bounds = bounds
        self._shown = [str(floatToGoString(bound)) for bound in (*bounds, inf)]  # type: ignore[no-untyped-call]
        self._labels = labels
        self.series: dict[tuple[str, ...], _Distribution] = {}
        if not labels:
            self.of()

    def of(self, *values: str) -> _Distribution:
        """The series with these values of the labels."""
        return self.series.setdefault(values, _Distribution(self._bounds))

    def summed(self, *labels: str) -> dict[tuple[str, ...], Values]:
        """By these of its labels."""
        places = [self._labels.index(label) for label in labels]
        found: dict[tuple[str, ...], Values] = {}
        for values, series in self.series.items():
            key = tuple(values[place] for place in places)
            counts, total = found.get(key, ((0,) * len(series.counts), 0.0))
            found[key] = Values([*map(add, counts, series.counts)], total + series.sum)
        return found

    def family(self) -> Metric:
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for values, series in self.series.items():
            buckets = zip(self._shown, accumulate(series.counts), strict=True)
            family.add_metric(values, list(buckets), series.sum)
        return family


class Metrics(Collector):
    """A listener to events, and the text that Prometheus scrapes."""

    def __init__(
        self,
        version: str,
        build: str,
        stats: Callable[[], Sequence[PoolStats]],
        dropped: Callable[[], int] = lambda: 0,
    ) -> None:
        """`build` is pure or compiled; `stats` are those of the pools; `dropped` says how many lines of the
        log were."""
        self._build = version, build, platform.python_version()
        self._stats = stats
        self._dropped = dropped
        self._families: list[_Counter | _Histogram] = []
        self._requests = self._counter("requests", "Requests answered.", "route", "model", "status")
        self._request_duration = self._histogram(
            "request_duration_seconds",
            "Time from a request's arrival to its answer.",
            SECONDS,
            "route",
            "model",
        )
        self._request_items = self._histogram("request_items", "Items in a request.", ITEMS, "route", "model")
        self._overhead = self._histogram(
            "overhead_seconds",
            "Time of a request in the gateway that was neither queue nor upstream.",
            _SHORT_SECONDS,
            "route",
        )
        self._queue_wait = self._histogram(
            "queue_wait_seconds",
            "Time until the last item of a call left for a server.",
            SECONDS,
            "model",
            "class",
        )
        self._items = self._counter("items", "Items answered.", "model")
        self._tokens = self._counter("tokens", "Tokens charged.", "model")
        self._batch_items = self._histogram(
            "batch_items", "Items in a batch sent to a server.", ITEMS, "model", "deployment"
        )
        self._batch_calls = self._histogram(
            "batch_calls", "Callers whose items shared a batch.", ITEMS, "model", "deployment"
        )
        self._batch_fill = self._histogram(
            "batch_fill_ratio",
            "Items in a batch, as a share of the most that fit.",
            _RATIOS,
            "model",
            "deployment",
        )
        self._batch_padding = self._histogram(
            "batch_padding_ratio",
            "Share of a batch that is padding up to its longest item, in estimated tokens.",
            _RATIOS,
            "model",
            "deployment",
        )
        self._upstream_duration = self._histogram(
            "upstream_duration_seconds", "Time a server took for a batch.", SECONDS, "model", "deployment"
        )
        self._upstream_throughput = self._histogram(
            "upstream_throughput_items_per_second",
            "Items of a batch divided by the time the server took for it.",
            _ITEMS_PER_S,
            "model",
            "deployment",
        )
        self._upstream_requests = self._counter(
            "upstream_requests", "Batches sent.", "model", "deployment", "outcome"
        )
        self._bad_answers = self._counter(
            "upstream_bad_answers", "Answers that did not fit their batch.", "model", "deployment", "reason"
        )
        self._retries = self._counter("retries", "Batches tried again on another server.", "reason")
        self._hedges = self._counter(
            "hedges", "Late batches that were sent to a second server as well, when answered.", "outcome"
        )
        self._shared = self._counter(
            "deduplicated_items",
            "Items that somebody else had asked for already, and that were not sent again.",
        )
        self._cached = self._counter("cache_items", "Items looked up in the cache.", "result")
        self._fallbacks = self._counter("fallbacks", "Calls handed to a fallback model.")
        self._rejected = self._counter("rejected", "Calls refused.", "reason")
        self._loop_lag = self._histogram(
            "event_loop_lag_seconds", "How late the event loop woke a timer.", _SHORT_SECONDS
        )
        self._look_up_failures = self._counter(
            "look_up_failures", "Look-ups of a name that failed or found nothing.", "host"
        )
        self._refused_configs = self._counter(
            "config_reload_failures", "Configurations and keys that were refused."
        )
        self._events: list[Event] = []
        """What was told and is not counted yet."""
        self._refused: dict[str, bool] = {}
        """Of each file that is read again, whether it was when it was read last."""
        self._addresses: dict[str, int] = {}
        self._request_series = cache(self._request_series_of)
        self._served_series = cache(self._served_series_of)
        self._batch_series = cache(self._batch_series_of)
        self._listeners: dict[type[Any], Callable[[Any], None]] = {
            RequestEnded: self._request_ended,
            CallServed: self._call_served,
            BatchEnded: self._batch_ended,
            BadAnswerSeen: lambda e: self._bad_answers.add_one(e.model, e.deployment, e.reason),
            BatchRetried: lambda e: self._retries.add_one(e.reason),
            Hedged: lambda e: self._hedges.add_one(e.outcome),
            ItemsShared: self._items_shared,
            CacheUsed: self._cache_used,
            FellBack: lambda _: self._fallbacks.add_one(),
            CallRejected: lambda e: self._rejected.add_one(e.reason),
            DeploymentGone: self._forget,
            KeysRead: self._keys_read,
            ConfigRead: self._config_read,
            AddressesFound: self._addresses_found,
            LookUpFailed: self._look_up_failed,
            NameGone: self._name_gone,
        }

    def __call__(self, event: Event) -> None:
        events = self._events
        events.append(event)
        # (The caller of a CallServed still waits; the batch that answered it is told next.)
        if len(events) >= _TOGETHER and type(event) is not CallServed:
            self._count()

    def _count(self) -> None:
        """Count what was told. Many at once cost half of what each costs between other work, which has
        driven all that this needs from the processor's caches."""
        events, self._events = self._events, []
        for event in events:
            if listener := self._listeners.get(type(event)):
                listener(event)

    def on_loop_lag(self, seconds: float) -> None:
        self._loop_lag.of().observe(seconds)

    def totals(self) -> Totals:
        """What `/status` tells of them."""
        self._count()
        return Totals(
            statuses=self._requests.summed("status"),
            request_seconds=self._request_duration.summed(),
            items=self._items.summed("model"),
            queue_seconds=self._queue_wait.summed("model"),
            batches=self._upstream_requests.summed("model", "deployment", "outcome"),
            batch_items=self._batch_items.summed("model", "deployment"),
            batch_seconds=self._upstream_duration.summed("model", "deployment"),
        )

    def render(self) -> bytes:
        """What `GET /metrics` answers."""
        return generate_latest(self)

    def collect(self) -> Iterator[Metric]:
        self._count()
        for family in self._families:
            yield family.family()
        build = _gauge("build_info", "Always 1.", "version", "build", "python")
        build.add_metric(self._build, 1)
        yield build
        tasks = _gauge("event_loop_tasks", "Tasks of the event loop that have not ended.")
        with suppress(RuntimeError):  # where none runs
            tasks.add_metric([], len(asyncio.all_tasks()))
        yield tasks
        lines = CounterMetricFamily(
            f"{_PREFIX}_log_lines_dropped_total", "Lines that standard error did not take fast enough."
        )
        lines.add_metric([], self._dropped())
        yield lines
        if self._refused:
            reloaded = _gauge(
                "config_reload_success", "1 when configuration and keys were fine when they were read last."
            )
            reloaded.add_metric([], not any(self._refused.values()))
            yield reloaded
        addresses = _gauge("discovered_addresses", "Addresses that a name is known to have.", "host")
        for host, count in self._addresses.items():
            addresses.add_metric([host], count)
        yield addresses
        yield from _gauges(self._stats())

    def _keys_read(self, event: KeysRead) -> None:
        self._read_again(event.path, refused=bool(event.problem))

    def _config_read(self, event: ConfigRead) -> None:
        if not event.problems:
            self._refused.clear()  # it may name another file of keys, or none
        self._read_again(event.path, refused=bool(event.problems))

    def _read_again(self, path: str, *, refused: bool) -> None:
        self._refused[path] = refused
        self._refused_configs.of().value += refused

    def _addresses_found(self, event: AddressesFound) -> None:
        self._addresses[event.name] = event.addresses
        self._look_up_failures.of(event.name)

    def _look_up_failed(self, event: LookUpFailed) -> None:
        self._addresses[event.name] = event.addresses
        self._look_up_failures.add_one(event.name)

    def _name_gone(self, event: NameGone) -> None:
        self._addresses.pop(event.name, None)
        self._look_up_failures.series.pop((event.name,), None)

    def _request_ended(self, event: RequestEnded) -> None:
        route, model, status, duration_s, items, queue_s, upstream_s = event
        requests, durations, sizes, overheads = self._request_series(route, model, status)
        overhead_s = duration_s - queue_s - upstream_s
        if overhead_s < 0:
            overhead_s = 0.0
        requests.value += 1
        # As `observe` does it: this is for each call, and a call of it costs more than what it does.
        durations.counts[bisect_left(SECONDS, duration_s)] += 1
        durations.sum += duration_s
        if items:
            sizes.counts[bisect_left(ITEMS, items)] += 1
            sizes.sum += items
        overheads.counts[bisect_left(_SHORT_SECONDS, overhead_s)] += 1
        overheads.sum += overhead_s

    def _request_series_of(
        self, route: str, model: str, status: int
    ) -> tuple[_Count, _Distribution, _Distribution, _Distribution]:
        return (
            self._requests.of(route, model, str(status)),
            self._request_duration.of(route, model),
            self._request_items.of(route, model),
            self._overhead.of(route),
        )

    def _call_served(self, event: CallServed) -> None:
        model, call_class, items, tokens, queue_s = event
        queue_waits, items_in_all, tokens_in_all = self._served_series(model, call_class)
        queue_waits.counts[bisect_left(SECONDS, queue_s)] += 1
        queue_waits.sum += queue_s
        items_in_all.value += items
        tokens_in_all.value += tokens

    def _served_series_of(self, model: str, call_class: str) -> tuple[_Distribution, _Count, _Count]:
        return self._queue_wait.of(model, call_class), self._items.of(model), self._tokens.of(model)

    def _batch_ended(self, event: BatchEnded) -> None:
        requests, items, calls, fill, padding, duration, throughput = self._batch_series(
            event.model, event.deployment, event.reason
        )
        requests.value += 1
        items.observe(event.items)
        calls.observe(event.calls)
        fill.observe(event.fill_ratio)
        padding.observe(event.padding_ratio)
        duration.observe(event.duration_s)
        if event.outcome is Outcome.SUCCESS and event.duration_s > 0:
            throughput.observe(event.items / event.duration_s)

    def _batch_series_of(
        self, model: str, deployment: str, reason: str
    ) -> tuple[
        _Count, _Distribution, _Distribution, _Distribution, _Distribution, _Distribution, _Distribution
    ]:
        return (
            self._upstream_requests.of(model, deployment, reason or Outcome.SUCCESS.value),
            self._batch_items.of(model, deployment),
            self._batch_calls.of(model, deployment),
            self._batch_fill.of(model, deployment),
            self._batch_padding.of(model, deployment),
            self._upstream_duration.of(model, deployment),
            self._upstream_throughput.of(model, deployment),
        )

    def _items_shared(self, event: ItemsShared) -> None:
        self._shared.of().value += event.items

    def _cache_used(self, event: CacheUsed) -> None:
        self._cached.of("hit").value += event.hits
        self._cached.of("miss").value += event.misses

    def _forget(self, event: DeploymentGone) -> None:
        """The series of a deployment go when it goes."""
        self._batch_series.cache_clear()
        for family in (
            self._batch_items,
            self._batch_calls,
            self._batch_fill,
            self._batch_padding,
            self._upstream_duration,
            self._upstream_throughput,
            self._upstream_requests,
            self._bad_answers,
        ):
            for values in [values for values in family.series if values[:2] == event]:
                del family.series[values]

    def _counter(self, name: str, text: str, *labels: str) -> _Counter:
        counter = _Counter(f"{_PREFIX}_{name}_total", text, *labels)
        self._families.append(counter)
        return counter

    def _histogram(self, name: str, text: str, bounds: Sequence[float], *labels: str) -> _Histogram:
        histogram = _Histogram(f"{_PREFIX}_{name}", text, bounds, *labels)
        self._families.append(histogram)
        return histogram


def _gauges(pools: Sequence[PoolStats]) -> Iterator[Metric]:
    """Read from the pools at each scrape: a count kept twice is a count that drifts."""
    in_flight = _gauge("in_flight_requests", "Calls that wait or are under way.", "model")
    queued = _gauge("queued_items", "Items that wait for a server.", "model", "class")
    up = _gauge("deployment_up", "1 while the server gets work.", "model", "deployment")
    different = _gauge(
        "deployment_different_vectors",
        "1 while the server gets no work because its vectors are not those of its pool.",
        *("model", "deployment"),
    )
    breaker = _gauge("breaker_state", "1 for the state that it is in.", "model", "deployment", "state")
    items = _gauge("deployment_in_flight_items", "Items under way at the server.", "model", "deployment")
    limit = _gauge("deployment_concurrency_limit", "Most batches under way at once.", "model", "deployment")
    busy = _gauge(
        "deployment_busy_ratio", "Share of the last seconds in which it had work.", "model", "deployment"
    )
    service = _gauge(
        "deployment_service_seconds",
        "The fitted time of a batch of n items: l + (o + a n + b n longest), lengths in tokens.",
        *("model", "deployment", "parameter"),
    )
    for pool in pools:
        in_flight.add_metric([pool.model], pool.in_flight_calls)
        for call_class, count in pool.queued_items.items():
            queued.add_metric([pool.model, call_class], count)
        for deployment in pool.deployments:
            labels = [pool.model, deployment.name]
            up.add_metric(labels, deployment.state == "up")
            different.add_metric(labels, deployment.state == "different")
            for state in BREAKER_STATES:
                breaker.add_metric([*labels, state], deployment.breaker == state)
            items.add_metric(labels, deployment.items)
            limit.add_metric(labels, deployment.limit)
            busy.add_metric(labels, deployment.busy_ratio)
            for parameter, seconds in deployment.service.items():
                service.add_metric([*labels, parameter], seconds)
    yield from (in_flight, queued, up, different, breaker, items, limit, busy, service)


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{_PREFIX}_{name}", text, labels=labels)
