"""Files as LiteLLM's users have them: each loads, and what has no effect here is told."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from gateway.cli import main
from gateway.config import Config, load
from gateway.core.settings import PoolSettings
from gateway.messages import Scalar, Task

HERE = Path(__file__).parent
ENVIRON = {
    "E5_API_BASE": "http://e5:7997",
    "INFINITY_API_BASE": "http://a:7997,http://b:7997",
    "INFINITY_API_KEY": "sk-servers",
    "LITELLM_MASTER_KEY": "sk-callers",
    "RERANK_API_BASE": "http://rerank:7997",
    "RERANK_KEY": "sk-reranker",
}
"""All that the files need; what names other providers' keys, Redis or a database is not set."""


@dataclass(frozen=True)
class Pool:
    model: str
    servers: tuple[str, ...]
    task: Task | None = None
    params: Mapping[str, Scalar] = field(default_factory=dict)
    timeouts_s: tuple[float, ...] = (30,)


POOLS: dict[str, dict[str, Pool]] = {
    "minimal": {
        "custom-infinity-rerank": Pool("rerank", ("https://localhost:8080",), params={"raw_scores": True}),
        "custom-infinity-embedding": Pool("provider/custom-embedding-v1", ("http://localhost:8080",)),
    },
    "load_balanced": {
        "bge-m3": Pool(
            "BAAI/bge-m3",
            ("http://gpu-0:7997/v1", "http://gpu-1:7997/v1", "http://cpu-0:7997/v1"),
            Task.EMBED,
            timeouts_s=(60, 60, 120),
        )
    },
    "fallbacks": {
        "reranker": Pool(
            "BAAI/bge-reranker-v2-m3", ("http://rerank-large:7997",), Task.RERANK, timeouts_s=(20,)
        ),
        "reranker-small": Pool(
            "mixedbread-ai/mxbai-rerank-xsmall-v1",
            ("http://rerank-small:7997",),
            Task.RERANK,
            timeouts_s=(20,),
        ),
    },
    "aliases": {"nomic": Pool("nomic-ai/nomic-embed-text-v1.5", ("http://infinity:7997",), Task.EMBED)},
    "production": {
        "e5": Pool("intfloat/multilingual-e5-large", ("http://e5:7997",), Task.EMBED),
        "reranker": Pool("BAAI/bge-reranker-base", ("http://rerank:7997",), Task.RERANK),
    },
    "environment": {
        "embeddings": Pool(
            "BAAI/bge-small-en-v1.5", ("http://a:7997", "http://b:7997"), Task.EMBED, timeouts_s=(30, 30)
        ),
        "reranker": Pool(
            "mixedbread-ai/mxbai-rerank-base-v1", ("http://reranker:7997",), Task.RERANK, timeouts_s=(15,)
        ),
    },
    "anchors": {
        "jina-reranker": Pool(
            "jinaai/jina-reranker-v1-tiny-en",
            ("http://infinity-0:7997", "http://infinity-1:7997", "http://infinity-2:7997"),
            Task.RERANK,
            {"raw_scores": True},
            (30, 30, 30),
        )
    },
    "many_providers": {"clip": Pool("openai/clip-vit-base-patch32", ("http://infinity:7997",))},
    "tag_routing": {
        "bge-small": Pool(
            "BAAI/bge-small-en-v1.5", ("http://free:7997", "http://paid:7997"), timeouts_s=(30, 30)
        )
    },
    "classifier": {
        "embeddings": Pool("sentence-transformers/all-MiniLM-L6-v2", ("http://infinity:7997",), Task.EMBED),
        "reranker": Pool("mixedbread-ai/mxbai-rerank-xsmall-v1", ("http://infinity:7997",), Task.RERANK),
        "emotions": Pool("SamLowe/roberta-base-go_emotions", ("http://infinity:7997",), Task.CLASSIFY),
    },
}

IDLE: dict[str, list[str]] = {
    "minimal": [],
    "load_balanced": [
        "model_list[0].litellm_params.max_parallel_requests",
        "model_list[0].litellm_params.rpm",
        "model_list[0].litellm_params.tpm",
        "model_list[2].litellm_params.order",
        "model_list[2].litellm_params.stream_timeout",
        "router_settings.allowed_fails",
        "router_settings.cooldown_time",
        "router_settings.enable_pre_call_checks",
        "router_settings.retry_after",
    ],
    "fallbacks": [
        "litellm_settings.allowed_fails",
        "litellm_settings.context_window_fallbacks",
        "litellm_settings.default_fallbacks",
    ],
    "aliases": [
        "model_list[0].litellm_params.drop_params",
        "router_settings.model_group_alias.text-embedding-ada-002.hidden",
    ],
    "production": [
        *(
            f"general_settings.{key}"
            for key in (
                *("alerting", "alerting_threshold", "background_health_checks"),
                *("database_connection_pool_limit", "database_url", "disable_spend_logs"),
                *("global_max_parallel_requests", "health_check_interval", "max_request_size_mb"),
                *("proxy_batch_write_at", "store_model_in_db"),
            )
        ),
        *(
            f"litellm_settings.{key}"
            for key in (
                *("budget_duration", "cache", "cache_params", "callbacks", "drop_params"),
                *("failure_callback", "json_logs", "max_budget", "set_verbose", "success_callback"),
            )
        ),
        "model_list[0].litellm_params.input_cost_per_token",
        "model_list[0].litellm_params.metadata",
        "model_list[0].litellm_params.tags",
        *(f"router_settings.redis_{key}" for key in ("host", "password", "port")),
    ],
    "environment": [],
    "anchors": ["model_list[0].litellm_params.num_retries"],
    "many_providers": ["credential_list", "guardrails"],
    "tag_routing": [
        *(f"general_settings.{k}" for k in ("allowed_routes", "enable_jwt_auth", "litellm_key_header_name")),
        "model_list[0].litellm_params.extra_headers",
        "model_list[0].litellm_params.tags",
        "router_settings.allowed_fails_policy",
        "router_settings.default_max_parallel_requests",
        "router_settings.enable_tag_filtering",
        "router_settings.retry_policy",
        "router_settings.routing_strategy_args",
    ],
    "classifier": [
        *(f"general_settings.{key}" for key in ("admission_queue_timeout_seconds", "cancel_on_disconnect")),
        *(f"litellm_settings.{key}" for key in ("force_ipv4", "ssl_verify", "telemetry")),
    ],
}


def loaded(name: str) -> Config:
    return load(HERE / f"{name}.yaml", ENVIRON)


def summary(pool: PoolSettings) -> Pool:
    (model,) = {deployment.server_model for deployment in pool.deployments}
    return Pool(
        str(model),
        tuple(deployment.api_base for deployment in pool.deployments),
        pool.task,
        pool.params,
        tuple(deployment.timeout_s for deployment in pool.deployments),
    )


def test_every_file_is_looked_at() -> None:
    """None lies here unread."""
    assert {path.stem for path in HERE.glob("*.yaml")} == set(POOLS) == set(IDLE)


@pytest.mark.parametrize("name", POOLS)
def test_a_file_resolves_to_its_infinity_models(name: str) -> None:
    """Each pool with its servers, what they can do, what is passed on and how long they may take."""
    assert {pool.name: summary(pool) for pool in loaded(name).engine.pools} == POOLS[name]


@pytest.mark.parametrize("name", IDLE)
def test_check_names_each_key_without_effect_once(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its path and a reason; no secret is among it."""
    for variable, value in ENVIRON.items():
        monkeypatch.setenv(variable, value)

    assert main(["check", str(HERE / f"{name}.yaml")]) == 0

    out = capsys.readouterr().out
    told = re.findall(r"^warning: (\S+): has no effect here, since \S+ \S+ .+$", out, re.MULTILINE)
    assert sorted(told) == IDLE[name]
    assert not re.search("sk-(servers|callers|reranker|from-the-file|1234)", out)


@pytest.mark.parametrize("name", POOLS)
def test_entries_of_other_providers_are_skipped_one_by_one(name: str) -> None:
    """Whatever keys they have, and though their variables are not set."""
    entries = yaml.safe_load((HERE / f"{name}.yaml").read_text())["model_list"]
    others = [
        f"model_list[{i}]"
        for i, each in enumerate(entries)
        if not each["litellm_params"]["model"].startswith("infinity/")
    ]

    warnings = [warning.partition(": ") for warning in loaded(name).warnings]

    assert [path for path, _, text in warnings if text.startswith("skipped, since ")] == others


def test_what_the_router_is_told() -> None:
    """Fallbacks, aliases, retries, and where they stand in the file."""
    assert loaded("fallbacks").engine.router.fallbacks == {"reranker": ("reranker-small",)}
    assert loaded("fallbacks").engine.retry.retries_max == 1
    assert loaded("load_balanced").engine.retry.retries_max == 3
    assert loaded("load_balanced").engine.limits.timeout_s == 60
    assert [d.weight for d in loaded("load_balanced").engine.pools[0].deployments] == [2, 2, 1]
    assert loaded("aliases").engine.router.aliases == {
        "text-embedding-3-small": "nomic",
        "text-embedding-ada-002": "nomic",
    }
    assert loaded("aliases").engine.pools[0].prefixes == {
        "query": "search_query: ",
        "document": "search_document: ",
    }


@pytest.mark.parametrize(
    ("name", "keys"),
    [("production", ["sk-servers"] * 2), ("environment", ["sk-from-the-file"] * 2 + ["sk-reranker"])],
)
def test_keys_come_from_where_the_file_says(name: str, keys: list[str]) -> None:
    """A variable of the file wins over the environment's."""
    pools = loaded(name).engine.pools
    found = [each.api_key.reveal() for pool in pools for each in pool.deployments if each.api_key]
    assert found == keys


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        ("load_balanced", "simple-shuffle"),
        ("production", "usage-based-routing-v2"),
        ("tag_routing", "latency-based-routing"),
    ],
)
def test_another_strategy_is_told(name: str, strategy: str) -> None:
    """And what is done instead."""
    wanted = f"router_settings.routing_strategy: {strategy} is not offered here; least-busy is used"
    assert wanted in loaded(name).warnings
