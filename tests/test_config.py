"""The configuration: what a file or the environment comes to, and what is said of one that cannot be used."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.config import Config, callers_key, describe, from_environment, load, parse
from gateway.core.settings import DeploymentSettings, DrainSettings, EngineSettings, PoolSettings, Secret
from gateway.errors import ConfigError
from gateway.messages import Task

IDLE = "has no effect here, since"
ROOM = "a server is given what it has room for, which is learned"

LITELLM_DOCS = """
model_list:
  - model_name: custom-infinity-rerank
    litellm_params:
      model: infinity/rerank
      api_base: https://localhost:8080
      api_key: os.environ/INFINITY_API_KEY
      raw_scores: True # <- EITHER SET PROVIDER-SPECIFIC PARAMS HERE OR IN REQUEST BODY
  - model_name: custom-infinity-embedding
    litellm_params:
      model: infinity/provider/custom-embedding-v1
      api_base: http://localhost:8080
      api_key: os.environ/INFINITY_API_KEY
"""

MIXED_PROVIDERS = """
model_list:
  - model_name: gpt-4o
    litellm_params:
      model: azure/gpt-4o-eu
      api_base: https://my-endpoint.openai.azure.com/
      api_key: os.environ/AZURE_API_KEY_EU
      api_version: 2024-02-01
      rpm: 6
  - model_name: qwen3
    litellm_params: {model: hosted_vllm/Qwen/Qwen3-30B-A3B-FP8, api_base: "http://vllm:8000", api_key: key}
    model_info: {max_tokens: 65536, mode: chat}
  - model_name: nomic
    litellm_params: {model: infinity/nomic-ai/nomic-embed-text-v1.5, api_base: "http://infinity:7997", rpm: 6}
    model_info:
      mode: embedding
      input_cost_per_token: 0
      output_vector_size: 768
      prefixes: {query: "search_query: ", document: "search_document: "}
  - model_name: bge-reranker
    litellm_params: {model: infinity/BAAI/bge-reranker-v2-m3, api_base: "http://infinity:7997", tpm: 5, rpm: }
    model_info: {mode: rerank, id: reranker-1, access_groups: [rag]}
  - model_name: whisper
    litellm_params: {model: openai/Systran/faster-whisper-small, api_base: "http://speaches:8000"}
    model_info: {mode: audio_transcription}
litellm_settings:
  drop_params: true
  callbacks: [prometheus]
  cache: true
  cache_params: {type: redis, password: os.environ/REDIS_PASSWORD}
  request_timeout: 45
  num_retries: 1
  fallbacks: [{gpt-4o: [qwen3]}]
general_settings:
  master_key: sk-1234
  database_url: postgresql://user:hunter2@host/db
  alerting: [slack]
router_settings:
  routing_strategy: usage-based-routing-v2
  redis_host: os.environ/REDIS_HOST
  model_group_alias: {gpt-3.5-turbo: gpt-4o, text-embedding-ada-002: {model: nomic, hidden: true}}
"""

PRODUCTION = """
environment_variables:
  INFINITY_API_KEY: sk-from-file
  UPSTREAM_TIMEOUT: 12.5
x: &unused 1
model_list:
  - &bge
    model_name: bge-small
    litellm_params: &bge-params
      model: infinity/BAAI/bge-small-en-v1.5
      api_base: http://infinity-0:7997/
      timeout: os.environ/UPSTREAM_TIMEOUT
      weight: 1
      tags: [gpu]
      extra_body: {priority: 3}
    model_info: {mode: embedding}
  - model_name: bge-small
    litellm_params:
      <<: *bge-params
      api_base: http://infinity-1:7997/v1/
      api_key: ""
      weight: 3
    model_info: {mode: embedding}
  - model_name: bge-base
    litellm_params: {model: infinity/BAAI/bge-base-en-v1.5, api_bases: ["http://b-0:7997", "http://b-1:7997"]}
    model_info: {mode: embedding}
  - model_name: reranker
    litellm_params: {model: infinity/BAAI/bge-reranker-base, api_base: os.environ/RERANK_BASE, timeout: 5}
    model_info: {mode: rerank}
  - model_name: reranker-small
    litellm_params: {model: infinity/mxbai-rerank-xsmall-v1, api_base: "http://r:7997/infinity"}
    model_info: {mode: rerank}
router_settings:
  routing_strategy: least-busy
  num_retries: 3
  timeout: 20
  fallbacks:
    - reranker: [reranker-small]
    - bge-small: [bge-base]
      allow_different_vectors: true
  model_group_alias: {text-embedding-3-small: bge-small}
general_settings: {master_key: os.environ/GATEWAY_MASTER_KEY}
gateway:
  batching: {items_max: 32, in_flight_max: 4, max_wait_ms: 2.5}
  admission: {queued_items_max: 5000}
  health: {failures_max: 5, silent_s_max: 20}
  retry: {budget_ratio: 0}
  limits: {body_bytes_max: 1000000, timeout_s_max: 60}
  drain: {grace_s: 0, in_flight_s_max: 45}
  cache: {}
  discovery:
  keys: []
  default_models: {embedding: bge-small, rerank: reranker}
  rerank_by_embedding: true
  rerank_documents: string
  allow_anonymous: false
""".replace("x: &unused 1\n", "")

ONE = """
model_list:
  - model_name: a
    litellm_params:
      model: infinity/a
      api_base: http://h:7997
"""


MODEL = "expected infinity/ and the server's name of the model"
NUMBER = "a number above 0 and up to 10^12"
AGREE = "model_list[1]: must agree with model_list[0], which has the same model_name: "
NOWHERE = "expected http://HOST:PORT, got nothing, and INFINITY_API_BASE is not set"
TWICE = "expected each server once, got that of model_list[0].litellm_params.api_base again"


def entry(**params: object) -> dict[str, Any]:
    """An entry of `model_list` named "a", with `params` over those that it needs."""
    return {
        "model_name": "a",
        "litellm_params": {"model": "infinity/a", "api_base": "http://h:7997"} | params,
    }


def pool(name: str, mode: str | None = None) -> dict[str, Any]:
    params = {"model": f"infinity/{name}", "api_base": f"http://{name}:7997"}
    return {"model_name": name, "litellm_params": params, "model_info": {"mode": mode}}


def read(*entries: dict[str, Any], environ: Any = None, **sections: Any) -> Config:
    return parse(yaml.safe_dump({"model_list": list(entries), **sections}, sort_keys=False), environ or {})


def problems(*entries: dict[str, Any], environ: Any = None, **sections: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as raised:
        read(*entries, environ=environ, **sections)
    return raised.value.problems


def refused(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as raised:
        parse(text, {})
    return raised.value.problems


def only_pool(config: Config) -> PoolSettings:
    (found,) = config.engine.pools
    return found


def only_deployment(config: Config) -> DeploymentSettings:
    (found,) = only_pool(config).deployments
    return found


# Whole files.


def test_the_example_of_litellms_documentation_loads() -> None:
    """Parameters that LiteLLM promises to pass on are passed on; only the first infinity/ is taken off."""
    config = parse(LITELLM_DOCS, {"INFINITY_API_KEY": "sk-inf"})

    rerank, embedding = config.engine.pools
    assert rerank == PoolSettings(
        name="custom-infinity-rerank",
        deployments=(
            DeploymentSettings(
                name="localhost:8080",
                api_base="https://localhost:8080",
                server_model="rerank",
                api_key=Secret("sk-inf"),
            ),
        ),
        params={"raw_scores": True},
    )
    assert embedding.deployments[0].server_model == "provider/custom-embedding-v1"
    assert config.warnings == ()
    assert config.engine == EngineSettings(pools=(rerank, embedding))


def test_a_file_for_many_providers_serves_its_infinity_models() -> None:
    """Other providers and LiteLLM's own keys become one warning each, and their variables need not be set."""
    config = parse(MIXED_PROVIDERS, {})

    nomic, reranker = config.engine.pools
    assert (nomic.task, reranker.task) == (Task.EMBED, Task.RERANK)
    assert nomic.prefixes == {"query": "search_query: ", "document": "search_document: "}
    assert nomic.params == {}
    assert nomic.deployments[0].timeout_s == 45
    assert config.engine.retry.retries_max == 1
    assert config.engine.router.aliases == {"text-embedding-ada-002": "nomic"}
    assert config.engine.router.fallbacks == {}
    assert config.master_key == Secret("sk-1234")
    assert sorted(config.warnings) == [
        f"general_settings.alerting: {IDLE} nothing is called back; see logs, traces and /metrics",
        f"general_settings.database_url: {IDLE} there is no database; this file holds all there is",
        f"litellm_settings.cache: {IDLE} the cache is gateway.cache, in this process's memory",
        f"litellm_settings.cache_params: {IDLE} the cache is gateway.cache, in this process's memory",
        f"litellm_settings.callbacks: {IDLE} nothing is called back; see logs, traces and /metrics",
        f"litellm_settings.drop_params: {IDLE} no parameter has to be dropped for Infinity",
        "litellm_settings.fallbacks[0].gpt-4o: left out, since 'gpt-4o' is skipped",
        "litellm_settings.fallbacks[0].gpt-4o[0]: left out, since 'qwen3' is skipped",
        "model_list[0]: skipped, since 'azure/gpt-4o-eu' is not an infinity/ model",
        "model_list[1]: skipped, since 'hosted_vllm/Qwen/Qwen3-30B-A3B-FP8' is not an infinity/ model",
        f"model_list[2].litellm_params.rpm: {IDLE} {ROOM} (and 1 more like it)",
        f"model_list[3].litellm_params.tpm: {IDLE} {ROOM}",
        "model_list[4]: skipped, since 'openai/Systran/faster-whisper-small' is not an infinity/ model",
        f"router_settings.model_group_alias.text-embedding-ada-002.hidden: {IDLE} every name is listed",
        "router_settings.model_group_alias['gpt-3.5-turbo']: left out, since 'gpt-4o' is skipped",
        f"router_settings.redis_host: {IDLE} gateways share no state",
        "router_settings.routing_strategy: usage-based-routing-v2 is not offered here; least-busy is used",
    ]


def test_a_file_that_uses_everything_loads() -> None:
    """Each section reaches its record."""
    config = parse(PRODUCTION, {"GATEWAY_MASTER_KEY": "sk-gw\n", "RERANK_BASE": "https://rerank.example"})

    engine = config.engine
    small, base, reranker, _ = engine.pools
    assert small.deployments == (
        DeploymentSettings(
            "infinity-0:7997",
            "http://infinity-0:7997",
            "BAAI/bge-small-en-v1.5",
            Secret("sk-from-file"),
            timeout_s=12.5,
        ),
        DeploymentSettings(
            "infinity-1:7997/v1",
            "http://infinity-1:7997/v1",
            "BAAI/bge-small-en-v1.5",
            None,
            weight=3,
            timeout_s=12.5,
        ),
    )
    assert small.params == {"priority": 3}
    assert [deployment.name for deployment in base.deployments] == ["b-0:7997", "b-1:7997"]
    assert base.deployments[0].timeout_s == 20
    assert (reranker.deployments[0].name, reranker.deployments[0].timeout_s) == ("rerank.example:443", 5)
    assert (engine.batching.items_max, engine.batching.in_flight_max) == (32, 4)
    assert engine.batching.wait_s_max == 0.0025
    assert engine.admission.queued_items_max == 5000
    assert (engine.health.failures_max, engine.health.silent_s_max) == (5, 20)
    assert (engine.retry.retries_max, engine.retry.budget_ratio) == (3, 0)
    assert (engine.limits.body_bytes_max, engine.limits.timeout_s, engine.limits.timeout_s_max) == (
        10**6,
        20,
        60,
    )
    assert engine.router.aliases == {"text-embedding-3-small": "bge-small"}
    assert engine.router.fallbacks == {"reranker": ("reranker-small",), "bge-small": ("bge-base",)}
    assert engine.router.default_models == {Task.EMBED: "bge-small", Task.RERANK: "reranker"}
    assert engine.rerank_by_embedding
    assert config.drain == DrainSettings(grace_s=0, in_flight_s_max=45)
    assert config.rerank_documents == "string"
    assert config.master_key == Secret("sk-gw")
    why = "the server that will answer first is taken"
    assert config.warnings == (f"model_list[0].litellm_params.tags: {IDLE} {why} (and 1 more like it)",)


def test_every_problem_of_a_file_is_told_at_once() -> None:
    """Reading goes on after a problem, in whatever section it is."""
    found = problems(
        entry(api_bse="x", weight=0),
        entry(model=None, api_base="http://i"),
        router_settings={"num_retrys": 1},
        general_settings={"master_key": ""},
        gateway={"batching": {"in_flight_max": True}},
        generl_settings={},
    )

    assert found == (
        "generl_settings: unknown key; did you mean general_settings?",
        "router_settings.num_retrys: unknown key; did you mean num_retries?",
        f"model_list[0].litellm_params.weight: expected {NUMBER}, got 0",
        "model_list[0].litellm_params.api_bse: unknown key; did you mean api_base?",
        f"model_list[1].litellm_params.model: {MODEL}, got nothing",
        "gateway.batching.in_flight_max: expected a whole number above 0 and up to 10^12, got true",
        "general_settings.master_key: expected a key, got blank text; leave it out to have none",
    )


# YAML itself.


def test_load_reads_a_file(tmp_path: Path) -> None:
    """A byte-order mark, as editors on Windows write it, is no part of the text."""
    path = tmp_path / "config.yaml"
    path.write_text(ONE, encoding="utf-8-sig")

    assert load(path, {}) == parse(ONE, {})


def test_load_says_when_a_file_cannot_be_read(tmp_path: Path) -> None:
    """A missing file and one that is not text are configuration errors that name it."""
    other = tmp_path / "binary.yaml"
    other.write_bytes(b"a: \xff")

    for path in (tmp_path / "missing.yaml", tmp_path, other):
        with pytest.raises(ConfigError, match=path.name):
            load(path, {})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- a", "line 1, column 1: expected a mapping, got another kind of value"),
        ("\njust text", "line 2, column 1: expected a mapping, got another kind of value"),
        ("a: [1\nb: 2", "line 2, column 2: not valid YAML: expected ',' or ']', but got ':'"),
        ("a: 1\nb: *c", "line 2, column 4: not valid YAML: found undefined alias"),
        ("a: \x07", "line 1, column 4: a character that YAML does not allow"),
        ("a: !!int x", "line 1, column 4: not valid YAML: a value that is not what its tag says"),
        ("a: !!python/name:os.system", "line 1, column 4: not valid YAML: could not determine"),
        ("a: {" * 2000, "line 1, column 1: not valid YAML: nested too deeply"),
    ],
)
def test_what_is_not_a_yaml_mapping_is_told_with_its_line(text: str, problem: str) -> None:
    """Syntax has no path, so the problem begins with line and column."""
    (found,) = refused(text)

    assert found.startswith(problem)


def test_a_key_given_twice_is_refused() -> None:
    """YAML forbids it, and one of the two values would be lost; merged keys may be given again."""
    assert "model_list[0].litellm_params.api_base: given twice, on lines 6 and 7" in refused(
        ONE + "      api_base: http://other\n"
    )
    assert "gateway.drain: given twice, on lines 7 and 7" in refused(ONE + "gateway: {drain: {}, drain: {}}")


def test_an_empty_file_says_what_to_put_in() -> None:
    """Also one of comments only, or of sections without a model."""
    expected = "model_list: expected at least one infinity/ model, or INFINITY_API_BASE in the environment"

    for text in (
        "",
        "# nothing",
        "gateway: {}",
        "model_list: []",
        "router_settings: {fallbacks: [{a: [b]}]}",
    ):
        assert refused(text) == (expected,)


def test_a_date_is_text() -> None:
    """An unquoted date in a parameter reaches the server as it was written."""
    assert only_pool(parse(ONE + "      revision: 2024-02-01\n", {})).params == {"revision": "2024-02-01"}


# Variables.


def test_a_variable_is_looked_up_wherever_a_string_is_used() -> None:
    """In lists, aliases, and parameters passed on, where it stays text."""
    config = read(
        entry(
            api_base=None,
            api_bases=["os.environ/BASE"],
            level="os.environ/LEVEL",
            extra_body={"x": "os.environ/LEVEL"},
        ),
        router_settings={"model_group_alias": {"b": "os.environ/NAME"}, "num_retries": "os.environ/LEVEL"},
        gateway={"allow_anonymous": "os.environ/YES", "health": {"probe_interval_s": "os.environ/LEVEL"}},
        environ={"BASE": "http://x", "LEVEL": "7", "NAME": "a", "YES": "True"},
    )

    assert only_deployment(config).api_base == "http://x"
    assert only_pool(config).params == {"level": "7", "x": "7"}
    assert config.engine.router.aliases == {"b": "a"}
    assert (config.engine.retry.retries_max, config.engine.health.probe_interval_s) == (7, 7.0)
    assert config.allow_anonymous


def test_a_missing_variable_is_named_with_its_place() -> None:
    """Both are needed to put it right."""
    assert problems(entry(api_key="os.environ/NOPE", weight="os.environ/NOR")) == (
        "model_list[0].litellm_params.api_key: the environment variable NOPE is not set",
        "model_list[0].litellm_params.weight: the environment variable NOR is not set",
    )


def test_what_a_variable_holds_is_not_quoted() -> None:
    """It may be a secret that is in the wrong place."""
    found = problems(entry(timeout="os.environ/KEY"), environ={"KEY": "sk-hidden"})

    assert found == (f"model_list[0].litellm_params.timeout: expected {NUMBER}, got what KEY holds",)


def test_a_quoted_number_is_not_a_number() -> None:
    """Only what a variable holds is parsed, since the environment has nothing but text."""
    (found,) = problems(entry(timeout="30"))

    assert found.endswith("timeout: expected a number above 0 and up to 10^12, got '30'")


def test_environment_variables_of_the_file_win() -> None:
    """As in LiteLLM, they are set before anything else is read."""
    config = read(
        entry(),
        environment_variables={"INFINITY_API_KEY": "file", "GATEWAY_MASTER_KEY": "os.environ/OTHER", "N": 1},
        environ={"INFINITY_API_KEY": "environment", "OTHER": "sk-other"},
    )

    assert only_deployment(config).api_key == Secret("file")
    assert config.master_key == Secret("sk-other")


# Addresses.


@pytest.mark.parametrize(
    ("given_base", "api_base", "name"),
    [
        ("http://h:7997/", "http://h:7997", "h:7997"),
        ("HTTP://Host", "http://host", "host:80"),
        ("https://h/v1//", "https://h/v1", "h:443/v1"),
        ("http://h/v1/embeddings", "http://h/v1", "h:80/v1"),
        ("http://h:1/rerank/", "http://h:1", "h:1"),
        ("http://h/Team/embeddings-eu", "http://h/Team/embeddings-eu", "h:80/Team/embeddings-eu"),
        ("http://[::1]:7997", "http://[::1]:7997", "[::1]:7997"),
        (" http://h ", "http://h", "h:80"),
    ],
)
def test_an_address_is_brought_into_one_form(given_base: str, api_base: str, name: str) -> None:
    """Trailing slashes and a route at the end go; a path stays and is part of the name."""
    deployment = only_deployment(read(entry(api_base=given_base)))

    assert (deployment.api_base, deployment.name) == (api_base, name)


@pytest.mark.parametrize(
    ("given_base", "problem"),
    [
        (
            "http://user:hunter2@h",
            "expected http://HOST:PORT without a user or password; a key goes into api_key",
        ),
        (
            "http//user:hunter2@h",
            "expected http://HOST:PORT without a user or password; a key goes into api_key",
        ),
        ("http://h?key=hunter2", "expected http://HOST:PORT without a query; a key goes into api_key"),
        ("http://h/#hunter2", "expected http://HOST:PORT without a fragment; a key goes into api_key"),
        ("ftp://h", "expected http://HOST:PORT or https://HOST:PORT, got 'ftp://h'"),
        ("h:7997", "expected http://HOST:PORT or https://HOST:PORT, got 'h:7997'"),
        ("http://", "expected http://HOST:PORT or https://HOST:PORT, got 'http://'"),
        ("http://h:0", "expected http://HOST:PORT or https://HOST:PORT, got 'http://h:0'"),
        ("http://h:99999", "expected http://HOST:PORT or https://HOST:PORT, got 'http://h:99999'"),
        ("http://[::1", "expected http://HOST:PORT or https://HOST:PORT, got 'http://[::1'"),
        ("http://a b", "expected http://HOST:PORT or https://HOST:PORT, got 'http://a b'"),
        ("", "expected http://HOST:PORT, got ''"),
        (7997, "expected http://HOST:PORT, got 7997"),
    ],
)
def test_an_address_that_cannot_be_called_is_refused(given_base: object, problem: str) -> None:
    """The problem says what was expected, and does not quote what may be a password."""
    assert problems(entry(api_base=given_base)) == (f"model_list[0].litellm_params.api_base: {problem}",)


def test_an_entry_without_an_address_takes_infinity_api_base() -> None:
    """LiteLLM's rerank does, so its documentation leaves the address out."""
    config = read(entry(api_base=None), environ={"INFINITY_API_BASE": "http://x, http://y"})

    assert [deployment.name for deployment in only_pool(config).deployments] == ["x:80", "y:80"]
    assert problems(entry(api_base=None)) == (f"model_list[0].litellm_params.api_base: {NOWHERE}",)


def test_one_server_is_in_a_pool_once() -> None:
    """Twice it would get twice its share; a default port spelled out makes no other server."""
    assert problems(entry(api_base="http://h"), entry(api_base="http://h:80/")) == (
        f"model_list[1].litellm_params.api_base: {TWICE}",
    )


def test_deployments_of_a_pool_have_names_of_their_own() -> None:
    """Names are labels of metrics; http and https on one port differ in nothing else."""
    config = read(entry(api_base=None, api_bases=["http://h:80", "https://h:80"]))

    assert [deployment.name for deployment in only_pool(config).deployments] == ["h:80", "https://h:80"]


def test_api_base_and_api_bases_exclude_each_other() -> None:
    """One of them would be ignored."""
    assert problems(entry(api_bases=["http://x"])) == (
        "model_list[0].litellm_params.api_bases: expected api_base or api_bases, got both",
    )


# Models.


def test_entries_of_one_name_form_a_pool() -> None:
    """They keep their own addresses, keys, weights and times."""
    config = read(entry(weight=2), entry(api_base="http://i", timeout=3, api_key="k"))

    first, second = only_pool(config).deployments
    assert (first.name, first.weight, first.timeout_s, first.api_key) == ("h:7997", 2, 30, None)
    assert (second.name, second.weight, second.timeout_s, second.api_key) == ("i:80", 1, 3, Secret("k"))


@pytest.mark.parametrize(
    ("params", "difference"),
    [
        ({"model": "infinity/b"}, "litellm_params.model is 'a' there and 'b' here"),
        ({"raw_scores": True}, "litellm_params.raw_scores is nothing there and true here"),
        ({"level": True}, "litellm_params.level is 1 there and true here"),
        ({"a\nb": 1}, "litellm_params['a\\nb'] is nothing there and 1 here"),
    ],
)
def test_entries_that_would_mix_vectors_in_a_pool_are_refused(
    params: dict[str, Any], difference: str
) -> None:
    """They must agree on the server's model and on what is passed on, to the type."""
    found = problems(entry(level=1), entry(api_base="http://i", **({"level": 1} | params)))

    assert found == (AGREE + difference,)


def test_entries_of_a_pool_agree_on_mode_and_prefixes() -> None:
    """A mode may be left out of some; a prefix may not, since it changes vectors."""
    first, second = entry(), entry(api_base="http://i")
    second["model_info"] = {"mode": "embedding"}
    assert only_pool(read(first, second)).task is only_pool(read(second, first)).task is Task.EMBED

    first["model_info"] = {"mode": "rerank", "prefixes": {"query": "q: "}}
    assert problems(first, second) == (
        AGREE + "model_info.prefixes.query is 'q: ' there and nothing here",
        AGREE + "model_info.mode is 'rerank' there and 'embedding' here",
    )


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        (
            lambda: entry(model="infinity/"),
            f"litellm_params.model: {MODEL}, got 'infinity/'",
        ),
        (
            lambda: entry(model=5),
            f"litellm_params.model: {MODEL}, got 5",
        ),
        (lambda: entry(model="infinity/*"), ": a wildcard stands for no model here; list each one"),
        (
            lambda: entry() | {"model_name": None},
            "model_name: expected the name that callers use, got nothing",
        ),
        (lambda: entry() | {"model_name": 7}, "model_name: expected the name that callers use, got 7"),
        (lambda: entry() | {"model_inf": {}}, "model_inf: unknown key; did you mean model_info?"),
        (lambda: {"model_name": "a"}, "litellm_params: expected a mapping, got nothing"),
        (
            lambda: entry() | {"model_info": {"mode": "chat"}},
            "model_info.mode: expected one of embedding, rerank",
        ),
        (
            lambda: entry() | {"model_info": {"prefix": {}}},
            "model_info.prefix: unknown key; did you mean prefixes?",
        ),
        (
            lambda: entry() | {"model_info": {"prefixes": {"queries": "q"}}},
            "model_info.prefixes.queries: unknown key; expected one of query, document",
        ),
    ],
)
def test_an_entry_that_cannot_be_served_is_refused(made: Callable[[], dict[str, Any]], problem: str) -> None:
    """The problem begins with the path of what is wrong."""
    found = problems(made(), pool("b"))

    assert any(line.startswith("model_list[0]") and problem in line for line in found)


def test_a_file_with_other_providers_only_is_refused() -> None:
    """There is nothing to serve."""
    assert problems(entry(model="openai/a"), entry(model="bge-small")) == (
        "model_list: expected at least one infinity/ model, or INFINITY_API_BASE in the environment",
    )


def test_a_file_without_models_takes_the_servers_of_the_environment() -> None:
    """So that settings can be given where models are learned; their names are not known yet."""
    config = parse(
        "gateway: {batching: {items_max: 8}}\nrouter_settings: {timeout: 9, model_group_alias: {x: y/z}}",
        {"INFINITY_API_BASE": "http://x"},
    )

    assert config.engine.servers == (DeploymentSettings("x:80", "http://x", timeout_s=9),)
    assert config.engine.batching.items_max == 8
    assert config.engine.router.aliases == {"x": "y/z"}


# What is passed on.


def test_a_near_miss_of_a_known_key_is_refused() -> None:
    """Passed on it would be ignored by the server, and the setting lost without a word."""
    found = problems(entry(wieght=2, apikey="sk-hidden", max_retrys=1, tag="x", dimension=3))

    assert [line.removeprefix("model_list[0].litellm_params.") for line in found] == [
        "wieght: unknown key; did you mean weight?",
        "apikey: unknown key; did you mean api_key?",
        "max_retrys: unknown key; did you mean max_retries?",
        "tag: unknown key; did you mean tags?",
        "dimension: unknown key; did you mean dimensions?",
    ]


@pytest.mark.parametrize(
    "key",
    [
        "raw_scores",
        "truncate",
        "instruction",
        "task",
        "prompt_name",
        "input_type",
        "max_length",
        "max_tokens_per_doc",
    ],
)
def test_a_parameter_that_only_servers_know_is_passed_on(key: str) -> None:
    """It needs not be known here."""
    assert only_pool(read(entry(**{key: 1.5}))).params == {key: 1.5}


def test_litellms_own_parameters_are_not_passed_on() -> None:
    """Each is reported once, with the place where it is first."""
    own: dict[str, object] = {
        "rpm": 1, "tags": ["a"], "input_cost_per_token": 0, "cache_read_input_token_cost": 0,
        "num_retries": 2, "max_retries": 1, "stream_timeout": 3, "drop_params": True, "user": "u",
        "encoding_format": "float", "aws_secret_access_key": "x", "model_info": {}, "max_budget": 1,
    }  # fmt: skip
    config = read(entry(**own), entry(api_base="http://i", rpm=2))

    assert only_pool(config).params == {}
    assert len(config.warnings) == len(own)
    assert f"model_list[0].litellm_params.rpm: {IDLE} {ROOM} (and 1 more like it)" in config.warnings


@pytest.mark.parametrize(
    "key", ["dimensions", "modality", "input", "query", "documents", "top_n", "return_documents"]
)
def test_what_belongs_in_each_call_is_refused(key: str) -> None:
    """One for all calls would silently change what a caller asked for, in extra_body as well."""
    assert problems(entry(**{key: 1}), pool("b")) == (
        f"model_list[0].litellm_params.{key}: belongs in each call, not in the configuration",
    )
    assert problems(entry(extra_body={key: 1})) == (
        f"model_list[0].litellm_params.extra_body.{key}: belongs in each call, not in the configuration",
    )


def test_a_secret_is_never_passed_on() -> None:
    """It would be in every request's body, in `check` and in the repr of the settings."""
    found = problems(entry(hf_token="hunter2", extra_body={"api_key": "hunter2", "password": "hunter2"}))

    assert len(found) == 3
    assert "hunter2" not in "".join(found)


def test_extra_body_wins_over_other_parameters() -> None:
    """It is how a parameter is passed on whose name is near to one of LiteLLM's."""
    config = read(entry(level=1, extra_body={"level": 2, "tag": "x", "none": None}))

    assert only_pool(config).params == {"level": 2, "tag": "x", "none": None}


@pytest.mark.parametrize("value", [[1], {"a": 1}, float("nan"), float("inf"), 2**64])
def test_only_scalars_that_json_can_carry_are_passed_on(value: object) -> None:
    """Parameters are part of what makes a batch, and of every request."""
    (found,) = problems(entry(level=value))

    assert found.startswith(
        "model_list[0].litellm_params.level: expected text, a number, true, false or null, got "
    )


def test_at_most_sixteen_parameters_are_passed_on() -> None:
    """As many as a caller may send."""
    sixteen = {f"param{i}": i for i in range(16)}

    assert only_pool(read(entry(**sixteen))).params == sixteen
    assert problems(entry(**sixteen, extra_body={"one": 1})) == (
        "model_list[0].litellm_params: expected at most 16 parameters for the servers, got 17",
    )


# Keys of servers and callers.


def test_a_servers_key_comes_from_its_entry_or_the_environment() -> None:
    """A blank one means none, so that a server without a key is not shown the others'."""
    environ = {"INFINITY_API_KEY": " sk-env\n"}

    assert only_deployment(read(entry(), environ=environ)).api_key == Secret("sk-env")
    assert only_deployment(read(entry(api_key="sk-own"), environ=environ)).api_key == Secret("sk-own")
    assert only_deployment(read(entry(api_key=""), environ=environ)).api_key is None
    assert only_deployment(read(entry())).api_key is None


def test_the_callers_key_comes_from_the_file_before_the_environment() -> None:
    """GATEWAY_MASTER_KEY comes before LITELLM_MASTER_KEY."""
    both = {"GATEWAY_MASTER_KEY": "gateway", "LITELLM_MASTER_KEY": "litellm"}

    assert read(entry(), general_settings={"master_key": "file"}, environ=both).master_key == Secret("file")
    assert read(entry(), general_settings={"master_key": None}, environ=both).master_key == Secret("gateway")
    assert read(entry(), environ={"LITELLM_MASTER_KEY": "litellm"}).master_key == Secret("litellm")
    assert read(entry()).master_key is None


@pytest.mark.parametrize("blank", ["", "  ", "\n"])
def test_a_blank_callers_key_is_refused(blank: str) -> None:
    """A secret that failed to mount must not open the gateway to all."""
    assert problems(entry(), general_settings={"master_key": blank}) == (
        "general_settings.master_key: expected a key, got blank text; leave it out to have none",
    )
    environ = {"GATEWAY_MASTER_KEY": blank}
    remedy = "expected a key, got blank text; set GATEWAY_MASTER_KEY or unset it"
    named = {"master_key": "os.environ/GATEWAY_MASTER_KEY"}
    assert problems(entry(), environ=environ) == (f"GATEWAY_MASTER_KEY: {remedy}",)
    assert problems(entry(), environ=environ, general_settings=named) == (
        f"general_settings.master_key: {remedy}",
    )
    with pytest.raises(ConfigError, match="set LITELLM_MASTER_KEY or unset it"):
        from_environment({"INFINITY_API_BASE": "http://x", "LITELLM_MASTER_KEY": blank})


@pytest.mark.parametrize("key", [123456789, ["hunter2"], {"hunter2": 1}, "hunter2\nhunter2"])
def test_a_key_of_another_kind_is_refused_unseen(key: object) -> None:
    """What came may be the key all the same."""
    found = "".join(problems(entry(api_key=key), general_settings={"master_key": key}))

    assert "expected a key: text on one line" in found
    assert "hunter2" not in found
    assert "123456789" not in found


# Sections.


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        (
            {"batching": {"items_max": 0}},
            "batching.items_max: expected a whole number above 0 and up to 10^12, got 0",
        ),
        (
            {"batching": {"items_max": 8.0}},
            "batching.items_max: expected a whole number above 0 and up to 10^12, got 8.0",
        ),
        ({"batching": {"in_flight_max": 0}}, "batching.in_flight_max: expected a whole number above 0"),
        ({"batching": {"tokens_max": "auto"}}, "batching.tokens_max: expected a whole number above 0"),
        (
            {"batching": {"max_wait_ms": -1}},
            "batching.max_wait_ms: expected a number from 0 to 10^12, got -1",
        ),
        ({"batching": {"max_items": 1}}, "batching.max_items: unknown key; did you mean items_max?"),
        ({"batching": {"wait_s_max": 1}}, "batching.wait_s_max: unknown key; did you mean max_wait_ms?"),
        ({"health": {"probe_timeout_s": float("inf")}}, "health.probe_timeout_s: expected a number above 0"),
        ({"health": {"probe_timeout_s": float("nan")}}, "health.probe_timeout_s: expected a number above 0"),
        ({"limits": {"timeout_s": 601}}, "limits.timeout_s_max: expected at least timeout_s, 601, got 600"),
        ({"limits": []}, "limits: expected a mapping, got a list"),
        ({"rerank_documents": "text"}, "rerank_documents: expected one of auto, string, object, got 'text'"),
        ({"allow_anonymous": "yes"}, "allow_anonymous: expected true or false, got 'yes'"),
        ({"cache": {"bytes_max": -1}}, "cache.bytes_max: expected a whole number from 0"),
        (
            {"discovery": {"dns": "x"}},
            "discovery.dns: expected HOST:PORT, a name in DNS and the port of each",
        ),
        ({"batchin": {}}, "batchin: unknown key; did you mean batching?"),
        (
            {"default_models": {"embed": "b"}},
            "default_models.embed: no model is named 'b'; expected one of a",
        ),
        (
            {"default_models": {"embed": "a", "embedding": "a"}},
            "default_models.embedding: expected embed or embedding",
        ),
    ],
)
def test_a_setting_of_the_gateway_that_does_not_fit_is_refused(section: dict[str, Any], problem: str) -> None:
    """The problem has the path, what was expected and what came."""
    (found,) = problems(entry(), gateway=section)

    assert found.startswith(f"gateway.{problem}")


def test_settings_left_out_or_empty_have_their_defaults() -> None:
    """`gateway:` with nothing below it is no mistake, nor is an empty section that is not known yet."""
    empty: dict[str, Any] = {
        "batching": {"items_max": "auto", "in_flight_max": "auto"},
        "limits": None,
        "cache": {},
        "discovery": None,
        "keys": [],
    }

    assert read(entry(), gateway=empty).engine == read(entry()).engine
    assert read(entry(), gateway=None, router_settings=None, environment_variables=None) == read(entry())


def test_times_come_from_the_nearest_setting() -> None:
    """An entry's own, then router_settings, then litellm_settings, then 30 seconds."""
    litellm = {"litellm_settings": {"request_timeout": 50}}
    router = {"router_settings": {"timeout": 40}}

    assert only_deployment(read(entry(timeout=5), **router, **litellm)).timeout_s == 5
    assert only_deployment(read(entry(), **router, **litellm)).timeout_s == 40
    assert only_deployment(read(entry(), **litellm)).timeout_s == 50
    assert only_deployment(read(entry())).timeout_s == 30
    assert read(entry(), **litellm).engine.limits.timeout_s == 30
    assert read(entry(), **router, gateway={"limits": {"timeout_s": 7}}).engine.limits.timeout_s == 7


def test_a_long_time_of_the_router_may_be_asked_for() -> None:
    """The longest time that a caller may ask for is never less than what it gets without asking."""
    limits = read(entry(), router_settings={"timeout": 900}).engine.limits

    assert (limits.timeout_s, limits.timeout_s_max) == (900, 900)


def test_router_settings_win_over_litellm_settings() -> None:
    """As in LiteLLM."""
    config = read(
        pool("a", "rerank"),
        pool("b", "rerank"),
        router_settings={"num_retries": 0, "fallbacks": [{"a": ["b"]}]},
        litellm_settings={"num_retries": 5, "fallbacks": [{"b": ["a"]}]},
    )

    assert config.engine.retry.retries_max == 0
    assert config.engine.router.fallbacks == {"a": ("b",)}


@pytest.mark.parametrize(
    ("section", "key", "hint"),
    [
        ("router_settings", "model_group_aliases", "did you mean model_group_alias?"),
        ("general_settings", "masterkey", "did you mean master_key?"),
        ("general_settings", "allow_anonymous", "expected one of master_key"),
        ("litellm_settings", "request_timout", "did you mean request_timeout?"),
    ],
)
def test_a_key_that_nobody_knows_is_refused_with_the_nearest(section: str, key: str, hint: str) -> None:
    """Outside `litellm_params` no key is passed on, so that it would be lost."""
    assert problems(entry(), **{section: {key: 1}}) == (f"{section}.{key}: unknown key; {hint}",)


def test_included_files_are_refused() -> None:
    """Left out without a word, their models would be missing."""
    assert problems(entry(), include=["models.yaml"]) == (
        "include: other files are not read; put what they hold here",
    )


# Names of models.


def test_an_alias_names_a_model() -> None:
    """It may be used where a model is named, and needs a name of its own."""
    config = read(
        pool("a", "rerank"),
        pool("b", "rerank"),
        router_settings={"model_group_alias": {"x": "a", "y": {"model": "b"}}, "fallbacks": [{"x": ["y"]}]},
        gateway={"default_models": {"rerank": "y"}},
    )

    assert config.engine.router.aliases == {"x": "a", "y": "b"}
    assert config.engine.router.fallbacks == {"a": ("b",)}
    assert config.engine.router.default_models == {Task.RERANK: "b"}
    assert problems(
        entry(), pool("b"), router_settings={"model_group_alias": {"b": "a", "long-name": "long-nam"}}
    ) == (
        "router_settings.model_group_alias.b: expected a name of its own, got that of a model",
        "router_settings.model_group_alias.long-name: no model is named 'long-nam'; expected one of a, b",
    )


@pytest.mark.parametrize("modes", [("embedding", "embedding"), ("embedding", None), (None, None)])
def test_a_fallback_that_would_mix_vectors_is_refused(modes: tuple[str | None, str | None]) -> None:
    """Vectors of two models in one index spoil it without a word; unknown modes may be embedding."""
    pools = pool("a", modes[0]), pool("b", modes[1])
    allowed = {"fallbacks": [{"a": ["b"], "allow_different_vectors": True}]}

    (found,) = problems(*pools, router_settings={"fallbacks": [{"a": ["b"]}]})

    assert found.startswith("router_settings.fallbacks[0].a[0]: the vectors of 'b' are not those of 'a'")
    assert "allow_different_vectors: true" in found
    assert read(*pools, router_settings=allowed).engine.router.fallbacks == {"a": ("b",)}


@pytest.mark.parametrize("modes", [("rerank", "rerank"), ("classify", None), (None, "rerank")])
def test_models_that_do_not_embed_fall_back_freely(modes: tuple[str | None, str | None]) -> None:
    """Scores are of one call; each may be the other's fallback."""
    fallbacks = {"fallbacks": [{"a": ["b"]}, {"b": ["a"]}]}

    config = read(pool("a", modes[0]), pool("b", modes[1]), litellm_settings=fallbacks)

    assert config.engine.router.fallbacks == {"a": ("b",), "b": ("a",)}


@pytest.mark.parametrize(
    ("fallbacks", "problem"),
    [
        ([{"a": ["a"]}], "[0].a[0]: expected another model than 'a' to fall back to"),
        ([{"x": ["a"]}], "[0].x: no model is named 'x'; expected one of a, b, c"),
        ([{"a": ["x"]}], "[0].a[0]: no model is named 'x'; expected one of a, b, c"),
        ([{"a": "b"}], "[0].a: expected a list, got text"),
        ([{"a": ["b"]}, {"a": ["b"]}], "[1].a: the fallbacks of 'a' are given twice"),
        ([{"a": ["c"]}], "[0].a[0]: 'c' cannot answer for 'a': they differ in model_info.mode"),
        ([{"a": [None]}], "[0].a[0]: expected the name of a model, got nothing"),
        (["a"], "[0]: expected a mapping, got text"),
        ({"a": ["b"]}, ": expected a list, got a mapping"),
    ],
)
def test_a_fallback_that_cannot_work_is_refused(fallbacks: object, problem: str) -> None:
    """The problem has the path of the name at fault."""
    pools = pool("a", "rerank"), pool("b", "rerank"), pool("c", "embedding")

    assert problems(*pools, router_settings={"fallbacks": fallbacks}) == (
        f"router_settings.fallbacks{problem}",
    )


def test_a_default_model_can_do_what_it_is_the_default_for() -> None:
    """With rerank_by_embedding a model that embeds can rerank, too."""
    default = {"default_models": {"rerank": "a"}}

    assert problems(pool("a", "embedding"), gateway=default) == (
        "gateway.default_models.rerank: expected a model for it, got 'a', which has another model_info.mode",
    )
    config = read(pool("a", "embedding"), gateway=default | {"rerank_by_embedding": True})
    assert config.engine.router.default_models == {Task.RERANK: "a"}


# Without a file.


def test_servers_are_named_in_the_environment() -> None:
    """Their models are learned; the same key is for all of them."""
    config = from_environment(
        {
            "INFINITY_API_BASE": "http://x/v1/, https://y,",
            "INFINITY_API_KEY": "sk-inf",
            "LITELLM_MASTER_KEY": "sk-gw",
        }
    )

    servers = (
        DeploymentSettings("x:80/v1", "http://x/v1", api_key=Secret("sk-inf")),
        DeploymentSettings("y:443", "https://y", api_key=Secret("sk-inf")),
    )
    assert config == Config(EngineSettings(servers=servers), master_key=Secret("sk-gw"))


def test_the_callers_key_is_read_without_servers_too() -> None:
    """For the servers that are started here when none are named."""
    assert callers_key({"GATEWAY_MASTER_KEY": "sk-gw"}) == Secret("sk-gw")
    assert callers_key({}) is None
    with pytest.raises(ConfigError, match="GATEWAY_MASTER_KEY"):
        callers_key({"GATEWAY_MASTER_KEY": ""})


@pytest.mark.parametrize("environ", [{}, {"INFINITY_API_BASE": ""}, {"INFINITY_API_BASE": " , "}])
def test_without_servers_in_the_environment_there_is_no_configuration(environ: dict[str, str]) -> None:
    """The caller then looks for something else to serve."""
    assert from_environment(environ) is None


def test_a_wrong_address_in_the_environment_is_named() -> None:
    """By its variable, since it has no path."""
    with pytest.raises(ConfigError) as raised:
        from_environment({"INFINITY_API_BASE": "x:1,http://u:hunter2@y,http://z,http://z"})

    assert raised.value.problems == (
        "INFINITY_API_BASE: expected http://HOST:PORT or https://HOST:PORT, got 'x:1'",
        "INFINITY_API_BASE: expected http://HOST:PORT without a user or password; a key goes into api_key",
        "INFINITY_API_BASE: expected each server once, got that of INFINITY_API_BASE again",
    )


# For people.


def test_describe_tells_what_would_run() -> None:
    """Models, servers, what is passed on, other names, fallbacks, whether keys are set, and what differs."""
    text = describe(
        parse(PRODUCTION, {"GATEWAY_MASTER_KEY": "sk-gw", "RERANK_BASE": "https://rerank.example"})
    )

    assert text.startswith(
        "bge-small (embedding): BAAI/bge-small-en-v1.5\n"
        "  http://infinity-0:7997, key set, timeout 12.5 s\n"
        "  http://infinity-1:7997/v1, no key, timeout 12.5 s, weight 3\n"
        "  passed on: priority: 3\n"
        "  also called: text-embedding-3-small\n"
        "  falls back to: bge-base\n"
        "  meant when a call names no model: embedding\n"
        "\n"
        "bge-base (embedding): BAAI/bge-base-en-v1.5\n"
    )
    assert text.endswith(
        "Callers' key: set\n"
        "batching.items_max: 32\n"
        "batching.in_flight_max: 4\n"
        "batching.max_wait_ms: 2.5\n"
        "admission.queued_items_max: 5000\n"
        "health.silent_s_max: 20\n"
        "health.failures_max: 5\n"
        "retry.retries_max: 3\n"
        "retry.budget_ratio: 0\n"
        "limits.body_bytes_max: 1000000\n"
        "limits.timeout_s: 20\n"
        "limits.timeout_s_max: 60\n"
        "drain.grace_s: 0\n"
        "drain.in_flight_s_max: 45\n"
        "rerank_by_embedding: true\n"
        "rerank_documents: string"
    )


def test_describe_tells_of_every_section() -> None:
    """Whatever differs, once."""
    sections: dict[str, dict[str, object]] = {
        "batching": {"items_max": 7},
        "admission": {"queued_items_max": 7},
        "cache": {"bytes_max": 7},
        "health": {"failures_max": 7},
        "retry": {"retries_max": 7},
        "limits": {"items_max": 7},
        "drain": {"grace_s": 7},
        "logging": {"level": "error"},
        "discovery": {"refresh_s": 7},
    }

    told = describe(read(entry(), gateway=sections)).splitlines()

    for section, record in sections.items():
        for name, value in record.items():
            assert told.count(f"{section}.{name}: {value}") == 1


def test_describe_tells_of_servers_whose_models_are_learned() -> None:
    """And of a gateway that anyone may call."""
    config = from_environment({"INFINITY_API_BASE": "http://x"})

    assert config is not None
    assert describe(config) == (
        "Servers, whose models are learned from them\n"
        "  http://x, no key, timeout 30 s\n\n"
        "Callers' key: not set"
    )


# Secrets.


def test_a_secret_never_shows_in_what_was_read() -> None:
    """Neither in the repr nor in `check` nor in a warning, from the file or from the environment."""
    text = """
model_list:
  - model_name: a
    litellm_params: {model: infinity/a, api_base: "http://h", api_key: hunter2, langfuse_secret_key: hunter2}
  - model_name: a
    litellm_params: {model: infinity/a, api_base: "http://i", api_key: os.environ/KEY, headers: {x: hunter2}}
  - model_name: other
    litellm_params: {model: openai/gpt, api_key: hunter2}
environment_variables: {OTHER: hunter2}
general_settings: {master_key: hunter2, database_url: hunter2}
router_settings: {redis_password: hunter2}
"""
    config = parse(text, {"KEY": "hunter2", "INFINITY_API_KEY": "hunter2"})

    assert len(config.warnings) == 5
    assert config.master_key == Secret("hunter2")
    assert "hunter2" not in repr(config) + str(config) + describe(config) + "".join(config.warnings)


@pytest.mark.parametrize(
    "text",
    [
        "general_settings: {master_key: hunter2",
        "general_settings: {master_key: *hunter2}",
        "general_settings: {master_key: !hunter2 x}",
        "general_settings: {master_key: 'hunter2}",
        'general_settings: {master_key: "hunter2\\q"}',
        "general_settings: {master_key: @hunter2}",
        "general_settings: {master_key:hunter2}",
        "general_settings:\n  master_key:hunter2",
        "general_settings: {master_key: [hunter2]}",
        "general_settings: {mastr_key: hunter2}",
        "general_settings: hunter2",
        "model_list: hunter2",
        "model_list: [{model_name: a, litellm_params: {model: infinity/a, api_bases: 'http://u:hunter2@h'}}]",
        "model_list: [{model_name: a, litellm_params: {model: infinity/a, api_base: 'http://u:hunter2@h'}}]",
        "model_list: [{model_name: a, litellm_params: {model: infinity/a, api_bse: 'http://u:hunter2@h'}}]",
        "model_list: [{model_name: a, litellm_params: {model: infinity/a, api_key: {hunter2: 1}}}]",
        "model_list: [{model_name: a, litellm_params: {model: infinity/a, api_key: !!binary hunter2}}]",
        "model_list: [{model_name: a, litellm_params: {model: infinity/a, timeout: os.environ/KEY}}]",
        "model_list: [{model_name: a, litellm_params: {model: infinity/a, weight: os.environ/KEY}}]",
        "model_list: [{model_name: a, litellm_params: {model: os.environ/KEY}}]",
        ONE + "gateway: {default_models: {embed: os.environ/KEY}}",
        ONE + "router_settings: {routing_strategy: os.environ/KEY}",
    ],
)
def test_a_secret_never_shows_in_an_error(text: str) -> None:
    """Not even where a slip has made a name or a syntax error of it."""
    with pytest.raises(ConfigError) as raised:
        parse(text, {"KEY": "hunter2"})

    assert "hunter2" not in str(raised.value) + repr(raised.value)
    assert "hunter2" not in str(raised.value.__cause__)


# Whatever is given.

KEYS = st.sampled_from(
    [
        *(
            "model_list",
            "router_settings",
            "general_settings",
            "litellm_settings",
            "environment_variables",
            "gateway",
        ),
        *(
            "model_name",
            "litellm_params",
            "model_info",
            "model",
            "api_base",
            "api_bases",
            "api_key",
            "timeout",
            "mode",
        ),
        *(
            "weight",
            "extra_body",
            "prefixes",
            "query",
            "fallbacks",
            "model_group_alias",
            "num_retries",
            "master_key",
        ),
        *(
            "batching",
            "items_max",
            "max_wait_ms",
            "limits",
            "timeout_s",
            "default_models",
            "embed",
            "rerank",
            "a",
            "b",
        ),
        *(
            "rpm",
            "routing_strategy",
            "allow_different_vectors",
            "cache",
            "allow_anonymous",
            "drain",
            "grace_s",
        ),
    ]
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.sampled_from(
        ["infinity/a", "http://h:1", "http://h", "os.environ/A", "os.environ/B", "a", "b", "auto", "rerank"]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=5) | SCALARS, inner, max_size=5)
    ),
    max_leaves=20,
)
PARAMS = st.dictionaries(KEYS | st.text(max_size=5), SCALARS, max_size=3)
ENTRIES = st.builds(
    lambda name, params, more, info: {
        "model_name": name,
        "litellm_params": {"model": "infinity/a", "api_base": "http://h"} | params,
        "model_info": info,
        **more,
    },
    st.sampled_from(["a", "b", "c"]),
    PARAMS,
    st.dictionaries(KEYS, VALUES, max_size=1),
    st.fixed_dictionaries({}, optional={"mode": st.sampled_from(["embedding", "rerank", "x"])}),
)
ROUTERS = st.fixed_dictionaries(
    {},
    optional={
        "fallbacks": st.lists(st.dictionaries(st.sampled_from("abc"), st.lists(st.sampled_from("abcd")))),
        "model_group_alias": st.dictionaries(st.sampled_from("bcd"), st.sampled_from("abcd")),
    },
)


def check_that_it_loads_or_is_refused(text: str) -> None:
    try:
        config = parse(text, {"A": "1", "INFINITY_API_BASE": "http://x"})
    except ConfigError as error:
        refusal = error.problems
    else:
        refusal = ()
        assert config.engine.pools or config.engine.servers
        for found in config.engine.pools:
            assert len({deployment.name for deployment in found.deployments}) == len(found.deployments) > 0
        assert describe(config).encode()
    assert not any("\n" in problem for problem in refusal)


def test_what_is_merged_without_end_ends() -> None:
    """Each of forty lines merges the one before twice; PyYAML drops what comes again from 6.0.4 on."""
    lines = [f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, 40)]

    with pytest.raises(ConfigError, match=r"too many keys are merged|a39: unknown key"):
        parse("\n".join(["a0: &a0 {x: 1}", *lines]), {})


def test_too_many_merged_keys_are_refused() -> None:
    """Also those that differ from each other."""
    parts = [f"a{i}: &a{i} {{{', '.join(f'k{i}x{j}: 1' for j in range(101))}}}" for i in range(100)]
    merged = ", ".join(f"*a{i}" for i in range(100))

    with pytest.raises(ConfigError, match="too many keys are merged"):
        parse("\n".join([*parts, f"all: {{<<: [{merged}]}}"]), {})


@given(st.text() | st.text(alphabet="ab:-[]{}&*!|>'\"#%@`,? \n0123._"))
@settings(deadline=None)
def test_any_text_loads_or_is_refused(text: str) -> None:
    """No other exception comes out, whatever the text."""
    check_that_it_loads_or_is_refused(text)


@given(st.dictionaries(KEYS, VALUES, max_size=5))
@settings(deadline=None)
def test_any_document_loads_or_is_refused(document: dict[str, Any]) -> None:
    """No other exception comes out, whatever stands under the keys that are read."""
    check_that_it_loads_or_is_refused(yaml.dump(document, allow_unicode=True))


@given(st.lists(ENTRIES, min_size=1, max_size=4), ROUTERS)
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_model_list_loads_or_is_refused(entries: list[dict[str, Any]], router: dict[str, Any]) -> None:
    """Each pool that comes of it has deployments with names of their own."""
    check_that_it_loads_or_is_refused(yaml.dump({"model_list": entries, "router_settings": router}))
