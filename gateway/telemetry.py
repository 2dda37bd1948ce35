"""Every span, metric and attribute name of the gateway, declared once.

Rules of this file: a name that is exported anywhere stands here and nowhere else. Names without the
`tidegate.` or `tidegate_` prefix are those of the OpenTelemetry semantic conventions 1.45 (HTTP and RPC, both
stable) or of Triton's own spans. No attribute ever carries a credential or tensor contents.
`docs/metrics.md` is generated from the declarations.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

SCOPE = "tidegate"
"""Instrumentation scope of spans and metrics."""
SCHEMA_URL = "https://opentelemetry.io/schemas/1.45.0"

# --- Spans: one server span a request, with these children ---

SPAN_POLICY = "policy"
"""The policy's decision."""
SPAN_ROUTE = "route"
"""Choosing the variant."""
SPAN_TRANSFORM = "transform"
"""Holding the tensors against the model's metadata and bringing them into raw form."""
SPAN_FEATURES = "features"
"""Making the model's tensors of raw columns, on routes with a feature plan."""
SPAN_FORWARD = "forward"
"""The call to the model server, once for each variant tried; kind CLIENT. Triton's spans hang below."""

# --- Attributes ---

HTTP_METHOD = "http.request.method"
"""The HTTP method."""
HTTP_ROUTE = "http.route"
"""The page, with `{model}` for the model's name."""
HTTP_STATUS = "http.response.status_code"
"""The HTTP status of the answer."""
URL_PATH = "url.path"
"""The path as it was asked for."""
URL_SCHEME = "url.scheme"
"""`http`."""
RPC_SYSTEM = "rpc.system.name"
"""`grpc`."""
RPC_METHOD = "rpc.method"
"""The method with its service and package."""
RPC_STATUS = "rpc.response.status_code"
"""The gRPC status name of the answer."""
SERVER_ADDRESS = "server.address"
"""On `forward`: the model server's host."""
SERVER_PORT = "server.port"
"""On `forward`: the model server's port."""
CLIENT_ADDRESS = "client.address"
"""The client's address: the peer, or what `listen.trusted_proxies` say of it."""
ERROR_TYPE = "error.type"
"""The error's class; the span's status is ERROR when the fault was not the caller's."""

TRITON_MODEL = "triton.model_name"
"""The model on the model server."""
TRITON_VERSION = "triton.model_version"
"""The version that served."""

ROUTE = "tidegate.route"
"""The name that the client asked for."""
VARIANT = "tidegate.variant"
"""The variant that answered."""
FELL_BACK = "tidegate.fallback"
"""The variants that were tried after the chosen one had failed, in order, with commas; absent: none."""
UPSTREAM = "tidegate.upstream"
"""The model server's name in the settings."""
RETRIED = "tidegate.retries"
"""On `forward`: further tries; absent: none."""
HEDGED = "tidegate.hedge"
"""On `forward`: `won` or `lost`, when a second try was started; absent: none was."""
TRANSPORT = "network.protocol.name"
"""On `forward`: `http` or `grpc`, as the call travelled."""
TENANT = "tidegate.tenant"
"""The caller's tenant."""
SUBJECT = "tidegate.subject"
"""The caller, `user:NAME`."""
REQUEST_ID = "tidegate.request_id"
"""The request id, as in `x-request-id`."""
SNAPSHOT = "tidegate.snapshot"
"""Hash of the snapshot that decided the request."""
POLICY_LINE = "tidegate.policy.line"
"""Line of the policy's rule that decided."""
ROUTE_DRAWN = "tidegate.route.drawn"
"""How the variant came about: `match`, `hash`, `random`, `sequence` or `version`."""
REQUEST_BYTES = "tidegate.request.bytes"
"""Bytes of the request's body."""
RESPONSE_BYTES = "tidegate.response.bytes"
"""Bytes of the answer's body."""
WORKER = "tidegate.worker"
"""On the resource: the worker's number."""
STEPS_OMITTED = "tidegate.steps_omitted"
"""Steps of a long stream that have no span because the trace has enough of them."""

# --- Metrics ---

Kind: TypeAlias = Literal["counter", "gauge", "max", "min", "info", "histogram"]
"""How values of several workers merge: `counter`, `gauge` and `histogram` add up, `max` and `min` take the
largest and smallest of the workers that live, `info` is 1 with its facts as labels."""

OTHER = "other"
"""The label value that takes what is not known or would be one series too many."""

LATENCY_BOUNDS = (
    *(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    *(1.0, 2.0, 5.0, 10.0, 20.0, 60.0),
)
"""Seconds. 1-2-5 steps: a quantile is never off by more than a factor 2.5 wherever it falls, from a model
that answers in 100 us to the default timeout of a route (60 s)."""

OVERHEAD_BOUNDS = (
    *(0.00001, 0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005),
    *(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
)
"""Seconds. The gateway's own share: the goal is at most 100 us, so that four steps lie below it."""

DIFFERENCE_BOUNDS = (-1.0, -0.1, -0.01, -0.001, 0.0, 0.001, 0.01, 0.1, 1.0)
"""Seconds; negative: the shadow was faster."""


class Metric(msgspec.Struct, frozen=True):
    """One metric family, under its Prometheus name."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets, without +Inf."""
    series: int = 512
    """Most label sets in one worker; what comes after is counted under `other` in every label."""


REQUESTS = Metric(
    "tidegate_requests_total",
    "counter",
    "Requests answered; `code` is the HTTP status or the gRPC status name.",
    ("route", "variant", "protocol", "code", "tenant"),
    series=2048,
)
REQUEST_DURATION = Metric(
    "tidegate_request_duration_seconds",
    "histogram",
    "From the first byte of a request to the last of its answer.",
    ("route", "variant", "protocol"),
    LATENCY_BOUNDS,
)
UPSTREAM_DURATION = Metric(
    "tidegate_upstream_duration_seconds",
    "histogram",
    "From sending a request upstream to its answer.",
    ("route", "variant", "upstream"),
    LATENCY_BOUNDS,
)
OVERHEAD = Metric(
    "tidegate_overhead_seconds",
    "histogram",
    "What the gateway itself adds: request duration minus upstream duration.",
    ("route", "protocol"),
    OVERHEAD_BOUNDS,
)
IN_FLIGHT = Metric("tidegate_requests_in_flight", "gauge", "Requests and streams being served.", ("protocol",))
SHADOW_REQUESTS = Metric("tidegate_shadow_requests_total", "counter", "Copies sent to a shadow.", ("route", "shadow"))
SHADOW_DIFFERENCES = Metric(
    "tidegate_shadow_differences_total",
    "counter",
    "Answers in which an output of the shadow differs beyond tolerance.",
    ("route", "shadow", "output"),
)
SHADOW_ERRORS = Metric("tidegate_shadow_errors_total", "counter", "Copies that failed.", ("route", "shadow"))
SHADOW_DROPPED = Metric(
    "tidegate_shadow_dropped_total", "counter", "Copies not sent: the queue was full.", ("route", "shadow")
)
SHADOW_UNCOMPARED = Metric(
    "tidegate_shadow_uncompared_total",
    "counter",
    "Answers of a shadow that had nothing to be compared with: the request itself failed.",
    ("route", "shadow"),
)
SHADOW_LATENCY = Metric(
    "tidegate_shadow_latency_difference_seconds",
    "histogram",
    "The shadow's latency minus the answer's.",
    ("route", "shadow"),
    DIFFERENCE_BOUNDS,
)
SHADOW_COMPARED = Metric(
    "tidegate_shadow_compared_total",
    "counter",
    "Answers in which an output could be compared.",
    ("route", "shadow", "output"),
)
SHADOW_MISMATCHES = Metric(
    "tidegate_shadow_mismatches_total",
    "counter",
    "Differences by kind: `values`, `shape`, `datatype`, `missing`, `extra` or `unreadable`.",
    ("route", "shadow", "output", "kind"),
)
SHADOW_ELEMENTS = Metric(
    "tidegate_shadow_elements_total",
    "counter",
    "Elements that were compared one by one.",
    ("route", "shadow", "output"),
)
SHADOW_ELEMENTS_DIFFERING = Metric(
    "tidegate_shadow_elements_differing_total",
    "counter",
    "Elements that differ beyond tolerance.",
    ("route", "shadow", "output"),
)
SHADOW_MAX_ABS = Metric(
    "tidegate_shadow_difference_max_abs",
    "max",
    "Largest absolute difference beyond tolerance since the workers started.",
    ("route", "shadow", "output"),
)
SHADOW_MAX_REL = Metric(
    "tidegate_shadow_difference_max_rel",
    "max",
    "Largest relative difference beyond tolerance since the workers started.",
    ("route", "shadow", "output"),
)
SHADOW_ROWS = Metric(
    "tidegate_shadow_rows_total",
    "counter",
    "Rows of class scores that were compared.",
    ("route", "shadow", "output"),
)
SHADOW_AGREE_TOP1 = Metric(
    "tidegate_shadow_agree_top1_total",
    "counter",
    "Rows of class scores whose best class is the same.",
    ("route", "shadow", "output"),
)
SHADOW_AGREE_TOPK = Metric(
    "tidegate_shadow_agree_topk_total",
    "counter",
    "Sum over rows of class scores of the share of the best k classes that both have.",
    ("route", "shadow", "output"),
)
FAIRNESS_ROWS = Metric(
    "tidegate_fairness_rows_total",
    "counter",
    "Rows decided on routes that declare groups, by whether their group is known: `true` or `false`. Not by group.",
    ("route", "known"),
)
FAIRNESS_UNCOUNTED = Metric(
    "tidegate_fairness_uncounted_total",
    "counter",
    "Answers of routes that declare groups from which no decision could be read.",
    ("route",),
)
FAIRNESS_JOINS = Metric(
    "tidegate_fairness_joins_total",
    "counter",
    "Request ids that were told of later: `joined`, `again`, `late`, `unmatched` or `undeclared` (docs/fairness.md).",
    ("route", "result"),
)
FAIRNESS_ALERT = Metric(
    "tidegate_fairness_alert",
    "max",
    "1 while one group is surely selected less often than another, as `fairness.alert` says; else 0. Not of whom.",
    ("route",),
)
UNIT_MISSING = Metric(
    "tidegate_assignments_without_unit_total",
    "counter",
    "Requests without the unit that their route assigns by; drawn at random.",
    ("route",),
)
FALLBACKS = Metric(
    "tidegate_fallbacks_total", "counter", "Requests sent on to a fallback variant.", ("route", "variant")
)
RETRIES = Metric("tidegate_retries_total", "counter", "Requests sent again to the same upstream.", ("upstream",))
LIMITS_BACKEND_UP = Metric(
    "tidegate_limits_backend_up",
    "min",
    "Whether `limits.backend` can be asked: 1, or 0 when a worker cannot; absent with `local`.",
)
LIMITS_AWAY = Metric(
    "tidegate_limits_away_total",
    "counter",
    "Requests decided without `limits.backend`, by what `limits.away` says: local, open or closed.",
    ("decision",),
)
SHED = Metric(
    "tidegate_shed_total",
    "counter",
    "Requests turned away for want of room at a model, by the tenant's class: `queue` (waited too long), `full` (too "
    "many wait) or `deadline` (could not have been in time).",
    ("upstream", "model", "priority", "reason"),
)
CONCURRENCY_LIMIT = Metric(
    "tidegate_concurrency_limit",
    "gauge",
    "Requests that may be in flight to a model, all workers together.",
    ("upstream", "model"),
)
CONCURRENCY_IN_FLIGHT = Metric(
    "tidegate_concurrency_in_flight", "gauge", "Requests that have a place at a model.", ("upstream", "model")
)
CONCURRENCY_QUEUED = Metric(
    "tidegate_concurrency_queued", "gauge", "Requests that wait for a place at a model.", ("upstream", "model")
)
LIMITED = Metric(
    "tidegate_limited_total",
    "counter",
    "Requests turned away by a tenant's limit: `rate`, `concurrent` or `bytes`.",
    ("tenant", "limit"),
)
UNAPPROVED = Metric(
    "tidegate_registry_unapproved_total",
    "counter",
    "Requests served by a version that the registry does not allow (`registry.enforce: warn`).",
    ("route", "variant"),
)
UPSTREAM_READY = Metric("tidegate_upstream_ready", "min", "1 when every worker sees the upstream ready.", ("upstream",))
REPLICA_READY = Metric(
    "tidegate_replica_ready",
    "min",
    "1 when every worker sees the replica ready; 0 also once it has left.",
    ("upstream", "replica"),
)
CIRCUIT_STATE = Metric(
    "tidegate_circuit_state",
    "max",
    "The circuit breaker of a model on a replica, as the worker sees it that has it most open: 0 closed again, 1 half "
    "open (a probe was let through), 2 open. No series: it has never opened.",
    ("upstream", "replica", "model"),
)
UPSTREAM_EVENTS = Metric(
    "tidegate_upstream_events_total",
    "counter",
    "What happened on the way to an upstream; `docs/metrics.md` lists the events.",
    ("upstream", "event"),
)
SNAPSHOT_SINCE = Metric(
    "tidegate_snapshot_since_seconds",
    "min",
    "Unix time at which the snapshot took force, on the worker that has its own longest.",
)
RELOADS = Metric(
    "tidegate_reloads_total",
    "counter",
    "Times that a worker read its files again: `swapped`, `unchanged` or `refused`.",
    ("outcome",),
)
SNAPSHOT_INFO = Metric("tidegate_snapshot_info", "info", "The snapshot in force.", ("hash",))
BUILD_INFO = Metric("tidegate_build_info", "info", "The running version.", ("version",))
SPANS_EXPORTED = Metric("tidegate_spans_exported_total", "counter", "Spans that the OTLP endpoint took.")
SPANS_DROPPED = Metric(
    "tidegate_spans_dropped_total",
    "counter",
    "Spans lost: `queue_full`, or `export` when the OTLP endpoint did not take them.",
    ("reason",),
)
EXPORT_FAILURES = Metric(
    "tidegate_export_failures_total",
    "counter",
    "Exports that failed, by `traces` or `metrics`.",
    ("signal",),
)
WORKER_TASKS = Metric(
    "tidegate_worker_tasks",
    "gauge",
    "asyncio tasks of a worker, as of the last second: its own, and one or more for each request in flight.",
    ("worker",),
)
AUDIT_DROPPED = Metric(
    "tidegate_audit_dropped_total",
    "counter",
    "Decisions that were served and are in no record: the audit log could not be written and `audit.on_failure` is "
    "`serve`, or a record could not be made, which is a defect and in the log.",
)
SHARED_MEMORY = Metric(
    "tidegate_shared_memory_bytes",
    "gauge",
    "Memory that workers share with model servers: `allocated` of /dev/shm, and `leased` of that to calls.",
    ("state",),
)
DRIFT_ROWS = Metric(
    "tidegate_drift_rows", "max", "Rows that a route's monitor has seen since its profile took force.", ("route",)
)
DRIFT_UNSEEN = Metric(
    "tidegate_drift_unseen_calls",
    "max",
    "Served calls whose inputs a monitor could not see: in shared memory, or of other shapes than the profile's.",
    ("route",),
)
DRIFT_HIDDEN = Metric(
    "tidegate_drift_hidden_columns",
    "max",
    "Columns of a monitor beyond the first 100, which have no series; the monitor's page has them.",
    ("route",),
)
DRIFT_ALARM = Metric("tidegate_drift_alarm", "max", "1 while an alarm of drift is on, else 0.", ("route",))
DRIFT_ALARMS = Metric(
    "tidegate_drift_alarms_total", "counter", "Alarms of drift that began; false ones are budgeted.", ("route",)
)
DRIFT_PSI = Metric(
    "tidegate_drift_psi",
    "max",
    "Population stability index of a column, all rows served against the profile; absent below 30 values.",
    ("route", "column"),
    series=2048,
)
DRIFT_JS = Metric(
    "tidegate_drift_js",
    "max",
    "Jensen-Shannon distance (base 2, 0 to 1) of a column, all rows served against the profile.",
    ("route", "column"),
    series=2048,
)
DRIFT_MISSING = Metric(
    "tidegate_drift_missing_ratio",
    "max",
    "Share of the rows served in which a column was missing.",
    ("route", "column"),
    series=2048,
)
QUALITY_BROKEN = Metric(
    "tidegate_quality_broken_rows",
    "max",
    "Rows served that broke a constraint on a column, since the constraints took force.",
    ("route", "column", "constraint"),
    series=2048,
)
QUALITY_REFUSED = Metric(
    "tidegate_quality_refused_calls",
    "max",
    "Calls refused for a constraint on a column, since the constraints took force.",
    ("route", "column", "constraint"),
    series=2048,
)
QUALITY_VIOLATED = Metric(
    "tidegate_quality_violated",
    "max",
    "1 while what was served violates a constraint on a column, else 0; absent while there are too few rows to say.",
    ("route", "column", "constraint"),
    series=2048,
)
SERIES_FOLDED = Metric(
    "tidegate_metrics_folded_total",
    "counter",
    "Times a label set was counted under `other` because its metric has too many.",
    ("metric",),
)

METRICS: tuple[Metric, ...] = (
    REQUESTS,
    REQUEST_DURATION,
    UPSTREAM_DURATION,
    OVERHEAD,
    IN_FLIGHT,
    SHADOW_REQUESTS,
    SHADOW_DIFFERENCES,
    SHADOW_ERRORS,
    SHADOW_DROPPED,
    SHADOW_UNCOMPARED,
    SHADOW_LATENCY,
    SHADOW_COMPARED,
    SHADOW_MISMATCHES,
    SHADOW_ELEMENTS,
    SHADOW_ELEMENTS_DIFFERING,
    SHADOW_MAX_ABS,
    SHADOW_MAX_REL,
    SHADOW_ROWS,
    SHADOW_AGREE_TOP1,
    SHADOW_AGREE_TOPK,
    FAIRNESS_ROWS,
    FAIRNESS_UNCOUNTED,
    FAIRNESS_JOINS,
    FAIRNESS_ALERT,
    UNIT_MISSING,
    FALLBACKS,
    RETRIES,
    LIMITED,
    SHED,
    CONCURRENCY_LIMIT,
    CONCURRENCY_IN_FLIGHT,
    CONCURRENCY_QUEUED,
    LIMITS_BACKEND_UP,
    LIMITS_AWAY,
    UNAPPROVED,
    UPSTREAM_READY,
    REPLICA_READY,
    CIRCUIT_STATE,
    UPSTREAM_EVENTS,
    SNAPSHOT_INFO,
    SNAPSHOT_SINCE,
    RELOADS,
    BUILD_INFO,
    SPANS_EXPORTED,
    SPANS_DROPPED,
    EXPORT_FAILURES,
    WORKER_TASKS,
    AUDIT_DROPPED,
    SHARED_MEMORY,
    DRIFT_ROWS,
    DRIFT_UNSEEN,
    DRIFT_HIDDEN,
    DRIFT_ALARM,
    DRIFT_ALARMS,
    DRIFT_PSI,
    DRIFT_JS,
    DRIFT_MISSING,
    QUALITY_BROKEN,
    QUALITY_REFUSED,
    QUALITY_VIOLATED,
    SERIES_FOLDED,
)
"""What a worker's registry holds."""

WORKERS = Metric("tidegate_workers", "gauge", "Workers that live.")
WORKER_CPU = Metric(
    "tidegate_worker_cpu_seconds_total", "counter", "User and system CPU time of a worker.", ("worker",)
)
WORKER_MEMORY = Metric("tidegate_worker_resident_memory_bytes", "gauge", "Resident memory of a worker.", ("worker",))
WORKER_FDS = Metric("tidegate_worker_open_fds", "gauge", "Open file descriptors of a worker.", ("worker",))
WORKER_START = Metric("tidegate_worker_start_time_seconds", "gauge", "Start of a worker, Unix time.", ("worker",))
CONNECTIONS = Metric(
    "tidegate_connections",
    "gauge",
    "Open client connections of all workers, by `http`, `grpc` and `metrics`, from the operating system.",
    ("door",),
)

PROCESS_METRICS: tuple[Metric, ...] = (
    WORKERS,
    WORKER_CPU,
    WORKER_MEMORY,
    WORKER_FDS,
    WORKER_START,
    CONNECTIONS,
)
"""What is read from the operating system when the page is asked for."""
