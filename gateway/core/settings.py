"""The settings that the parts below the edge work from: plain frozen records, checked before they are made.

`gateway.config` reads them from YAML and the environment. Each part is given the smallest record it needs.
Times are seconds, sizes are bytes unless a name says otherwise.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gateway.core.packing import TOKENS_MAX
from gateway.messages import Scalar, Task


class Secret:
    """A string that never shows: not in a repr, a log, an error or a status page."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The string itself, for the one place that sends or compares it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


@dataclass(frozen=True, slots=True)
class DeploymentSettings:
    """One Infinity server serving one model."""

    name: str
    """Unique in its pool, and the label in metrics: host, port and path of `api_base`."""
    api_base: str
    """Where `/embeddings` and the others are appended; any path prefix kept, no trailing slash."""
    server_model: str | None = None
    """What is sent as `model`; None for a server whose only model is meant."""
    api_key: Secret | None = None
    weight: float = 1.0
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """The deployments that callers know by one model name. Their vectors are interchangeable."""

    name: str
    deployments: tuple[DeploymentSettings, ...]
    params: Mapping[str, Scalar] = field(default_factory=dict)
    """Passed to the servers with each request; a caller's own parameters win."""
    task: Task | None = None
    """From `model_info.mode`; None where it is learned from the servers."""
    prefixes: Mapping[str, str] = field(default_factory=dict)
    """Text put before an input by its role, `query` or `document` (e5, bge)."""


@dataclass(frozen=True, slots=True)
class BatchingSettings:
    items_max: int | None = None
    """Most items in a batch; None: the batch size that the server reports."""
    in_flight_max: int | None = None
    """Most batches under way at one deployment; None: as many as keep it busy, which is learned."""
    tokens_max: int = TOKENS_MAX
    """Where the model truncates: what a text has beyond that costs nothing."""
    wait_s_max: float = 0.0
    """How long the oldest item may wait for company although a deployment has room."""


@dataclass(frozen=True, slots=True)
class AdmissionSettings:
    """What one pool takes; all else is refused with 429."""

    deadline_share_max: float = 0.8
    """A call is taken that will most likely be answered in this share of its time. The rest is for what the
    forecast does not know: what comes later and goes first, and servers that turn slower."""
    queued_items_max: int = 100_000
    """Hard bounds on what is held, in items..."""
    queued_bytes_max: int = 512 * 1024 * 1024
    """...and in bytes of UTF-8."""


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """Answers kept for those who ask the same again."""

    bytes_max: int = 0
    """Most that they may take; 0: none are kept."""
    ttl_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class HealthSettings:
    probe_interval_s: float = 0.5
    """Between probes of a deployment that is not up."""
    silent_s_max: float = 10.0
    """A deployment that has not answered for so long is asked whether it still does."""
    probe_timeout_s: float = 10.0
    failures_max: int = 3
    """Failures in a row after which a deployment counts as down; a refused connection does at once."""
    compare_every_s: float = 60.0
    """A deployment that is never silent is all the same asked so often whether its vectors are its pool's."""
    vector_tolerance: float = 0.1
    """How far the vector of a fixed text may be from the pool's, in its length."""


@dataclass(frozen=True, slots=True)
class RetrySettings:
    retries_max: int = 2
    """Further tries of one batch, each on another deployment."""
    budget_ratio: float = 0.2
    """Retries as a share of the batches of the last `budget_window_s` seconds..."""
    budget_per_s: float = 10.0
    """...plus so many a second."""
    budget_window_s: float = 10.0
    hedge_ratio: float = 0.05
    """Batches that may be sent to a second, idle deployment when the first is late, as a share of all."""


@dataclass(frozen=True, slots=True)
class LimitsSettings:
    """What one call may be; past it the caller is told which limit it met."""

    body_bytes_max: int = 32 * 1024 * 1024
    items_max: int = 2048
    """Infinity's own default, INFINITY_MAX_CLIENT_BATCH_SIZE."""
    media_items_max: int = 32
    """Images or audio clips in one call; Infinity's own limit."""
    text_chars_max: int = 8192 * 15
    """Infinity's own limit, in code points after surrounding white space is taken off."""
    timeout_s: float = 30.0
    """How long a call may take when its caller does not say."""
    timeout_s_max: float = 600.0
    """The longest that a caller may ask for."""
    header_bytes_max: int = 32 * 1024
    """The first line of a request and its header fields."""
    headers_max: int = 100
    head_s_max: float = 10.0
    """How long the head of a request may take, from the connection or from its first byte."""
    body_grace_s: float = 10.0
    """In each such time of a body `bytes_per_s_min` must come."""
    unread_s_max: float = 30.0
    """In each such time a caller must take `bytes_per_s_min` of an answer, or what is left of it."""
    bytes_per_s_min: int = 1024
    json_depth_max: int = 64
    """How deep a body may be nested."""
    media_hosts: tuple[str, ...] = ()
    """Whose images and sounds the servers may fetch: `host.name`, or `*.suffix` for all below it."""


@dataclass(frozen=True, slots=True)
class KeySettings:
    """Who may call with one key, and how much; None where there is no limit."""

    name: str
    digest: bytes = field(repr=False)
    """The SHA-256 of the key."""
    models: tuple[str, ...] = ()
    """Names and patterns (`bge-*`) of the models that it may use; all when there are none."""
    requests_per_minute: int | None = None
    items_per_minute: int | None = None
    concurrency: int | None = None
    """Most calls under way at once."""
    bulk: bool = False
    """Its calls may wait behind interactive ones, whatever they ask for."""


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """For connections to the servers: PEM files, which are read again when they change."""

    ca_file: Path | None = None
    """The authorities to trust; None: those of the system."""
    cert_file: Path | None = None
    """The certificate that we show, with its chain; None: none."""
    key_file: Path | None = None
    """Its key; None: it stands in `cert_file`."""


@dataclass(frozen=True, slots=True)
class DrainSettings:
    grace_s: float = 10.0
    """After SIGTERM: still serving while ingresses take notice that readiness fails."""
    in_flight_s_max: float = 30.0
    """Then: how long calls under way may take to end."""


@dataclass(frozen=True, slots=True)
class RouterSettings:
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Another name for a pool → the pool's name."""
    fallbacks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """A pool → the pools to try in order when it cannot answer."""
    default_models: Mapping[Task, str] = field(default_factory=dict)
    """The pool meant by a call that names none."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Everything that `service` and `pool` work from."""

    pools: tuple[PoolSettings, ...] = ()
    servers: tuple[DeploymentSettings, ...] = ()
    """Servers whose models are learned from them; those with the same model form one pool."""
    batching: BatchingSettings = BatchingSettings()
    admission: AdmissionSettings = AdmissionSettings()
    cache: CacheSettings = CacheSettings()
    health: HealthSettings = HealthSettings()
    retry: RetrySettings = RetrySettings()
    limits: LimitsSettings = LimitsSettings()
    router: RouterSettings = RouterSettings()
    upstream_tls: TlsSettings = TlsSettings()
    rerank_by_embedding: bool = False
    """Answer `/rerank` on a model that can only embed, by cosine similarity."""
