"""A file of configuration: it can be used, or each of its problems is told in a line."""

from pathlib import Path

from gateway.config import describe, parse
from gateway.errors import ConfigError

_SECRET = "sk-never-to-be-shown"
_ENVIRON = {"KEY": _SECRET, "BASE": "http://127.0.0.1:1", "NUMBER": "1"}
_NOWHERE = Path("/nonexistent")

SEEDS = [
    b"""model_list:
  - model_name: a
    litellm_params: {model: infinity/b/c, api_base: "http://h:1/v1", api_key: os.environ/KEY, weight: 2, x: 1}
    model_info: {mode: embedding, prefixes: {query: "q: ", document: "d: "}}
  - {model_name: r, litellm_params: {model: infinity/r, api_bases: ["https://h", os.environ/BASE]}}
router_settings: {routing_strategy: least-busy, num_retries: 2, timeout: 30, fallbacks: [{a: [r]}],
  model_group_alias: {x: a, y: {model: r, hidden: true}}}
general_settings: {master_key: os.environ/KEY}
""",
    b"""environment_variables: {INFINITY_API_BASE: "http://a:1,http://b:2"}
litellm_settings: {num_retries: 0, request_timeout: 600, drop_params: true}
gateway:
  limits: {items_max: 10, body_bytes_max: os.environ/NUMBER, timeout_s: .5}
  batching: {items_max: auto, max_wait_ms: 0}
  admission: {queued_items_max: 5}
  keys:
    - {name: team, sha256: "%b", models: [a-*], requests_per_minute: 60, priority: bulk}
    - {name: b, key: os.environ/KEY, items_per_minute: 1, concurrency: 2}
  open_routes: [metrics]
  media_hosts: ["*.example.com", "a:80"]
  allow_anonymous: yes
  rerank_documents: string
  default_models: {embed: a, rerank: r}
"""
    % (b"ab" * 32),
    b"gateway: &a\n  <<: *b\n  keys_file: keys.yaml\n  upstream_tls: {ca_file: ca.pem}\n",
    b"a: &a {x: 1}\nb: {<<: [*a, *a], y: !!binary AA==, z: !!set {q}, ? [1] : 0x10}\n",
]


def check(data: bytes) -> None:
    text = data.decode(errors="replace")
    try:
        said = describe(parse(text, _ENVIRON, _NOWHERE))
    except ConfigError as error:
        assert error.problems
        assert all(problem.isprintable() for problem in error.problems), error.problems
        said = str(error)
    assert _SECRET not in said
