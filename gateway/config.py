"""Read the configuration: LiteLLM's YAML and the environment in, checked settings out.

Only this file knows LiteLLM's words. It reads on after a problem and raises all of them together, each with
its path. A secret is wrapped where it is read, and no message quotes what may be one. `os.environ/NAME` is
looked up where a string is used, so what is ignored may name a variable that is not set.
"""

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlsplit

import yaml

from gateway.core.settings import (
    AdmissionSettings,
    BatchingSettings,
    DeploymentSettings,
    DrainSettings,
    EngineSettings,
    HealthSettings,
    LimitsSettings,
    PoolSettings,
    RetrySettings,
    RouterSettings,
    Secret,
)
from gateway.errors import ConfigError
from gateway.messages import Scalar, Task

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True, slots=True)
class Config:
    engine: EngineSettings
    master_key: Secret | None = None
    """What callers must send; None where they need not send anything."""
    allow_anonymous: bool = False
    """Serve without a key even where others than this machine can call."""
    drain: DrainSettings = field(default_factory=DrainSettings)
    rerank_documents: Literal["auto", "string", "object"] = "auto"
    warnings: tuple[str, ...] = ()
    """What was read and has no effect, one line each."""


def load(path: Path, environ: Mapping[str, str]) -> Config:
    """The configuration in a YAML file; ConfigError with every problem that it has."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: expected text in UTF-8, got another at byte {error.start}"]) from error
    return parse(text, environ)


def parse(text: str, environ: Mapping[str, str]) -> Config:
    """The same from a string."""
    notes = _Notes(environ)
    config = _config(_Value("", _document(text, notes), notes))
    notes.raise_problems()
    return replace(config, warnings=notes.warnings())


def from_environment(environ: Mapping[str, str]) -> Config | None:
    """The servers of INFINITY_API_BASE, their models to be learned; None where it is not set."""
    notes = _Notes(environ)
    servers = _servers(_default_bases(notes), _template(_Value("", None, notes), None), {})
    config = Config(EngineSettings(servers=servers), _callers_key(notes))
    notes.raise_problems()
    return config if servers else None


def callers_key(environ: Mapping[str, str]) -> Secret | None:
    """What callers must send where neither a file nor INFINITY_API_BASE names servers."""
    notes = _Notes(environ)
    key = _callers_key(notes)
    notes.raise_problems()
    return key


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# LiteLLM's keys that have no effect here; `*` is any text. Taken from its pages on config.yaml, and from
# ConfigGeneralSettings, GenericLiteLLMParams and all_litellm_params in its code, as of October 2026.
_IDLE_TOP = _words("""
    agent_list agents assistant_settings callback_settings credential_list files_settings
    finetune_settings guardrails mcp_servers mcp_tools policies policy_attachments prompts search_tools
    vector_store_registry worker_registry""")
_IDLE_PARAMS = _words("""
    *_budget *_router_* *_timeout *cost* additional_drop_params allow_client_keepalive_override
    allowed_fails allowed_fails_policy allowed_model_region allowed_openai_params api_type api_version
    arize_* assistant_continue_message aws_* azure azure_* base_model bos_token bucket_name
    budget_duration cache cache_key caching caching_groups client client_id client_secret
    configurable_clientside_auth_params context_window_fallback_dict cooldown_time custom_llm_provider
    default_api_key_* default_headers deployment_id disable_* drop_params enable_json_schema_validation
    encoding_format ensure_alternating_roles eos_token extra_headers fallback_depth fallbacks
    fastest_response final_prompt_value gcs_* guardrails headers hf_model_name humanloop_* id
    initial_prompt_value itpm keepalive_seconds langfuse_* langsmith_* litellm_* max_fallbacks
    max_file_size_mb max_parallel_requests max_retries merge_reasoning_content_in_choices metadata
    milvus_* mock_response model_config model_info modify_params no-log num_retries order organization
    otpm posthog_* preset_cache_key prompt_id* prompt_label prompt_variables prompt_version
    provider_affinity_header provider_specific_header region_name retry_policy retry_strategy roles rpm
    s3_* search_tool_name shared_session ssl_verify stream stream_options supports_system_message
    tag_regex tags tenant_id tiered_pricing tpm ttl turn_off_message_logging use_chat_completions_api
    use_in_pass_through use_litellm_proxy use_xai_oauth user user_continue_message valkey_*
    vector_store_id verbose vertex_* wandb_* watsonx_* weave_*""")
_IDLE_ROUTER = _words("""
    *_fallbacks *_fails *_policy *_timeout alerting_config allowed_fails_policy assistants_config
    background_health_* cache_* caching_groups client_ttl cooldown_time debug_level default_*
    deployment_affinity_* disable_* enable_* guardrail_list health_check_* ignore_invalid_deployments
    keepalive_seconds max_retries model_group_affinity_config optional_* plugins polling_interval
    provider_budget_config redis_* retry_after router_general_settings routing_groups
    routing_strategy_args search_tools set_verbose tag_* weights""")
_IDLE_GENERAL = _words("""
    admin_* admission_* alert* allow_cli* allow_requests_* allow_un* allow_user_* allowed_* always_*
    apply_* auto_* background_* blocked_* cancel_* completion_model control_plane_url coordination_redis
    custom_* database_* default_* disable_* drain_* embedding_model enable_* enforce* fail* forward_*
    global_* health_* image_* infer_* key_* legacy_* litellm_* max_* maximum_* mcp_* missing_*
    model_list_* moderation_model oauth2_* otel pass_through_* plugins provider_* proxy_* public_*
    reject_* require_* role_* scheduled_* scope_* search_tools service_* skip_* spend_* sse_* store_*
    supported_* token_* trusted_* ui_* use_* user_*""")
_IDLE_LITELLM = _words("""
    *_callback *_callbacks *_fallbacks *_key add_function_to_prompt allowed_fails api_base budget_* cache
    cache_params callbacks cost_* datadog_* default_* disable_* drop_params enable_* force_ipv4
    guardrail* http2 json_logs key_* langfuse_* max_* mcp_* model_alias_map modify_params overwrite_*
    prometheus_* public_* redact_* request_correlation_in_logs require_* return_* route_* s3_* service_*
    set_verbose skip_* ssl_* store_* suppress_debug_info tag_* telemetry turn_off_* upperbound_* use_*
    user_*""")
_STRATEGIES = _words("""
    least-busy simple-shuffle latency-based-routing usage-based-routing usage-based-routing-v2
    cost-based-routing priority""")

_TOP = _words(
    "model_list router_settings general_settings litellm_settings environment_variables gateway include"
)
_ROUTER = _words("routing_strategy num_retries timeout fallbacks model_group_alias")
_GATEWAY = _words("""
    batching admission health limits retry drain default_models rerank_by_embedding rerank_documents
    allow_anonymous cache discovery keys""")
_PARAMS = _words("model api_base api_bases api_key timeout weight extra_body")
# Given once for all calls they would change, without a word, what a caller asked for.
_OF_EACH_CALL = _words("""
    dimensions documents encoding_format input inputs modality output_dimension query return_documents
    texts top_k top_n""")
_SECRET_NAME = re.compile(r"(^|[_-])(key|token|secret|password|authorization)$", re.IGNORECASE)
_PARAMS_MAX = 16  # As many as a caller may send, see DESIGN "HTTP".
_NUMBER_MAX = 10**12  # More is a slip, in bytes as in seconds.
_MODES = {"embedding": Task.EMBED, "rerank": Task.RERANK, "classify": Task.CLASSIFY}
_MODE_OF = {task: mode for mode, task in _MODES.items()}
_MAY_BE_ZERO = _words("wait_s_max retries_max budget_ratio budget_per_s grace_s in_flight_s_max")
_VARIABLE = "os.environ/"


class _Notes:
    """What was found so far, and the variables that strings in the file may name."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = dict(environ)
        self.problems: list[str] = []
        self._warnings: list[str] = []
        self._idle: dict[str, list[str]] = {}

    def warn(self, path: str, text: str) -> None:
        self._warnings.append(f"{path}: {text}")

    def idle(self, path: str) -> None:
        """A key without effect, to be reported once however many entries of a list have it."""
        self._idle.setdefault(re.sub(r"\[\d+\]", "[]", path), []).append(path)

    def variable(self, name: str) -> "_Value":
        """An environment variable with a meaning of its own."""
        return _Value(name, self.environ.get(name), self)

    def warnings(self) -> tuple[str, ...]:
        idle = []
        for first, *others in self._idle.values():
            idle.append(
                f"{first}: has no effect here{f' (and {len(others)} more like it)' if others else ''}"
            )
        return (*self._warnings, *idle)

    def raise_problems(self) -> None:
        if self.problems:
            raise ConfigError(list(dict.fromkeys(self.problems)))


@dataclass(frozen=True, slots=True)
class _Value:
    """What stands at one place. Where it does not fit, that is noted, and it reads as None or as empty."""

    path: str
    raw: object
    notes: _Notes

    def __getitem__(self, key: str) -> "_Value":
        raw = self.raw.get(key) if isinstance(self.raw, dict) else None
        return _Value(_join(self.path, key), raw, self.notes)

    @property
    def given(self) -> bool:
        return self.raw is not None

    def problem(self, text: str) -> None:
        self.notes.problems.append(f"{self.path or 'the file'}: {text}")

    def wrong(self, expected: str) -> None:
        self.problem(f"expected {expected}, got {self.shown()}")

    def unlike(self, expected: str) -> None:
        """Wrong, without a quotation: where a space is forgotten, `master_key:sk-1` is text."""
        self.problem(f"expected {expected}, got {'text' if isinstance(self.raw, str) else _shown(self.raw)}")

    def shown(self) -> str:
        name = self._variable()
        return _shown(self.raw) if name is None else f"what {name} holds"

    def text(self, expected: str = "text", *, blank: bool = False) -> str | None:
        value = self._resolved()
        if isinstance(value, str) and _encodable(value) and (blank or value.strip()):
            return value
        if value is not None or not self.given:
            self.wrong(expected)
        return None

    def choice(self, options: Collection[str]) -> str | None:
        expected = f"one of {', '.join(options)}"
        value = self.text(expected) if self.given else None
        if value is None or value in options:
            return value
        self.wrong(expected)
        return None

    def number(self, *, whole: bool = False, zero: bool = False) -> float | None:
        match self._typed():
            case None:
                return None
            case bool():
                pass
            case int(value) if (0 if zero else 1) <= value <= _NUMBER_MAX:
                return value if whole else float(value)
            case float(value) if not whole and (0 if zero else math.ulp(0)) <= value <= _NUMBER_MAX:
                return value
        self.wrong(
            f"a {'whole ' if whole else ''}number {'from 0 to' if zero else 'above 0 and up to'} 10^12"
        )
        return None

    def flag(self) -> bool:
        value = self._typed()
        if value is not None and not isinstance(value, bool):
            self.wrong("true or false")
        return value is True

    def scalar(self) -> Scalar:
        """What a request's JSON can carry."""
        value = self._resolved()
        match value:
            case None | bool():
                return value
            case str() if _encodable(value):
                return value
            case int() | float() if math.isfinite(value) and abs(value) < 2**63:
                return value
        self.wrong("text, a number, true, false or null")
        return None

    def secret(self) -> Secret | None:
        """A key without the line end that files put after it. No message shows what came."""
        value = self._resolved()
        if isinstance(value, str) and not re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", value.strip()):
            return Secret(value.strip())
        if value is not None:
            self.problem("expected a key: text on one line, in quotes if it has only digits")
        return None

    def mapping(self) -> dict[str, "_Value"]:
        raw = {} if self.raw is None else self.raw
        if not isinstance(raw, dict):
            self.unlike("a mapping")
            return {}
        for key in raw:
            if not isinstance(key, str) or not _encodable(key):
                self.problem(f"expected keys of text, got {_shown(key)}; quotes make it text")
        return {key: self[key] for key in raw if isinstance(key, str)}

    def items(self) -> list["_Value"]:
        raw = [] if self.raw is None else self.raw
        if not isinstance(raw, list):
            self.unlike("a list")
            return []
        return [_Value(f"{self.path}[{i}]", item, self.notes) for i, item in enumerate(raw)]

    def only(self, used: Collection[str], idle: Collection[str] = ()) -> "_Value":
        """Itself, once its keys are checked: `idle` ones are warnings, those in neither are problems."""
        for key, value in self.mapping().items():
            if key in used:
                continue
            if _matches(key, idle):
                self.notes.idle(value.path)
            else:
                value.problem(
                    f"unknown key; {_nearest(key, used, idle) or 'expected one of ' + ', '.join(used)}"
                )
        return self

    def _variable(self) -> str | None:
        named = isinstance(self.raw, str) and self.raw.startswith(_VARIABLE)
        return str(self.raw).removeprefix(_VARIABLE) if named else None

    def _resolved(self) -> object:
        name = self._variable()
        if name is None:
            return self.raw
        if name not in self.notes.environ:
            self.problem(f"the environment variable {name} is not set")
        return self.notes.environ.get(name)

    def _typed(self) -> object:
        """For numbers and flags: the environment holds nothing but text."""
        value = self._resolved()
        if isinstance(value, str) and self._variable() is not None:
            try:
                return json.loads(value.lower())
            except ValueError:
                pass
        return value


def _join(path: str, key: str) -> str:
    if re.fullmatch(r"[\w-]+", key):
        return f"{path}.{key}" if path else key
    # With a space forgotten, `{api_key:sk-1}` is a key.
    return f"{path}[{re.sub('(api|master)_key.*', '...', key, flags=re.DOTALL)!r}]"


def _shown(value: object) -> str:
    """A value in a message: on one line, and short."""
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = "nothing" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _nearest(key: str, *known: Iterable[str], cutoff: float = 0.7) -> str | None:
    """A hint for a slip of the hand, or of the order: `max_items` is near `items_max`."""
    names = [name for names in known for name in names if "*" not in name]
    same = [name for name in names if sorted(name.split("_")) == sorted(key.split("_"))]
    near = same or get_close_matches(key, names, n=1, cutoff=cutoff)
    return f"did you mean {near[0]}?" if near else None


def _matches(key: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def _encodable(text: str) -> bool:
    """Not so with half of a surrogate pair, which escapes in YAML and odd environments can bring."""
    return not re.search("[\ud800-\udfff]", text)


class _Loader(yaml.SafeLoader):
    """Dates stay the text they were written as (`api_version: 2024-02-01`)."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as PyYAML has it.
        first: [rule for rule in rules if rule[0] != "tag:yaml.org,2002:timestamp"]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (AttributeError, KeyError, OverflowError, ValueError) as error:
            # What PyYAML lets through for `!!bool maybe`, `0b_` and the like.
            problem = "a value that is not what its tag says"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error


def _document(text: str, notes: _Notes) -> object:
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError([f"{_at(node.start_mark)}: expected a mapping, got another kind of value"])
        _note_keys_given_twice(node, notes)
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        # PyYAML quotes lines and names, which may be secrets. Only signs and `<block end>` are let through.
        safe = re.match(r"""([^'"]|'[^\w'"]{1,2}'|'<[\w ]+>')*""", error.problem or "")
        problem = safe[0].strip() if safe else ""
        raise ConfigError([f"{_at(error.problem_mark)}: not valid YAML: {problem}"]) from None
    except yaml.reader.ReaderError as error:
        line, start = text.count("\n", 0, error.position) + 1, text.rfind("\n", 0, error.position)
        problem = "a character that YAML does not allow"
        raise ConfigError([f"line {line}, column {error.position - start}: {problem}"]) from error
    except RecursionError as error:
        raise ConfigError(["line 1, column 1: not valid YAML: nested too deeply"]) from error


def _at(mark: yaml.Mark | None) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}" if mark else "line 1, column 1"


def _note_keys_given_twice(top: yaml.Node, notes: _Notes) -> None:
    """YAML forbids them and PyYAML takes the last. Asked of the nodes, before `<<` has merged any."""
    rest, seen = [("", top)], set[int]()
    while rest:
        path, node = rest.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            rest += [(f"{path}[{i}]", item) for i, item in enumerate(node.value)]
        elif isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                line = key.start_mark.line + 1
                place = _join(path, key.value if isinstance(key, yaml.ScalarNode) else f"line {line}")
                rest.append((place, value))
                if place in lines:
                    notes.problems.append(f"{place}: given twice, on lines {lines[place]} and {line}")
                lines[place] = line


def _config(top: _Value) -> Config:
    top.only(_TOP, _IDLE_TOP)
    for name, value in top["environment_variables"].mapping().items():
        if value.given:
            # The file wins, as in LiteLLM.
            top.notes.environ[name] = str(value.scalar())
    if top["include"].given:
        top["include"].problem("other files are not read; put what they hold here")
    gateway = top["gateway"].only(_GATEWAY)
    for name in ("cache", "discovery", "keys"):
        if gateway[name].raw:
            gateway[name].problem("this version does not know it yet; leave it out")
    general = top["general_settings"].only(["master_key"], _IDLE_GENERAL)
    documents: Any = gateway["rerank_documents"].choice(("auto", "string", "object")) or "auto"
    return Config(
        engine=_engine(top, gateway),
        master_key=_callers_key(top.notes, general["master_key"]),
        allow_anonymous=gateway["allow_anonymous"].flag(),
        drain=_record(DrainSettings(), gateway["drain"]),
        rerank_documents=documents,
    )


def _engine(top: _Value, gateway: _Value) -> EngineSettings:
    litellm = top["litellm_settings"].only(("num_retries", "request_timeout", "fallbacks"), _IDLE_LITELLM)
    router = top["router_settings"].only(_ROUTER, _IDLE_ROUTER)
    strategy = router["routing_strategy"].choice(_STRATEGIES)
    if strategy not in (None, "least-busy"):
        top.notes.warn(router["routing_strategy"].path, f"{strategy} is not offered here; least-busy is used")
    # As in LiteLLM, router_settings win over litellm_settings.
    fallbacks = router["fallbacks"] if router["fallbacks"].given else litellm["fallbacks"]
    retries_max = router["num_retries"] if router["num_retries"].given else litellm["num_retries"]
    retries = retries_max.number(whole=True, zero=True)
    timeout_s, request_timeout_s = router["timeout"].number(), litellm["request_timeout"].number()
    models = _Models(top["model_list"], timeout_s or request_timeout_s)
    by_embedding = gateway["rerank_by_embedding"].flag()
    return EngineSettings(
        pools=tuple(models.pools.values()),
        servers=models.servers,
        batching=_record(BatchingSettings(), gateway["batching"]),
        admission=_record(AdmissionSettings(), gateway["admission"]),
        health=_record(HealthSettings(), gateway["health"]),
        retry=_record(RetrySettings() if retries is None else RetrySettings(int(retries)), gateway["retry"]),
        limits=_limits(timeout_s, gateway["limits"]),
        router=RouterSettings(
            aliases=_aliases(router["model_group_alias"], models),
            fallbacks=_fallbacks(fallbacks, models),
            default_models=_default_models(gateway["default_models"], models, by_embedding),
        ),
        rerank_by_embedding=by_embedding,
    )


_Record = TypeVar("_Record", bound="DataclassInstance")


def _record(default: _Record, value: _Value) -> _Record:
    """`default` with what `value` has under the names of its fields."""
    names = {_external(item.name): item for item in fields(default)}
    value.only(names)
    found: dict[str, Any] = {}
    for key, item in names.items():
        if value[key].raw == "auto" and getattr(default, item.name) is None:
            continue
        number = value[key].number(whole=item.type is not float, zero=item.name in _MAY_BE_ZERO)
        if number is not None:
            found[item.name] = number / 1000 if key == "max_wait_ms" else number
    return replace(default, **found)


def _external(name: str) -> str:
    """A field's name in the file: its own, but for the one time so short that it is given in milliseconds."""
    return "max_wait_ms" if name == "wait_s_max" else name


def _limits(timeout_s: float | None, value: _Value) -> LimitsSettings:
    default = LimitsSettings()
    if timeout_s is not None:
        default = replace(default, timeout_s=timeout_s, timeout_s_max=max(timeout_s, default.timeout_s_max))
    limits = _record(default, value)
    if limits.timeout_s > limits.timeout_s_max:
        value["timeout_s_max"].problem(
            f"expected at least timeout_s, {limits.timeout_s:g}, got {limits.timeout_s_max:g}"
        )
    return limits


def _callers_key(notes: _Notes, *given: _Value) -> Secret | None:
    for value in (*given, notes.variable("GATEWAY_MASTER_KEY"), notes.variable("LITELLM_MASTER_KEY")):
        if value.given:
            key = value.secret()
            if key is not None and not key.reveal():
                # A secret that failed to mount must not open the gateway to all.
                value.problem("expected a key, got blank text; leave it out to have none")
            return key
    return None


class _Models:
    """The pools of `model_list`, and what a name elsewhere in the file stands for."""

    def __init__(self, entries: _Value, timeout_s: float | None) -> None:
        self.pools: dict[str, PoolSettings] = {}
        self.aliases: dict[str, str] = {}
        self.servers: tuple[DeploymentSettings, ...] = ()
        self._skipped: list[object] = []
        self._firsts: dict[str, tuple[_Value, dict[str, Scalar]]] = {}
        self._places: dict[str, dict[str, str]] = {}
        listed = entries.items()
        for entry in listed:
            self._read(entry, timeout_s)
        if not entries.raw:
            self.servers = _servers(_default_bases(entries.notes), _template(entries, timeout_s), {})
        if not self.servers and len(self._skipped) == len(listed) and (listed or not entries.raw):
            entries.problem("expected at least one infinity/ model, or INFINITY_API_BASE in the environment")

    def find(self, where: _Value, name: str | None = None) -> str | None:
        """The pool that `name`, else the text at `where`, stands for. If there is none, that is noted."""
        shown = where.shown() if name is None else repr(name)
        name = where.text("the name of a model") if name is None else name
        name = self.aliases.get(name, name) if name is not None else None
        if name is None or name in self.pools or self.servers:
            return name
        if name in self._skipped:
            where.notes.warn(where.path, f"left out, since {name!r} is skipped")
        elif self.pools:
            hint = _nearest(name, self.pools, self.aliases) or f"expected one of {', '.join(self.pools)}"
            where.problem(f"no model is named {shown}; {hint}")
        return None

    def task(self, name: str) -> Task | None:
        return self.pools[name].task if name in self.pools else None

    def _read(self, entry: _Value, timeout_s: float | None) -> None:
        params, info = entry["litellm_params"], entry["model_info"]
        if not isinstance(params.raw, dict):
            params.unlike("a mapping")
            return
        model = params["model"].text("infinity/ and the server's name of the model")
        if model is not None and not model.startswith("infinity/"):
            self._skipped.append(entry["model_name"].raw)
            entry.notes.warn(
                entry.path, f"skipped, since {params['model'].shown()} is not an infinity/ model"
            )
            return
        entry.only(("model_name", "litellm_params", "model_info"), ("rpm", "tpm"))
        name = entry["model_name"].text("the name that callers use") or ""
        server_model = (model or "").removeprefix("infinity/")
        if model is not None and not server_model.strip():
            params["model"].wrong("infinity/ and the server's name of the model")
        if "*" in name + server_model:
            entry.problem("a wildcard stands for no model here; list each one")
        for key, value in info.mapping().items():
            # LiteLLM lets people put there what they like, so that only a slip is a problem.
            if key not in ("mode", "prefixes") and (near := _nearest(key, ("mode", "prefixes"), cutoff=0.8)):
                value.problem(f"unknown key; {near}")
        mode, prefixes = info["mode"].choice(_MODES), info["prefixes"].only(("query", "document"))
        texts = {role: value.text(blank=True) for role, value in prefixes.mapping().items() if value.given}
        template, places = _template(params, timeout_s, server_model), self._places.setdefault(name, {})
        pool = PoolSettings(
            name=name,
            deployments=_servers(_bases(params), template, places),
            params=_passed_on(params),
            task=_MODES[mode] if mode else None,
            prefixes={role: text for role, text in texts.items() if text},
        )
        if name and server_model:
            self._add(entry, pool, server_model)
        elif name:
            # Known, so that what refers to it is not wrong as well.
            self.pools.setdefault(name, pool)

    def _add(self, entry: _Value, pool: PoolSettings, server_model: str) -> None:
        """Vectors of one pool are interchangeable, so its entries agree on all that could change them."""
        facts: dict[str, Scalar] = {"litellm_params.model": server_model}
        facts |= {f"litellm_params.{key}": value for key, value in pool.params.items()}
        facts |= {f"model_info.prefixes.{key}": value for key, value in pool.prefixes.items()}
        first, agreed = self._firsts.setdefault(pool.name, (entry, dict(facts)))
        before = self.pools.get(pool.name, replace(pool, deployments=()))
        if pool.task and before.task:
            agreed["model_info.mode"], facts["model_info.mode"] = _MODE_OF[before.task], _MODE_OF[pool.task]
        for key in dict.fromkeys((*agreed, *facts)):
            there, here = agreed.get(key), facts.get(key)
            if type(there) is not type(here) or there != here:
                both = f"{key} is {_shown(there)} there and {_shown(here)} here"
                entry.problem(f"must agree with {first.path}, which has the same model_name: {both}")
        deployments = (*before.deployments, *pool.deployments)
        self.pools[pool.name] = replace(before, deployments=deployments, task=before.task or pool.task)


def _passed_on(params: _Value) -> dict[str, Scalar]:
    """What is there for the servers: `extra_body`, and each key that is neither ours nor LiteLLM's."""
    found = {}
    for key, value in params.mapping().items():
        if key in _PARAMS:
            continue
        if _matches(key, _IDLE_PARAMS):
            value.notes.idle(value.path)
        elif key in _OF_EACH_CALL:
            _may_pass(key, value)
        elif near := _nearest(key, _PARAMS, _OF_EACH_CALL, _IDLE_PARAMS, cutoff=0.8):
            value.problem(f"unknown key; {near}")
        elif _may_pass(key, value):
            found[key] = value.scalar()
    for key, value in params["extra_body"].mapping().items():
        if _may_pass(key, value):
            found[key] = value.scalar()
    if len(found) > _PARAMS_MAX:
        params.problem(f"expected at most {_PARAMS_MAX} parameters for the servers, got {len(found)}")
    return found


def _may_pass(key: str, value: _Value) -> bool:
    if key in _OF_EACH_CALL:
        value.problem("belongs in each call, not in the configuration")
    elif key in _PARAMS:
        value.problem("belongs in litellm_params itself")
    elif key in ("base_url", "url"):
        value.problem("unknown key; did you mean api_base?")
    elif _SECRET_NAME.search(key):
        value.problem("looks like a secret, and those are not passed on; the server's key is api_key")
    else:
        return True
    return False


def _bases(params: _Value) -> list[_Value]:
    one, several = params["api_base"], params["api_bases"]
    if one.given and several.given:
        several.problem("expected api_base or api_bases, got both")
    bases = [one] if one.given else several.items() or _default_bases(params.notes)
    if not bases:
        one.problem("expected http://HOST:PORT, got nothing, and INFINITY_API_BASE is not set")
    return bases


def _default_bases(notes: _Notes) -> list[_Value]:
    parts = notes.environ.get("INFINITY_API_BASE", "").split(",")
    return [_Value("INFINITY_API_BASE", part.strip(), notes) for part in parts if part.strip()]


def _template(params: _Value, timeout_s: float | None, server_model: str | None = None) -> DeploymentSettings:
    """A deployment but for its place."""
    given = params["api_key"] if params["api_key"].given else params.notes.variable("INFINITY_API_KEY")
    # A blank key is none: so a server without one is not shown the key of the others.
    key = secret if (secret := given.secret()) and secret.reveal() else None
    template = DeploymentSettings("", "", server_model, key)
    timeout_s = params["timeout"].number() or timeout_s or template.timeout_s
    return replace(template, weight=params["weight"].number() or template.weight, timeout_s=timeout_s)


def _servers(
    bases: list[_Value], template: DeploymentSettings, places: dict[str, str]
) -> tuple[DeploymentSettings, ...]:
    """One at each of `bases`. `places` has those of the same pool so far, and their paths in the file."""
    found = []
    for base in bases:
        api_base = _address(base)
        if api_base is None:
            continue
        parts = urlsplit(api_base)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        name = f"{parts.netloc.removesuffix(f':{port}')}:{port}{parts.path}"
        place = f"{parts.scheme}://{name}"
        if place in places:
            base.problem(f"expected each server once, got that of {places[place]} again")
        # http and https may share a port in name only.
        taken = any(other.endswith(f"://{name}") for other in places)
        places[place] = base.path
        found.append(replace(template, name=place if taken else name, api_base=api_base))
    return tuple(found)


def _address(base: _Value) -> str | None:
    """A server's URL in its plain form. What may be a password in it is never quoted."""
    url = (base.text("http://HOST:PORT") or "").strip()
    if not url:
        return None
    for sign, meaning in {"@": "a user or password", "?": "a query", "#": "a fragment"}.items():
        if sign in url:
            base.problem(f"expected http://HOST:PORT without {meaning}; a key goes into api_key")
            return None
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or port == 0 or parts.scheme not in ("http", "https") or not re.fullmatch(r"[!-~]+", url):
        base.wrong("http://HOST:PORT or https://HOST:PORT")
        return None
    # LiteLLM takes a route itself for a base, too.
    path = re.sub(r"/+(embeddings|rerank)$", "", parts.path.rstrip("/")).rstrip("/")
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}{path}"


def _aliases(value: _Value, models: _Models) -> dict[str, str]:
    found = {}
    for alias, given in value.mapping().items():
        target = given.only(("model",), ("hidden",))["model"] if isinstance(given.raw, dict) else given
        name = models.find(target)
        if alias in models.pools:
            given.problem("expected a name of its own, got that of a model")
        elif name is not None:
            found[alias] = name
    models.aliases.update(found)
    return found


def _fallbacks(value: _Value, models: _Models) -> dict[str, tuple[str, ...]]:
    """From entries `{NAME: [NAME, ...]}`, in which `allow_different_vectors: true` may stand, too."""
    found: dict[str, tuple[str, ...]] = {}
    for entry in value.items():
        different = entry["allow_different_vectors"].flag()
        for key, given in entry.mapping().items():
            if key == "allow_different_vectors":
                continue
            source = models.find(given, key)
            targets = [(item, models.find(item)) for item in given.items()]
            names = tuple(target for _, target in targets if target)
            if source is None or not names:
                continue
            if source in found:
                given.problem(f"the fallbacks of {source!r} are given twice")
            found[source] = names
            for item, target in targets:
                if target is not None:
                    _check_fallback(item, source, target, models, different)
    return found


def _check_fallback(where: _Value, source: str, target: str, models: _Models, different: bool) -> None:
    tasks = {models.task(source), models.task(target)} - {None}
    if source == target:
        where.problem(f"expected another model than {source!r} to fall back to")
    elif len(tasks) == 2:
        where.problem(f"{target!r} cannot answer for {source!r}: they differ in model_info.mode")
    elif not different and not tasks & {Task.RERANK, Task.CLASSIFY}:
        where.problem(
            f"the vectors of {target!r} are not those of {source!r}; if that is meant add "
            "allow_different_vectors: true to this entry, and if they do not embed say so in model_info.mode"
        )


def _default_models(value: _Value, models: _Models, by_embedding: bool) -> dict[Task, str]:
    found: dict[Task, str] = {}
    tasks = {"embed": Task.EMBED, **_MODES}
    value.only(tasks)
    for key, task in tasks.items():
        name = models.find(value[key]) if value[key].given else None
        if name is None:
            continue
        if task in found:
            value[key].problem("expected embed or embedding, which are the same, got both")
        has = models.task(name)
        if has not in (None, task) and not (by_embedding and (task, has) == (Task.RERANK, Task.EMBED)):
            value[key].problem(f"expected a model for it, got {name!r}, which has another model_info.mode")
        found[task] = name
    return found


def describe(config: Config) -> str:
    """What would run, for a person to read: no secret is in it, and `config.warnings` are not."""
    engine, lines = config.engine, list[str]()
    for pool in engine.pools:
        lines += [*_described(pool, engine.router), ""]
    if engine.servers:
        lines += ["Servers, whose models are learned from them", *map(_line, engine.servers)]
        lines += [f"  also called: {alias} for {name}" for alias, name in engine.router.aliases.items()]
        lines.append("")
    key = "set" if config.master_key else "not set, anyone may call" if config.allow_anonymous else "not set"
    lines.append(f"Callers' key: {key}")
    return "\n".join([*lines, *_changed(config)])


def _described(pool: PoolSettings, router: RouterSettings) -> list[str]:
    mode = _MODE_OF[pool.task] if pool.task else "mode learned from the servers"
    facts = {
        "passed on": [f"{key}: {_shown(value)}" for key, value in pool.params.items()],
        "prefixes": [f"{role} {text!r}" for role, text in pool.prefixes.items()],
        "also called": [alias for alias, name in router.aliases.items() if name == pool.name],
        "falls back to": router.fallbacks.get(pool.name, ()),
        "meant when a call names no model": [
            _MODE_OF[t] for t, n in router.default_models.items() if n == pool.name
        ],
    }
    models = dict.fromkeys(str(deployment.server_model) for deployment in pool.deployments)
    lines = [f"{pool.name} ({mode}): {', '.join(models)}", *map(_line, pool.deployments)]
    return lines + [f"  {fact}: {', '.join(values)}" for fact, values in facts.items() if values]


def _line(deployment: DeploymentSettings) -> str:
    key = "key set" if deployment.api_key else "no key"
    weight = f", weight {deployment.weight:g}" if deployment.weight != 1 else ""
    return f"  {deployment.api_base}, {key}, timeout {deployment.timeout_s:g} s{weight}"


def _changed(config: Config) -> list[str]:
    """The settings that are not at their defaults, under the names that they have in the file."""
    engine, lines = config.engine, list[str]()
    for part in ("batching", "admission", "health", "retry", "limits", "drain"):
        record = config.drain if part == "drain" else getattr(engine, part)
        for item in fields(record):
            value = getattr(record, item.name)
            if value != getattr(type(record)(), item.name):
                shown = value * 1000 if item.name == "wait_s_max" else value
                lines.append(f"{part}.{_external(item.name)}: {shown:.12g}")
    lines += ["rerank_by_embedding: true"] if engine.rerank_by_embedding else []
    lines += [f"rerank_documents: {config.rerank_documents}"] if config.rerank_documents != "auto" else []
    return lines
