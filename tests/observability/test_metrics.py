"""Our own counters against prometheus-client's: the same text after the same values."""

import random

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from gateway.core.balancer import Outcome
from gateway.core.events import BadAnswerSeen, BatchEnded, CallServed, DeploymentGone, Event, RequestEnded
from gateway.observability.metrics import Metrics

LABELS = ["plain", "", 'a "quoted" one', "back\\slash", "two\nlines", "ümlaut"]


def lines(text: bytes, name: str) -> list[str]:
    """All of one family, without the times of creation that we leave out."""
    found = [line for line in text.decode().splitlines() if f"infinity_gateway_{name}" in line]
    assert found
    return [line for line in found if "_created" not in line]


def ended(model: str, deployment: str, duration_s: float = 0.1) -> BatchEnded:
    return BatchEnded(model, deployment, Outcome.SUCCESS, "", 2, 1, 0.5, 0.0, duration_s)


@pytest.mark.parametrize("seed", range(5))
def test_counts_and_buckets_are_those_of_prometheus_client(seed: int) -> None:
    """Values on a bound, between bounds, past the last and below the first."""
    rng = random.Random(seed)
    registry = CollectorRegistry()
    bounds = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
    lag = Histogram(
        "infinity_gateway_event_loop_lag_seconds",
        "How late the event loop woke a timer.",
        buckets=bounds,
        registry=registry,
    )
    served = Counter("infinity_gateway_tokens_total", "Tokens charged.", ["model"], registry=registry)
    metrics = Metrics("1", "pure", list)
    for _ in range(500):
        seconds = rng.choice([*bounds, rng.random(), 10 * rng.random(), 0.0, 1e-9, 1e9])
        lag.observe(seconds)
        metrics.on_loop_lag(seconds)
        model, tokens = rng.choice(LABELS), rng.randrange(10**9)
        served.labels(model).inc(tokens)
        metrics(CallServed(model, "bulk", 1, tokens, 0.0))

    for name in ("event_loop_lag_seconds", "tokens"):
        assert lines(metrics.render(), name) == lines(generate_latest(registry), name)


def test_what_has_not_happened_is_0_where_there_are_no_labels() -> None:
    """A series that appears with its first event has no rate for it."""
    text = Metrics("1", "pure", list).render().decode()

    assert "\ninfinity_gateway_fallbacks_total 0.0\n" in text
    assert '\ninfinity_gateway_event_loop_lag_seconds_bucket{le="+Inf"} 0.0\n' in text


def test_a_deployment_that_goes_takes_its_series_along() -> None:
    """Its own, and not those of its model elsewhere or of its name under another model."""
    metrics = Metrics("1", "pure", list)
    for model in ("a", "b"):
        for deployment in ("x", "y"):
            metrics(ended(model, deployment))
            metrics(BadAnswerSeen(model, deployment, "count"))

    metrics(DeploymentGone("a", "x"))
    text = metrics.render().decode()

    assert 'deployment="x",model="a"' not in text
    for kept in ('deployment="y",model="a"', 'deployment="x",model="b"', 'deployment="y",model="b"'):
        assert text.count(f"batch_items_count{{{kept}}} 1.0") == 1
        assert text.count(f"upstream_bad_answers_total{{{kept},") == 1


def test_a_deployment_that_comes_again_begins_at_0() -> None:
    """What was looked up for the old one is not used for the new."""
    metrics = Metrics("1", "pure", list)
    events: list[Event] = [ended("a", "x"), ended("a", "x"), DeploymentGone("a", "x"), ended("a", "x")]
    for event in events:
        metrics(event)

    text = metrics.render().decode()

    assert 'upstream_duration_seconds_count{deployment="x",model="a"} 1.0' in text
    assert 'upstream_requests_total{deployment="x",model="a",outcome="success"} 1.0' in text


def test_a_request_without_items_is_no_request_of_0_items() -> None:
    """It was refused before they were counted; its series is there all the same."""
    metrics = Metrics("1", "pure", list)
    metrics(RequestEnded("/x", "m", 400, 0.1, 0, 0.0, 0.0))

    text = metrics.render().decode()

    assert 'request_items_count{model="m",route="/x"} 0.0' in text
    assert 'request_duration_seconds_count{model="m",route="/x"} 1.0' in text


@pytest.mark.parametrize("many", [0, 1, 63, 64, 65, 1000])
def test_a_scrape_tells_all_that_has_happened_and_each_once(many: int) -> None:
    metrics = Metrics("1", "pure", list)
    for _ in range(many):
        metrics(CallServed("a", "interactive", 2, 3, 0.0))
        metrics(ended("a", "x"))

    first, second = metrics.render().decode(), metrics.render().decode()

    for text in (first, second):
        assert (f'infinity_gateway_items_total{{model="a"}} {2 * many}.0' in text) == bool(many)
    assert metrics.totals().batches == ({("a", "x", "success"): many} if many else {})
    assert sum(metrics.totals().queue_seconds[("a",)].counts if many else ()) == many
