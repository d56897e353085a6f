"""Prometheus metrics, made from what the core reports and, at each scrape, from the pools' own counts.

The names are part of the contract (README, "Watch it"). Labelled children are looked up once and kept: a
look-up costs more than the observation.
"""

import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from gateway.core.balancer import Outcome
from gateway.core.events import (
    BadAnswerSeen,
    BatchEnded,
    BatchRetried,
    CallRejected,
    CallServed,
    DeploymentGone,
    Event,
    FellBack,
    RequestEnded,
)
from gateway.pool import PoolStats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (
    0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.075,
    0.1, 0.15, 0.25, 0.5, 0.75, 1, 2.5, 5, 10, 30, 60,
)  # fmt: skip
_SHORT_SECONDS = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1,
)  # fmt: skip
_ITEMS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024, 2048)
_RATIOS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
_ITEMS_PER_S = (
    1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000,
)  # fmt: skip

_PREFIX = "infinity_gateway"


class Metrics:
    """A listener to events, and the text that Prometheus scrapes."""

    def __init__(self, version: str, stats: Callable[[], Sequence[PoolStats]]) -> None:
        self.registry = CollectorRegistry()
        self._requests = self._counter("requests", "Requests answered.", "route", "model", "status")
        self._request_duration = self._histogram(
            "request_duration_seconds",
            "Time from a request's arrival to its answer.",
            _SECONDS,
            "route",
            "model",
        )
        self._request_items = self._histogram(
            "request_items", "Items in a request.", _ITEMS, "route", "model"
        )
        self._overhead = self._histogram(
            "overhead_seconds",
            "Time of a request in the gateway that was neither queue nor upstream.",
            _SHORT_SECONDS,
            "route",
        )
        self._queue_wait = self._histogram(
            "queue_wait_seconds",
            "Time until the last item of a call left for a server.",
            _SECONDS,
            "model",
            "class",
        )
        self._items = self._counter("items", "Items answered.", "model")
        self._tokens = self._counter("tokens", "Tokens charged.", "model")
        self._batch_items = self._histogram(
            "batch_items", "Items in a batch sent to a server.", _ITEMS, "model", "deployment"
        )
        self._batch_calls = self._histogram(
            "batch_calls", "Callers whose items shared a batch.", _ITEMS, "model", "deployment"
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
            "Share of a batch that is padding up to its longest item, by length in characters.",
            _RATIOS,
            "model",
            "deployment",
        )
        self._upstream_duration = self._histogram(
            "upstream_duration_seconds", "Time a server took for a batch.", _SECONDS, "model", "deployment"
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
        self._fallbacks = self._counter("fallbacks", "Calls handed to a fallback model.")
        self._rejected = self._counter("rejected", "Calls refused.", "reason")
        self._loop_lag = self._histogram(
            "event_loop_lag_seconds", "How late the event loop woke a timer.", _SHORT_SECONDS
        )
        build = Gauge(f"{_PREFIX}_build_info", "Always 1.", ("version", "python"), registry=self.registry)
        build.labels(version, platform.python_version()).set(1)
        self.registry.register(_Gauges(stats))
        self._batch_children = cache(self._batch_children_of)
        self._outcome_child = cache(self._upstream_requests.labels)
        self._request_children = cache(self._request_children_of)
        self._served_children = cache(self._served_children_of)
        self._listeners: dict[type[Any], Callable[[Any], None]] = {
            RequestEnded: self._request_ended,
            CallServed: self._call_served,
            BatchEnded: self._batch_ended,
            BadAnswerSeen: lambda e: self._bad_answers.labels(e.model, e.deployment, e.reason).inc(),
            BatchRetried: lambda e: self._retries.labels(e.reason).inc(),
            FellBack: lambda _: self._fallbacks.inc(),
            CallRejected: lambda e: self._rejected.labels(e.reason).inc(),
            DeploymentGone: self._forget,
        }

    def __call__(self, event: Event) -> None:
        if listener := self._listeners.get(type(event)):
            listener(event)

    def on_loop_lag(self, seconds: float) -> None:
        self._loop_lag.observe(seconds)

    def render(self) -> bytes:
        """What `GET /metrics` answers."""
        return generate_latest(_WithoutCreated(self.registry))

    def _request_ended(self, event: RequestEnded) -> None:
        requests, duration, items, overhead = self._request_children(event.route, event.model, event.status)
        requests.inc()
        duration.observe(event.duration_s)
        if event.items:
            items.observe(event.items)
        overhead.observe(max(0.0, event.duration_s - event.queue_s - event.upstream_s))

    def _request_children_of(
        self, route: str, model: str, status: int
    ) -> tuple[Counter, Histogram, Histogram, Histogram]:
        return (
            self._requests.labels(route, model, str(status)),
            self._request_duration.labels(route, model),
            self._request_items.labels(route, model),
            self._overhead.labels(route),
        )

    def _call_served(self, event: CallServed) -> None:
        queue_wait, items, tokens = self._served_children(event.model, event.call_class)
        queue_wait.observe(event.queue_s)
        items.inc(event.items)
        tokens.inc(event.tokens)

    def _served_children_of(self, model: str, call_class: str) -> tuple[Histogram, Counter, Counter]:
        return (
            self._queue_wait.labels(model, call_class),
            self._items.labels(model),
            self._tokens.labels(model),
        )

    def _batch_ended(self, event: BatchEnded) -> None:
        items, calls, fill, padding, duration, throughput = self._batch_children(
            event.model, event.deployment
        )
        self._outcome_child(event.model, event.deployment, event.reason or event.outcome.value).inc()
        items.observe(event.items)
        calls.observe(event.calls)
        fill.observe(event.fill_ratio)
        padding.observe(event.padding_ratio)
        duration.observe(event.duration_s)
        if event.outcome is Outcome.SUCCESS and event.duration_s > 0:
            throughput.observe(event.items / event.duration_s)

    def _batch_children_of(self, *labels: str) -> tuple[Histogram, ...]:
        return tuple(histogram.labels(*labels) for histogram in self._batch_histograms)

    @property
    def _batch_histograms(self) -> tuple[Histogram, ...]:
        return (
            self._batch_items,
            self._batch_calls,
            self._batch_fill,
            self._batch_padding,
            self._upstream_duration,
            self._upstream_throughput,
        )

    def _forget(self, event: DeploymentGone) -> None:
        """The series of a deployment go when it goes."""
        self._batch_children.cache_clear()
        self._outcome_child.cache_clear()
        for histogram in self._batch_histograms:
            histogram.remove(event.model, event.deployment)
        for counter in (self._upstream_requests, self._bad_answers):
            counter.remove_by_labels({"model": event.model, "deployment": event.deployment})

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"{_PREFIX}_{name}_total", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(f"{_PREFIX}_{name}", text, labels, buckets=buckets, registry=self.registry)


class _WithoutCreated(Collector):
    """What a registry holds, less the times of creation: they double the number of series."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family


class _Gauges(Collector):
    """Gauges read from the pools at each scrape: a count kept twice is a count that drifts."""

    def __init__(self, stats: Callable[[], Sequence[PoolStats]]) -> None:
        self._stats = stats

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return self._families([])

    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield from self._families(self._stats())

    def _families(self, pools: Sequence[PoolStats]) -> Iterator[GaugeMetricFamily]:
        in_flight = _gauge("in_flight_requests", "Calls that wait or are under way.", "model")
        queued = _gauge("queued_items", "Items that wait for a server.", "model", "class")
        up = _gauge("deployment_up", "1 while the server gets work.", "model", "deployment")
        items = _gauge("deployment_in_flight_items", "Items under way at the server.", "model", "deployment")
        limit = _gauge(
            "deployment_concurrency_limit", "Most batches under way at once.", "model", "deployment"
        )
        for pool in pools:
            in_flight.add_metric([pool.model], pool.in_flight_calls)
            for call_class, count in pool.queued_items.items():
                queued.add_metric([pool.model, call_class], count)
            for deployment in pool.deployments:
                labels = [pool.model, deployment.name]
                up.add_metric(labels, deployment.state == "up")
                items.add_metric(labels, deployment.items)
                limit.add_metric(labels, deployment.in_flight_max)
        yield from (in_flight, queued, up, items, limit)


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{_PREFIX}_{name}", text, labels=labels)
