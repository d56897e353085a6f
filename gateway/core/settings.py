"""The settings that the parts below the edge work from: plain frozen records, checked before they are made.

`gateway.config` reads them from YAML and the environment. Each part is given the smallest record it needs.
Times are seconds, sizes are bytes unless a name says otherwise.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

from gateway.core.packing import TOKENS_MAX
from gateway.messages import Scalar, Task

LogFormat = Literal["auto", "json", "human"]
LogLevel = Literal["info", "warning", "error"]
Family = Literal["any", "ipv4", "ipv6"]


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
    address: str | None = None
    """The one address of its host to connect to, where each is a server of its own; None: any."""

    @property
    def place(self) -> "Place":
        return Place(self.api_base, self.address)


class Place(NamedTuple):
    """What tells servers apart."""

    api_base: str
    address: str | None


@dataclass(frozen=True, slots=True)
class NameSettings:
    """A name of which each address is a server."""

    host: str
    port: int
    template: DeploymentSettings
    """What the servers have in common: all but name and address. Its `api_base` has the name."""
    path: str = ""
    """Of `api_base`."""
    family: Family = "any"
    """Which addresses count. Where each server has one of both, only one of them may."""

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def deployment(self, address: str) -> DeploymentSettings:
        """The server at one of the addresses, which is in numbers."""
        return replace(self.template, name=self.prefix(address) + self.path, address=address)

    def prefix(self, address: str) -> str:
        """What the name of the server there begins with."""
        return f"{f'[{address}]' if ':' in address else address}:{self.port}"


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
    names: tuple[NameSettings, ...] = ()
    """Whose addresses are deployments as well."""

    @property
    def server_model(self) -> str | None:
        """What all its deployments serve, there or not yet; None where that is not known."""
        templates = (*self.deployments, *(name.template for name in self.names))
        return templates[0].server_model if templates else None


@dataclass(frozen=True, slots=True)
class BatchingSettings:
    """When a batch leaves, and how large."""

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
    """Hard bound on what is held of one model, in items."""
    queued_bytes_max: int = 512 * 1024 * 1024
    """The same in bytes of UTF-8."""


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """Answers kept for those who ask the same again."""

    bytes_max: int = 0
    """Most that they may take; 0: none are kept."""
    ttl_s: float = 3600.0
    """How long one is kept."""


@dataclass(frozen=True, slots=True)
class HealthSettings:
    """When a deployment gets work, and when no more."""

    probe_interval_s: float = 0.5
    """Between probes of a deployment that is not up."""
    silent_s_max: float = 10.0
    """A deployment that has not answered for so long is asked whether it still does."""
    probe_timeout_s: float = 10.0
    """How long a probe may take."""
    failures_max: int = 3
    """Failures in a row after which a deployment counts as down; a refused connection does at once."""
    compare_every_s: float = 10.0
    """A deployment that is never silent is all the same asked so often whether its vectors are its pool's."""
    vector_tolerance: float = 0.1
    """How far the vector of a fixed text may be from the pool's, in its length; past it a deployment gets no
    work."""


@dataclass(frozen=True, slots=True)
class DiscoverySettings:
    """Servers found by name."""

    refresh_s: float = 5.0
    """How often each name is looked up, give or take a tenth; at once when one of its servers goes down."""
    names: tuple[NameSettings, ...] = ()
    """Whose addresses are servers whose models are learned from them."""


@dataclass(frozen=True, slots=True)
class RetrySettings:
    """How often what failed, or is late, is tried elsewhere."""

    retries_max: int = 2
    """Further tries of one batch, each on another deployment."""
    budget_ratio: float = 0.2
    """Most retries, as a share of the batches of the last `budget_window_s`."""
    budget_per_s: float = 10.0
    """So many a second may be retried beyond that."""
    budget_window_s: float = 10.0
    """How far back the share looks."""
    hedge_ratio: float = 0.05
    """Batches that may be sent to a second, idle deployment when the first is late, as a share of all;
    0: none."""


_BODIES_BYTES = 256 * 1024 * 1024
"""Their texts take as much again once they are read: a container of 768 MiB has room for both."""
BODIES_MIN = 2
"""Bodies of the largest size that must have room together."""
_ITEMS = 2048
_PARTS_AN_ITEM = 128
"""A document of forty fields has fewer."""


@dataclass(frozen=True, slots=True)
class LimitsSettings:
    """What one call may be; past it the caller is told which limit it met."""

    body_bytes_max: int = 32 * 1024 * 1024
    """The body of a request."""
    bodies_bytes_max: int | None = None
    """Bodies that come in, and those of calls that are not answered yet, together; None: 256 MiB, or two of
    the largest where that is more."""
    items_max: int = _ITEMS
    """Texts or documents in one call; Infinity's own default, INFINITY_MAX_CLIENT_BATCH_SIZE."""
    media_items_max: int = 32
    """Images or audio clips in one call; Infinity's own limit."""
    text_chars_max: int = 8192 * 15
    """One text; Infinity's own limit, in code points after surrounding white space is taken off."""
    timeout_s: float = 30.0
    """How long a call may take when its caller does not say."""
    timeout_s_max: float = 600.0
    """The longest that a caller may ask for."""
    header_bytes_max: int = 32 * 1024
    """The first line of a request and its header fields."""
    headers_max: int = 100
    """Header fields; past these or those bytes 431."""
    head_s_max: float = 10.0
    """How long the head of a request may take, from the connection or from its first byte; past it 408."""
    body_grace_s: float = 10.0
    """In each such time of a body `bytes_per_s_min` must come, else 408."""
    unread_s_max: float = 30.0
    """In each such time a caller must take `bytes_per_s_min` of an answer, or what is left of it, else the
    connection is cut."""
    bytes_per_s_min: int = 1024
    """The slowest that a body may come, and an answer be taken."""
    keep_alive_s: float = 75.0
    """How long a connection may stay without a call. Longer than the ingress keeps it (60 for most), so that
    it is never closed here just when a call comes over it."""
    json_depth_max: int = 64
    """How deep a body may be nested."""
    media_hosts: tuple[str, ...] = ()
    """Whose images and sounds the servers may fetch: `host.name`, or `*.suffix` for all below it."""

    @property
    def in_all_bodies_max(self) -> int:
        """Bytes of all bodies together."""
        return self.bodies_bytes_max or max(_BODIES_BYTES, BODIES_MIN * self.body_bytes_max)

    @property
    def json_parts_max(self) -> int:
        """Strings, commas and opening brackets in a large body."""
        return _PARTS_AN_ITEM * max(_ITEMS, self.items_max)


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
    """How the process ends."""

    grace_s: float = 10.0
    """After SIGTERM: still serving while ingresses take notice that readiness fails."""
    in_flight_s_max: float = 30.0
    """Then: how long calls under way may take to end."""


@dataclass(frozen=True, slots=True)
class LoggingSettings:
    """What is written to standard error."""

    format: LogFormat = "auto"
    """`auto`: for people on a terminal, JSON elsewhere."""
    level: LogLevel = "info"
    """Lines below it are left out."""
    access_log: float = 0.0
    """The share of calls with a line of their own; those that ended with 5xx have one where it is above 0."""


@dataclass(frozen=True, slots=True)
class RouterSettings:
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Another name for a pool → the pool's name."""
    fallbacks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """A pool → the pools to try in order when it cannot answer."""
    default_models: Mapping[Task, str] = field(default_factory=dict)
    """The pool meant by a call that names none: `embed`, `rerank` or `classify` → its name."""


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
    discovery: DiscoverySettings = DiscoverySettings()
    retry: RetrySettings = RetrySettings()
    limits: LimitsSettings = LimitsSettings()
    router: RouterSettings = RouterSettings()
    upstream_tls: TlsSettings = TlsSettings()
    rerank_by_embedding: bool = False
    """Answer `/rerank` on a model that can only embed, by cosine similarity."""

    @property
    def names(self) -> tuple[NameSettings, ...]:
        """All that are to be looked up."""
        return (*self.discovery.names, *(name for pool in self.pools for name in pool.names))
