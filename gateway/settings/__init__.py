"""`tidegate.yaml` as one frozen Struct tree.

Contract: what stands here is what the file may say, with defaults; the docstring under each field is its
documentation (`docs/settings.md` is generated from it). Reading, locations and cross-checks are in
`gateway/settings/file.py`. Nothing here does I/O. Secrets never appear in a `repr`: API keys are held as
their SHA-256 only.

Durations are seconds as float and sizes bytes as int here; the file writes `250ms`, `64MiB`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from gateway.settings.access import Anonymous, ApiKey, BackendTls, Identity, Jwt, Limits, Mtls, Policy, TenantLimit
from gateway.settings.audit import AskedWitness, Audit, Witnessing
from gateway.settings.forms import Address, ByteQuota, Duration, FilePath, PathOrUrl, Rate, Section, Size, TargetAddress
from gateway.settings.registry import Registry, Store
from gateway.settings.routes import (
    Compare,
    Decision,
    Fairness,
    FairnessAlert,
    FairnessAttribute,
    FairnessJoin,
    Match,
    Monitor,
    Route,
    Shadow,
    Variant,
)
from gateway.settings.upstreams import (
    AdaptiveConcurrency,
    Breaker,
    Ejection,
    Health,
    Hedge,
    ReplicaAddress,
    Retries,
    Upstream,
    UpstreamTls,
)
from gateway.settings.webhooks import WebhookEndpoint, Webhooks

__all__ = [
    "AdaptiveConcurrency",
    "Address",
    "Anonymous",
    "ApiKey",
    "AskedWitness",
    "Audit",
    "BackendTls",
    "Breaker",
    "ByteQuota",
    "Compare",
    "Decision",
    "Duration",
    "Ejection",
    "Fairness",
    "FairnessAlert",
    "FairnessAttribute",
    "FairnessJoin",
    "FilePath",
    "Health",
    "Hedge",
    "Identity",
    "Jwt",
    "Limits",
    "Listen",
    "Logging",
    "Match",
    "Metrics",
    "Monitor",
    "Mtls",
    "OtlpMetrics",
    "PathOrUrl",
    "Policy",
    "Rate",
    "Registry",
    "ReplicaAddress",
    "Retries",
    "Route",
    "Section",
    "Settings",
    "Shadow",
    "Size",
    "Store",
    "TargetAddress",
    "Telemetry",
    "TenantLimit",
    "Tls",
    "Traces",
    "Upstream",
    "UpstreamTls",
    "Variant",
    "WebhookEndpoint",
    "Webhooks",
    "Witnessing",
]


class Tls(Section, frozen=True):
    """TLS of the gateway's own ports; files are read again when they change."""

    cert: FilePath
    """The certificate and its chain (PEM), for an RSA or EC key."""
    key: FilePath
    """Its private key (PEM, without a passphrase); refused when other users may read it."""
    client_ca: FilePath | None = None
    """CAs of client certificates (PEM); turns mTLS on. With `identity.mtls` a certificate is a credential, which
    callers with another one may leave out; without it every client must show one."""


class Listen(Section, frozen=True):
    """Where the gateway listens."""

    http: Address = "127.0.0.1:8080"
    """HTTP: OIP at `/v2`, control API, health and metrics. Port 0 takes a free one."""
    grpc: Address | None = "127.0.0.1:8081"
    """gRPC: OIP's `GRPCInferenceService` and `grpc.health.v1`. `null` turns it off."""
    grpc_engine: Literal["auto", "nghttp2", "grpcio"] = "auto"
    """What carries gRPC. `nghttp2` needs the system's libnghttp2 (1.61, or 1.52 as Debian 12 has it) and less than half
    of the CPU time of `grpcio`; both serve the same. `auto` is `nghttp2` where the library is there, else `grpcio`, and
    the log says so."""
    tls: Tls | None = None
    """TLS on both; absent: plain text."""
    grpc_connection_age: Duration = 60.0
    """gRPC connections are asked to reconnect at about this age (GOAWAY, no call is lost), so that a worker can be
    replaced and load spreads again; a rolling restart waits this long for them. 0: never; replacing a worker then
    cancels calls that arrive as it stops."""
    trusted_proxies: tuple[str, ...] = ()
    """Networks (CIDR) whose `x-forwarded-for` and `forwarded` headers say who the client is. From everybody else
    they are dropped."""


class Metrics(Section, frozen=True):
    """The Prometheus page."""

    enabled: bool = True
    """`GET /metrics`; `false`: 404."""
    credentials: bool = False
    """`true`: needs `read` on `server`."""
    listen: Address | None = None
    """Serve it here instead of on `listen.http`."""


class Traces(Section, frozen=True):
    """Where traces go. `OTEL_EXPORTER_OTLP_*` variables work too; what stands here wins."""

    endpoint: str | None = None
    """OTLP endpoint, such as `http://HOST:4318`. Absent and no OTEL variable: no traces."""
    protocol: Literal["http/protobuf", "grpc"] = "http/protobuf"
    """OTLP over HTTP or gRPC."""
    sample_ratio: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.01
    """Share of requests without a trace context that are traced; a caller's sampled flag is followed."""


class OtlpMetrics(Section, frozen=True):
    """OTLP metrics, besides the Prometheus page."""

    endpoint: str | None = None
    """OTLP endpoint; absent: none are sent."""
    protocol: Literal["http/protobuf", "grpc"] = "http/protobuf"
    """OTLP over HTTP or gRPC."""
    interval: Duration = 30.0
    """Time between two exports."""


class Telemetry(Section, frozen=True):
    """OpenTelemetry."""

    traces: Traces = Traces()
    """Traces."""
    metrics: OtlpMetrics = OtlpMetrics()
    """Metrics by OTLP."""
    service_name: str = "tidegate"
    """`service.name` of the resource."""


class Logging(Section, frozen=True):
    """The gateway's own log, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe level that is written."""
    format: Literal["json", "text"] = "json"
    """One JSON object a line, or text for people."""
    access: bool = False
    """One line for every request."""


class Settings(Section, frozen=True, kw_only=True):
    """The whole file."""

    listen: Listen = Listen()
    """Where the gateway listens."""
    state_dir: FilePath = Path("state")
    """What must outlive a restart; made when missing."""
    workers: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    """Processes that serve; they share the ports and their counters merge."""
    shared_memory: Size = 64 * 1024 * 1024
    """Most bytes of /dev/shm that each worker uses for large tensors, taken as they are needed; half of
    /dev/shm is left to others. `0B`: none."""
    drain: Duration = 30.0
    """On SIGTERM: time for requests in flight to finish before they are cut."""
    upstreams: dict[str, Upstream]
    """Model servers by name; the first is the default."""
    routes: dict[str, Route] = msgspec.field(default_factory=dict)
    """By the model name that clients ask for. None at all: every model of the first upstream, under its own
    name."""
    passthrough: bool = False
    """Models of the first upstream that no route names are served under their own names too; else 404."""
    identity: Identity | None = None
    """Who callers can be."""
    policy: Policy | None = None
    """Who may do what."""
    limits: Limits = Limits()
    """What callers may send, and how fast."""
    audit: Audit = Audit()
    """The audit log."""
    registry: Registry | None = None
    """Which model versions may serve; absent: all."""
    store: Store = Store()
    """Where the registry is kept, what monitors counted, and what webhooks have to tell."""
    webhooks: Webhooks | None = None
    """Who is told of steps of the registry and of the policy; absent: nobody."""
    metrics: Metrics = Metrics()
    """The Prometheus page."""
    telemetry: Telemetry = Telemetry()
    """OpenTelemetry."""
    log: Logging = Logging()
    """The gateway's own log."""
