"""`tidegate.yaml` as one frozen Struct tree.

Contract: what stands here is what the file may say, with defaults; the docstring under each field is its
documentation (`docs/settings.md` is generated from it). Reading, locations and cross-checks are in
`gateway/settings/file.py`. Nothing here does I/O. Secrets never appear in a `repr`: API keys are held as
their SHA-256 only.

Durations are seconds as float and sizes bytes as int here; the file writes `250ms`, `64MiB`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import msgspec

Duration: TypeAlias = Annotated[float, msgspec.Meta(extra_json_schema={"x-form": "duration"})]
"""Seconds; written `250ms`, `2s`, `5m`, `1h`."""
Size: TypeAlias = Annotated[int, msgspec.Meta(extra_json_schema={"x-form": "size"})]
"""Bytes; written `64MiB`, `10KiB`, `1000`."""
Rate: TypeAlias = Annotated[float, msgspec.Meta(extra_json_schema={"x-form": "rate"})]
"""Requests a second; written `1000/s`, `60/m`."""
ByteQuota: TypeAlias = Annotated[int, msgspec.Meta(extra_json_schema={"x-form": "quota"})]
"""Bytes a day; written `10GiB/day`."""
Address: TypeAlias = Annotated[str, msgspec.Meta(extra_json_schema={"x-form": "address"})]
"""`HOST:PORT`."""
TargetAddress: TypeAlias = Annotated[str, msgspec.Meta(extra_json_schema={"x-form": "target"})]
"""`HOST:PORT`, or `dns://HOST:PORT`: every address that the name has, looked up again and again."""
FilePath: TypeAlias = Annotated[Path, msgspec.Meta(extra_json_schema={"x-form": "path"})]
"""A path; relative ones are relative to the settings file."""

PathOrUrl: TypeAlias = Annotated[str, msgspec.Meta(extra_json_schema={"x-form": "path-or-url"})]
"""A path, relative to the settings file; or an `http://` or `https://` URL."""


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all sections."""


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
    tls: Tls | None = None
    """TLS on both; absent: plain text."""
    grpc_connection_age: Duration = 60.0
    """gRPC connections are asked to reconnect at about this age (GOAWAY, no call is lost), so that a worker can be
    replaced and load spreads again; a rolling restart waits this long for them. 0: never; replacing a worker then
    cancels calls that arrive as it stops."""
    trusted_proxies: tuple[str, ...] = ()
    """Networks (CIDR) whose `x-forwarded-for` and `forwarded` headers say who the client is. From everybody else
    they are dropped."""


class ReplicaAddress(Section, frozen=True):
    """One of several servers behind one name."""

    http: TargetAddress
    """Its HTTP address."""
    grpc: TargetAddress | None = None
    """Its gRPC address."""


class UpstreamTls(Section, frozen=True):
    """TLS to a model server; files are read again when they change."""

    ca: FilePath | None = None
    """CAs that its certificate must come from (PEM); absent: the system's."""
    cert: FilePath | None = None
    """The gateway's own certificate, for servers that ask for one."""
    key: FilePath | None = None
    """Its private key; refused when other users may read it."""
    server_name: str | None = None
    """Name that its certificate must have; absent: the host of the address."""


class Health(Section, frozen=True):
    """Active health checks."""

    interval: Duration = 1.0
    """Between two looks at a replica."""
    timeout: Duration = 2.0
    """A look that takes longer has failed."""
    unhealthy_after: Annotated[int, msgspec.Meta(ge=1)] = 2
    """Failed looks in a row after which a replica gets no more traffic; a refused connection counts at once."""
    healthy_after: Annotated[int, msgspec.Meta(ge=1)] = 1
    """Good looks in a row after which it gets traffic again."""
    warmup: Duration = 10.0
    """A replica that comes (back) beside others gets its full share after this long, less before."""


class Ejection(Section, frozen=True):
    """Passive health: replicas that fail real requests are left out for a while (Envoy's outlier detection)."""

    consecutive_failures: Annotated[int, msgspec.Meta(ge=1)] = 5
    """Failures in a row (no connection, broken, 502, 503, 504) that eject a replica."""
    success_rate_stdev: Annotated[float, msgspec.Meta(ge=0)] = 1.9
    """A replica whose success rate is this many standard deviations below the mean of all is ejected; 0: never."""
    success_rate_requests: Annotated[int, msgspec.Meta(ge=1)] = 100
    """Requests within `interval` without which a replica's success rate is not judged."""
    interval: Duration = 10.0
    """Between two judgements of success rates."""
    time: Duration = 5.0
    """How long the first time; each further time as much longer, up to ten times."""
    max_share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    """Largest share of the replicas that may be ejected at once; the last one never is."""


class Breaker(Section, frozen=True):
    """Circuit breaker of each replica and model."""

    failures: Annotated[int, msgspec.Meta(ge=1)] = 5
    """Failures in a row (no connection, broken, 502, 503, 504) that open it."""
    open: Duration = 1.0
    """How long nothing is sent then; doubles each time the probe fails, up to 30 s."""
    probes: Annotated[int, msgspec.Meta(ge=1)] = 1
    """Requests let through at a time while it is half open."""


class Retries(Section, frozen=True):
    """Sending a request again, where that is safe."""

    attempts: Annotated[int, msgspec.Meta(ge=0, le=10)] = 2
    """Most further tries of one request; 0: none."""
    budget: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.2
    """Retries and hedges, as a share of the requests of the last 10 s."""
    min_per_second: Annotated[float, msgspec.Meta(ge=0)] = 3
    """Retries a second that the budget always has, for upstreams with little traffic."""


class Hedge(Section, frozen=True):
    """A second try of an idempotent unary call while the first has not answered, on another replica."""

    quantile: Annotated[float, msgspec.Meta(ge=0.5, lt=1)] = 0.95
    """It starts after this quantile of the model's latency."""
    at_least: Duration = 0.005
    """And never earlier."""


class AdaptiveConcurrency(Section, frozen=True):
    """How many requests of a model may be in flight is found from latency, by each worker."""

    enabled: bool = True
    """`false`: only `connections` bounds them."""
    max: Annotated[int, msgspec.Meta(ge=1)] = 1000
    """Largest limit of one worker for one model."""
    min: Annotated[int, msgspec.Meta(ge=1)] = 2
    """Smallest limit."""
    tolerance: Annotated[float, msgspec.Meta(ge=1)] = 2.0
    """Latency, in multiples of the unloaded latency, that is still no overload."""
    queue: Duration = 0.5
    """Wait for a place, while ever more wait, that means overload: from then on requests that cannot be served soon
    are answered 503 with `Retry-After`. For slow models ten times their unloaded latency where that is longer."""


class Upstream(Section, frozen=True):
    """One model server (Triton, or any server that speaks OIP), or several replicas of it."""

    http: TargetAddress | None = None
    """Its HTTP address; inference is sent there. `dns://HOST:PORT`: each address of the name is a replica."""
    grpc: TargetAddress | None = None
    """Its gRPC address; needed for streams (`ModelStreamInfer`, decoupled models) and gRPC control calls."""
    replicas: tuple[ReplicaAddress, ...] = ()
    """Several servers with the same models, in place of `http` and `grpc`."""
    tls: UpstreamTls | None = None
    """TLS to it; absent: plain text."""
    unary: Literal["auto", "http", "grpc"] = "auto"
    """How unary calls travel. `auto`: over HTTP, which costs less; over gRPC, where a client that leaves cancels
    the server's work, for models that are slow or not known yet."""
    health: Health = Health()
    """Active health checks."""
    ejection: Ejection = Ejection()
    """Passive health."""
    breaker: Breaker = Breaker()
    """Circuit breakers."""
    retries: Retries = Retries()
    """Retries, and the budget that hedges share."""
    hedge: Hedge | None = None
    """Hedging; absent: off. `{}` turns it on."""
    concurrency: AdaptiveConcurrency = AdaptiveConcurrency()
    """Adaptive concurrency limit of each model."""
    binary: Literal["auto", "always", "never"] = "auto"
    """Whether it takes tensors in OIP's binary extension. `auto`: as its server metadata says
    (`binary_tensor_data`); `never` sends JSON, as MLServer needs."""
    drain_streams: Literal["auto", "always", "never"] = "auto"
    """What happens upstream when a client leaves a stream early: read it to its end and throw the rest away
    (`always`), or cancel it (`never`). `auto` drains Triton up to 2.51: it can crash on a cancelled one."""
    connections: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 256
    """Most HTTP connections of one worker to it."""
    forward_headers: tuple[str, ...] = ("traceparent", "tracestate", "baggage", "x-request-id")
    """Headers and gRPC metadata that travel upstream when there is an `identity` section. Without one all
    but hop-by-hop headers and credentials do."""


class Compare(Section, frozen=True):
    """When a shadow's output counts as different."""

    rtol: Annotated[float, msgspec.Meta(ge=0)] = 1e-5
    """Relative tolerance: values differ when |shadow - answer| > atol + rtol * |answer|."""
    atol: Annotated[float, msgspec.Meta(ge=0)] = 1e-8
    """Absolute tolerance, in the output's own unit."""


class Variant(Section, frozen=True):
    """One way to serve a route."""

    name: str
    """Its name in answers (`x-tidegate-variant`), metrics and records."""
    model: str
    """The model's name on the upstream."""
    version: str | None = None
    """The model's version; absent: the upstream's own choice (Triton: the latest)."""
    upstream: str | None = None
    """Which of `upstreams`; absent: the first one."""
    weight: Annotated[float, msgspec.Meta(ge=0)] = 1
    """Its share in proportion to the other weights; 0 draws nothing."""


class Match(Section, frozen=True):
    """A rule that names the variant outright."""

    headers: dict[str, str]
    """All of these headers (gRPC: metadata) must have exactly these values; names in any case."""
    variant: str
    """The variant that serves then."""


class Shadow(Section, frozen=True):
    """A copy of the traffic that nobody waits for."""

    name: str
    """Its name in metrics."""
    model: str
    """The model's name on the upstream."""
    version: str | None = None
    """The model's version; absent: the upstream's own choice."""
    upstream: str | None = None
    """Which of `upstreams`; absent: the first one."""
    sample: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
    """Share of the route's requests that are copied. A sequence is copied whole or not at all."""
    compare: Compare = Compare()
    """Tolerances of the comparison with the answer."""
    concurrency: Annotated[int, msgspec.Meta(ge=1)] = 8
    """Most copies in flight in one worker."""
    queue: Annotated[int, msgspec.Meta(ge=0)] = 64
    """Most copies waiting in one worker; beyond it a copy is dropped and counted."""
    timeout: Duration = 10.0
    """After which a copy counts as an error."""


class Route(Section, frozen=True):
    """A model name that clients may ask for, and what serves it."""

    variants: tuple[Variant, ...] = ()
    """Absent: one variant `default`, the model of the route's name on the first upstream."""
    assign_by: str = "request"
    """What is assigned to a variant: `request` (each alone, at random), `header:NAME`, `parameter:NAME`,
    `subject`, `tenant` or `id`; all but `request` give the same unit the same variant everywhere."""
    salt: str | None = None
    """Salt of the assignment; absent: the route's name. Another salt draws the units anew."""
    match: tuple[Match, ...] = ()
    """Rules before the split: the first that holds decides."""
    shadows: tuple[Shadow, ...] = ()
    """Models that get a copy of the requests."""
    fallback: tuple[str, ...] = ()
    """Variants tried in order when the chosen one fails for a reason that is not the client's."""
    timeout: Duration = 60.0
    """Longest time for one request; then 504 / DEADLINE_EXCEEDED. For streams: between two responses."""
    idempotent: bool = True
    """Unary calls outside of sequences may be sent again (retries, hedges, fallback); `false`: each is sent once."""


class ApiKey(Section, frozen=True):
    """One API key, held as its digest."""

    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    """SHA-256 of the key in lower-case hex; `tidegate keys new` makes key and line."""
    user: str
    """Whose it is; `user:NAME` in the policy."""
    tenant: str
    """The user's tenant."""


class Anonymous(Section, frozen=True):
    """The caller without a credential."""

    user: str = "anonymous"
    """`user:NAME` in the policy."""
    tenant: str = "public"
    """Its tenant."""


class Jwt(Section, frozen=True):
    """JSON Web Tokens of one issuer (OpenID Connect): RS256, ES256 or EdDSA."""

    issuer: str
    """`iss` must be this."""
    audience: str
    """`aud` must be or hold this."""
    jwks: PathOrUrl
    """The issuer's keys (JWK Set): a file, or an http(s) URL that is read again when a key id is unknown."""
    user_claim: str = "sub"
    """Claim with the user's name; dots reach into objects, such as `realm.user`."""
    tenant_claim: str = "tenant"
    """Claim with the tenant."""
    roles_claim: str = "roles"
    """Claim with the roles, a list or one text; absent in a token: none. Role R acts as `role:R`."""
    leeway: Duration = 30.0
    """Clocks may differ by this much (`exp`, `nbf`)."""


class Mtls(Section, frozen=True):
    """Client certificates as credentials; needs `listen.tls.client_ca`."""

    tenant: str
    """The tenant of all who come with one."""
    user_from: Literal["san_uri", "san_dns", "cn"] = "san_uri"
    """Which name of the certificate is the user: the one URI, whole (such as `spiffe://...`), or the first DNS
    name of the subject alternative names, or the subject's one common name. A certificate without it: 401."""


class Identity(Section, frozen=True):
    """Who callers can be. Absent: everyone is anonymous, and only loopback addresses may be listened on."""

    api_keys: tuple[ApiKey, ...] = ()
    """`X-API-Key: KEY` or `Authorization: Bearer KEY`."""
    jwt: tuple[Jwt, ...] = ()
    """`Authorization: Bearer TOKEN`."""
    mtls: Mtls | None = None
    """Client certificates."""
    anonymous: Anonymous | None = None
    """Absent: callers without a credential are refused (401)."""


class Policy(Section, frozen=True):
    """Who may do what.

    Absent: callers may only `infer` and `read` models; with no `identity` section either: everything.
    """

    file: FilePath
    """Casbin policy (CSV) of the built-in model; see `docs/policy.md`."""
    tests: FilePath | None = None
    """Policy tests (YAML); a policy that fails one does not take effect."""


class TenantLimit(Section, frozen=True):
    """What one tenant may use."""

    rate: Rate | None = None
    """Requests a second over all workers; beyond: 429 with `Retry-After`."""
    burst: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Requests that may come at once; absent: one second's worth."""
    concurrent: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Requests in flight over all workers."""
    bytes: ByteQuota | None = None
    """Bytes of request and response bodies a day (UTC)."""
    priority: Annotated[int, msgspec.Meta(ge=1, le=100)] | None = None
    """Class of its requests when there is not room for all, 1 the highest (as Triton's `priority`, which takes
    part within the class); absent: 10."""


class Limits(Section, frozen=True):
    """What callers may send, and how fast."""

    body: Size = 64 * 1024 * 1024
    """Largest body, compressed and uncompressed; beyond: 413 / RESOURCE_EXHAUSTED."""
    header_timeout: Duration = 10.0
    """From the first byte of a request to the end of its headers; then the connection is closed."""
    body_timeout: Duration = 10.0
    """Within it each further KiB of the body, or its end, must arrive; then 408."""
    send_timeout: Duration = 30.0
    """Within it a client must take some of an HTTP answer that waits for it; then the connection is cut."""
    idle_timeout: Duration = 75.0
    """An HTTP connection without a request is closed after it. Longer than the 60 s of most clients and proxies,
    so that they close first."""
    connections: Annotated[int, msgspec.Meta(ge=1)] = 10_000
    """Most connections of one worker to each door; beyond it HTTP answers 503 and gRPC closes. Each holds a file
    descriptor and about 20 KiB."""
    tensors: Annotated[int, msgspec.Meta(ge=1)] = 4096
    """Most inputs and outputs of one request; beyond: 400 / INVALID_ARGUMENT."""
    backend: str = "local"
    """Where tenants' quotas are counted: `local` (this machine, exact over its workers), or
    `redis://[USER:PASSWORD@]HOST:PORT[/DB]` (`rediss://` for TLS), exact over all gateways on it."""
    away: Literal["local", "open", "closed"] = "local"
    """When `backend` cannot be asked: each machine counts alone (`local`), no limits hold (`open`), or requests
    of limited tenants are refused with 503 (`closed`)."""
    tenants: dict[str, TenantLimit] = {}
    """By tenant; `"*"` holds for each tenant not named, separately."""

    def __repr__(self) -> str:
        """Without the backend's URL, which may hold a password."""
        shown = "local" if self.backend == "local" else "..."
        return f"Limits(body={self.body!r}, backend={shown!r}, away={self.away!r}, tenants={self.tenants!r})"


class Audit(Section, frozen=True):
    """The audit log."""

    mode: Literal["off"] = "off"
    """This version writes no audit log; other modes are refused rather than ignored."""


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
    drain: Duration = 30.0
    """On SIGTERM: time for requests in flight to finish before they are cut."""
    upstreams: dict[str, Upstream]
    """Model servers by name; the first is the default."""
    routes: dict[str, Route] = {}
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
    metrics: Metrics = Metrics()
    """The Prometheus page."""
    telemetry: Telemetry = Telemetry()
    """OpenTelemetry."""
    log: Logging = Logging()
    """The gateway's own log."""
