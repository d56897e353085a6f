"""The words of LiteLLM: the keys that are used here, and those that are idle here.

In a name of an idle key `*` is any text. They are taken from LiteLLM's pages on config.yaml, and from
ConfigGeneralSettings, GenericLiteLLMParams and all_litellm_params in its code, as of October 2026.
"""

from gateway.messages import Task


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


MODES = {"embedding": Task.EMBED, "rerank": Task.RERANK, "classify": Task.CLASSIFY}
"""`model_info.mode`. The others of LiteLLM are not served by Infinity."""
MODE_OF = {task: mode for mode, task in MODES.items()}

STRATEGIES = _words("""
    least-busy simple-shuffle latency-based-routing usage-based-routing usage-based-routing-v2
    cost-based-routing priority""")

TOP = _words("""
    model_list router_settings general_settings litellm_settings environment_variables gateway include""")
TOP_IDLE = _words("""
    agent_list agents assistant_settings callback_settings credential_list files_settings
    finetune_settings guardrails mcp_servers mcp_tools policies policy_attachments prompts search_tools
    vector_store_registry worker_registry""")

ENTRY = _words("model_name litellm_params model_info")
ENTRY_IDLE = _words("rpm tpm")

PARAMS = _words("model api_base api_bases api_key timeout weight extra_body")
PARAMS_IDLE = _words("""
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

ROUTER = _words("routing_strategy num_retries timeout fallbacks model_group_alias")
ROUTER_IDLE = _words("""
    *_fallbacks *_fails *_policy *_timeout alerting_config assistants_config background_health_* cache_*
    caching_groups client_ttl cooldown_time debug_level default_* deployment_affinity_* disable_* enable_*
    guardrail_list health_check_* ignore_invalid_deployments keepalive_seconds max_retries
    model_group_affinity_config optional_* plugins polling_interval provider_budget_config redis_*
    retry_after router_general_settings routing_groups routing_strategy_args search_tools set_verbose tag_*
    weights""")

GENERAL = _words("master_key")
GENERAL_IDLE = _words("""
    admin_* admission_* alert* allow_cli* allow_requests_* allow_un* allow_user_* allowed_* always_*
    apply_* auto_* background_* blocked_* cancel_* completion_model control_plane_url coordination_redis
    custom_* database_* default_* disable_* drain_* embedding_model enable_* enforce* fail* forward_*
    global_* health_* image_* infer_* key_* legacy_* litellm_* max_* maximum_* mcp_* missing_*
    model_list_* moderation_model oauth2_* otel pass_through_* plugins provider_* proxy_* public_*
    reject_* require_* role_* scheduled_* scope_* search_tools service_* skip_* spend_* sse_* store_*
    supported_* token_* trusted_* ui_* use_* user_*""")

LITELLM = _words("num_retries request_timeout fallbacks")
LITELLM_IDLE = _words("""
    *_callback *_callbacks *_fallbacks *_key add_function_to_prompt allowed_fails api_base budget_* cache
    cache_params callbacks cost_* datadog_* default_* disable_* drop_params enable_* force_ipv4
    guardrail* http2 json_logs key_* langfuse_* max_* mcp_* model_alias_map modify_params overwrite_*
    prometheus_* public_* redact_* request_correlation_in_logs require_* return_* route_* s3_* service_*
    set_verbose skip_* ssl_* store_* suppress_debug_info tag_* telemetry turn_off_* upperbound_* use_*
    user_*""")
