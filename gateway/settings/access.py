"""The `identity`, `policy` and `limits` sections: who callers are and what they may use."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from gateway.settings.forms import ByteQuota, Duration, FilePath, PathOrUrl, Rate, Section, Size


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
    """Clocks may differ by this much (`exp`, `nbf`); at most 5 min."""


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
    """Casbin policy (CSV); see `docs/policy.md`."""
    model: FilePath | None = None
    """Its Casbin model; absent: the built-in one. Its requests have the fields `sub, dom, obj, act`."""
    approvals: Annotated[int, msgspec.Meta(ge=0, le=9)] = 0
    """How many others must approve an edit of the policy before it takes effect; 0: every valid edit does at once."""
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


class BackendTls(Section, frozen=True):
    """TLS to `limits.backend`; the files are read again for each new connection."""

    ca: FilePath | None = None
    """CAs that its certificate must come from (PEM); absent: the system's."""
    cert: FilePath | None = None
    """The gateway's own certificate, for servers that ask for one."""
    key: FilePath | None = None
    """Its private key; refused when other users may read it."""


class Limits(Section, frozen=True):
    """What callers may send, and how fast."""

    body: Size = 64 * 1024 * 1024
    """Largest body, compressed and uncompressed; beyond: 413 / RESOURCE_EXHAUSTED."""
    header_timeout: Duration = 10.0
    """From the first byte of a request to the end of its headers; then the connection is closed."""
    body_timeout: Duration = 10.0
    """Within it each further KiB of the body, or its end, must arrive; then 408."""
    send_timeout: Duration = 30.0
    """Within it a client must take 32 KiB of an answer that waits, or its end; then the connection is cut, of gRPC
    the call where only its window is too small. `listen.grpc_engine: grpcio` knows no such limit."""
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
    backend_tls: BackendTls | None = None
    """Certificates for a `rediss://` backend."""
    away: Literal["local", "open", "closed"] = "local"
    """When `backend` cannot be asked: each machine counts alone (`local`), no limits hold (`open`), or requests
    of limited tenants are refused with 503 (`closed`)."""
    tenants: dict[str, TenantLimit] = msgspec.field(default_factory=dict)
    """By tenant; `"*"` holds for each tenant not named, separately."""

    def __repr__(self) -> str:
        """Without the backend's URL, which may hold a password."""
        shown = "local" if self.backend == "local" else "..."
        return f"Limits(body={self.body!r}, backend={shown!r}, away={self.away!r}, tenants={self.tenants!r})"
