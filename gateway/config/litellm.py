"""The words of LiteLLM: the keys that are used here, and those that are idle here.

In a name of an idle key `*` is any text; the first that fits tells the reason. They are taken from LiteLLM's
pages on config.yaml, and from ConfigGeneralSettings, GenericLiteLLMParams and all_litellm_params in its code,
as of October 2026.
"""

from gateway.messages import Task


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _idle(reasons: dict[str, str]) -> dict[str, str]:
    """Each name → why it has no effect."""
    return {word: reason for reason, words in reasons.items() for word in words.split()}


_LIMITS = "a server is given what it has room for, which is learned"
_RETRIES = "retries are set for all models, by router_settings.num_retries and gateway.retry"
_HEALTH = "when a server counts as down is set for all models, in gateway.health"
_FALLBACKS = "fallbacks stand in router_settings"
_CACHE = "the cache is gateway.cache, in this process's memory"
_COSTS = "nothing is billed and there are no budgets"
_CALLBACKS = "nothing is called back; see logs, traces and /metrics"
_STRATEGY = "the server that will answer first is taken"
_TIMEOUT = "the limit is timeout"
_REDIS = "gateways share no state"
_AUTH = "callers are known by their key alone"
_TLS = "certificates are always verified; own ones stand in gateway.upstream_tls"
_OTHERS = "nothing here asks for it"


MODES = {"embedding": Task.EMBED, "rerank": Task.RERANK, "classify": Task.CLASSIFY}
"""`model_info.mode`. The others of LiteLLM are not served by Infinity."""
MODE_OF = {task: mode for mode, task in MODES.items()}

STRATEGIES = _words("""
    least-busy simple-shuffle latency-based-routing usage-based-routing usage-based-routing-v2
    cost-based-routing priority""")

TOP = _words("""
    model_list router_settings general_settings litellm_settings environment_variables gateway include""")
TOP_IDLE = _idle({
    "embeddings, reranking and classification are all that is served here": """
        agent_list agents assistant_settings files_settings finetune_settings guardrails mcp_servers mcp_tools
        policies policy_attachments prompts search_tools vector_store_registry worker_registry""",
    _CALLBACKS: "callback_settings",
    "keys stand in each entry of model_list": "credential_list",
})  # fmt: skip

ENTRY = _words("model_name litellm_params model_info discovery")
ENTRY_IDLE = _idle({_LIMITS: "rpm tpm"})

PARAMS = _words("model api_base api_bases api_key timeout weight extra_body")
PARAMS_IDLE = _idle({
    _LIMITS: "rpm tpm itpm otpm max_parallel_requests",
    _RETRIES: "num_retries max_retries retry_policy retry_strategy",
    _HEALTH: "allowed_fails allowed_fails_policy cooldown_time disable_*",
    _FALLBACKS: "fallbacks context_window_fallback_dict fallback_depth max_fallbacks",
    _CACHE: "cache cache_key caching caching_groups preset_cache_key ttl s3_* gcs_* valkey_*",
    _COSTS: "*_budget *cost* budget_duration tiered_pricing",
    _CALLBACKS: """
        arize_* humanloop_* langfuse_* langsmith_* litellm_* metadata posthog_* turn_off_message_logging
        verbose wandb_* weave_*""",
    _STRATEGY: "*_router_* allowed_model_region fastest_response order region_name tag_regex tags",
    _TIMEOUT: "*_timeout keepalive_seconds allow_client_keepalive_override",
    "nothing is sent but what calls say, and the parameters here": """
        default_headers extra_headers headers organization provider_affinity_header provider_specific_header
        user""",
    "no parameter has to be dropped for Infinity": """
        additional_drop_params allowed_openai_params drop_params modify_params""",
    "each call says it for itself": "encoding_format",
    _TLS: "ssl_*",
    _OTHERS: """
        api_type api_version assistant_continue_message aws_* azure azure_* base_model bos_token bucket_name
        client client_id client_secret configurable_clientside_auth_params custom_llm_provider
        default_api_key_* deployment_id enable_json_schema_validation ensure_alternating_roles eos_token
        final_prompt_value guardrails hf_model_name id initial_prompt_value max_file_size_mb
        merge_reasoning_content_in_choices milvus_* mock_response model_config model_info no-log prompt_id*
        prompt_label prompt_variables prompt_version roles search_tool_name shared_session stream
        stream_options supports_system_message tenant_id use_chat_completions_api use_in_pass_through
        use_litellm_proxy use_xai_oauth user_continue_message vector_store_id vertex_* watsonx_*""",
})  # fmt: skip

ROUTER = _words("routing_strategy num_retries timeout fallbacks model_group_alias")
ROUTER_IDLE = _idle({
    "prompts are not looked into; only `fallbacks` are used": "*_fallbacks",
    _RETRIES: "max_retries retry_after retry_policy",
    _LIMITS: "default_max_parallel_requests",
    _HEALTH: """
        *_fails *_policy background_health_* cooldown_time disable_* health_check_*
        ignore_invalid_deployments""",
    _TIMEOUT: "*_timeout keepalive_seconds",
    _REDIS: "redis_*",
    _CACHE: "cache_* caching_groups client_ttl",
    _COSTS: "provider_budget_config",
    _STRATEGY: """
        deployment_affinity_* enable_* model_group_affinity_config optional_* routing_groups
        routing_strategy_args tag_* weights""",
    _CALLBACKS: "alerting_config debug_level set_verbose",
    _OTHERS: """
        assistants_config default_* guardrail_list plugins polling_interval router_general_settings
        search_tools""",
})  # fmt: skip

GENERAL = _words("master_key")
GENERAL_IDLE = _idle({
    _COSTS: "disable_spend_* spend_*",
    _AUTH: """
        admin_* allow_cli* allow_requests_* allow_un* allow_user_* allowed_* custom_auth* enable_jwt_*
        enable_oauth2_* enforce* key_* litellm_jwtauth litellm_key_* oauth2_* role_* trusted_* user_*""",
    "there is no database; this file holds all there is": """
        coordination_redis custom_* database_* default_* model_list_* proxy_* store_* token_* ui_*""",
    _HEALTH: "background_* health_*",
    "the bounds of this gateway stand in gateway.admission, gateway.limits and gateway.drain": """
        admission_* drain_* global_* max_* maximum_*""",
    "a caller who hangs up is always left": "cancel_*",
    _CALLBACKS: "alert* otel",
    _OTHERS: """
        always_* apply_* auto_* blocked_* completion_model control_plane_url disable_* embedding_model
        enable_* fail* forward_* image_* infer_* legacy_* litellm_* mcp_* missing_* moderation_model
        pass_through_* plugins provider_* public_* reject_* require_* scheduled_* scope_* search_tools
        service_* skip_* sse_* supported_* use_*""",
})  # fmt: skip

LITELLM = _words("num_retries request_timeout fallbacks")
LITELLM_IDLE = _idle({
    _CALLBACKS: """
        *_callback *_callbacks callbacks datadog_* json_logs langfuse_* prometheus_* redact_*
        request_correlation_in_logs set_verbose suppress_debug_info telemetry turn_off_*""",
    "prompts are not looked into; only `fallbacks` are used": "*_fallbacks",
    _CACHE: "cache cache_params s3_*",
    _COSTS: "budget_* cost_* max_* upperbound_*",
    _HEALTH: "allowed_fails",
    "keys and addresses stand in each entry of model_list": "*_key api_base",
    "other names stand in router_settings.model_group_alias": "model_alias_map",
    "no parameter has to be dropped for Infinity": "drop_params modify_params",
    _TLS: "ssl_*",
    _OTHERS: """
        add_function_to_prompt default_* disable_* enable_* force_ipv4 guardrail* http2 key_* mcp_*
        overwrite_* public_* require_* return_* route_* service_* skip_* store_* tag_* use_* user_*""",
})  # fmt: skip
