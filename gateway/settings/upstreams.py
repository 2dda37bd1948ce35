"""The `upstreams` section: model servers, and what is done when they fail."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from gateway.settings.forms import Duration, FilePath, Section, TargetAddress


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
    """Failures in a row (no connection, broken, unreadable, no answer in time) that eject a replica."""
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
    shared_memory: Literal["auto", "off"] = "auto"
    """`auto`: large tensors reach a Triton (2.51 or later) on this machine, which sees the same /dev/shm, through
    shared memory instead of its connection, and so do its answers."""
    connections: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 256
    """Most HTTP connections of one worker to it."""
    forward_headers: tuple[str, ...] = ("traceparent", "tracestate", "baggage", "x-request-id")
    """Headers and gRPC metadata that travel upstream when there is an `identity` section. Without one all
    but hop-by-hop headers and credentials do."""
