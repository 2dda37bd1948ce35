"""The soak's site: two real Tritons as replicas, and two real gateways in front: one in plain text, one with TLS."""

from __future__ import annotations

import asyncio
import hashlib
import signal
import threading
import time
from pathlib import Path

from changing import quick
from driving import alive, children, replace, until
from gateway_fixture import Answer, Gateway, start_gateway
from test_identity_jwt import jwk, key_set, token
from tls_fixture import Authority, Issued, https, put, trusting
from triton_fixture import TEST_MODELS, RunningTriton, free_ports, launch

from gateway.triton import ManagedTriton

ALICE, BOB, CAROL, STRANGER = "key-of-alice", "key-of-bob", "key-of-carol", "key-of-nobody"
MODELS = ("identity_fp32", "sequence_accumulate", "repeat_int32", "params_echo")
AGE_S = 20
"""Of gRPC connections: they come of age many times in an hour."""
WORKERS = 2
"""Of the first gateway."""
SMALL_RATE = 20
"""Requests a second that carol's tenant may make, and as many at once."""
POLICY = """\
p, user:alice, lab, *, infer, allow
p, user:alice, lab, *, read, allow
p, user:alice, lab, model:params_echo, load, allow
p, user:alice, lab, model:params_echo, unload, allow
p, user:alice, *, server, read, allow
p, user:bob, shop, model:plain, infer, allow
p, user:bob, shop, model:flip, infer, {flip}
p, user:carol, small, model:plain, infer, allow
p, role:scorer, acme, model:plain, infer, allow
"""
TEXT = """
workers: {workers}
drain: 20s
routes:
  plain: {{variants: [{{name: only, model: identity_fp32}}]}}
  flip: {{variants: [{{name: only, model: identity_fp32}}]}}
  split:
    variants:
      - {{name: a, model: identity_fp32, weight: {weight}}}
      - {{name: b, model: identity_fp32, weight: 50}}
    shadows: [{{name: s, model: identity_fp32, sample: 0.5, compare: {{rtol: 1.0e-4}}}}]
  stream: {{variants: [{{name: only, model: repeat_int32}}]}}
  sum: {{variants: [{{name: only, model: sequence_accumulate}}]}}
passthrough: true
identity:
  api_keys: [{keys}]
  jwt: [{{issuer: https://issuer, audience: tidegate, jwks: keys.json}}]
policy: {{file: policy.csv}}
limits:
  tenants:
    lab: {{concurrent: 200}}
    shop: {{concurrent: 100}}
    small: {{rate: {rate}/s, burst: {rate}}}
"""


def settings(turn: int = 0, workers: int = WORKERS) -> str:
    """All but `listen` and `upstreams`; each turn has another share."""
    people = [(ALICE, "alice", "lab"), (BOB, "bob", "shop"), (CAROL, "carol", "small")]
    keys = ", ".join(
        f"{{sha256: {hashlib.sha256(key.encode()).hexdigest()}, user: {user}, tenant: {tenant}}}"
        for key, user, tenant in people
    )
    return TEXT.format(workers=workers, weight=50 + turn % 40, keys=keys, rate=SMALL_RATE)


def bearer() -> str:
    """A token of tenant acme for ten minutes."""
    now = time.time()
    return f"Bearer {token(iat=now, exp=now + 600)}"


class Tritons:
    """Servers that are started again when they end, in a thread with a loop of their own."""

    def __init__(self, folder: Path, count: int) -> None:
        models = folder / "models"
        models.mkdir(parents=True)
        for name in MODELS:
            (models / name).symlink_to(TEST_MODELS / name)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        wanted = [launch([models]) for _ in range(count)]
        self.servers = [
            ManagedTriton(one, folder / f"triton{at}.log", backoff=(0.5, 1.0)) for at, one in enumerate(wanted)
        ]
        self.addresses = [
            (f"{one.listen.host}:{one.listen.http}", f"{one.listen.host}:{one.listen.grpc}") for one in wanted
        ]
        for server in self.servers:
            self._run(server.start())

    def _run(self, work) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(120)

    def stop(self) -> None:
        """All of them."""
        for server in self.servers:
            self._run(server.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Site:
    """Everything that runs."""

    def __init__(self, folder: Path) -> None:
        self.tritons = Tritons(folder, 2)
        try:
            self.metrics_port = free_ports(1)[0]
            self.gateway = self._plain(folder)
            self.authority = Authority()
            self.certificates = folder / "certificates"
            self.certificates.mkdir()
            self.shown = self.certify()
            self.tls = self._encrypted(folder)
        except BaseException:
            self.tritons.stop()
            raise

    def _plain(self, folder: Path) -> Gateway:
        first = RunningTriton(*self.tritons.addresses[0], "", 0, folder / "triton0.log")
        files = {"policy.csv": POLICY.format(flip="allow"), "keys.json": key_set(jwk("RS256", "r"))}
        self._tail = f"metrics: {{listen: '127.0.0.1:{self.metrics_port}'}}\nstate_dir: state\n"
        one = quick(folder / "gateway", first, settings() + self._tail, age=f"{AGE_S}s", files=files)
        # `quick` writes a single upstream: the file as it is meant takes force before anything is measured.
        self._head = one.config.read_text().partition("\n")[0] + "\n" + self._upstreams()
        self.gateway = one
        self.write(settings())
        until(self.both_ready, 60, "both replicas are ready")
        return one

    def _encrypted(self, folder: Path) -> Gateway:
        http, grpc = (f"127.0.0.1:{port}" for port in free_ports(2))
        cert, key = self.certificates / "server.pem", self.certificates / "server.key"
        listen = f"http: '{http}', grpc: '{grpc}', grpc_connection_age: {AGE_S}s, tls: {{cert: {cert}, key: {key}}}"
        files = {"policy.csv": POLICY.format(flip="allow"), "keys.json": key_set(jwk("RS256", "r"))}
        text = f"listen: {{{listen}}}\n{self._upstreams()}{settings(workers=1)}"
        one = start_gateway(folder / "tls", text, files=files, wait="")
        one.http, one.grpc = http, grpc
        until(lambda: "serving: http" in one.log.read_text(), 30, "the gateway with TLS serves")
        context = trusting(self.authority.pem)
        until(lambda: https(http, context, "GET", "/readyz")[0] == 200, 30, "the gateway with TLS is ready")
        return one

    def _upstreams(self) -> str:
        rows = ", ".join(f"{{http: '{http}', grpc: '{grpc}'}}" for http, grpc in self.tritons.addresses)
        return f"upstreams: {{triton: {{replicas: [{rows}]}}}}\n"

    def certify(self) -> Issued:
        """Another certificate in the files of the gateway with TLS."""
        issued = self.authority.server()
        issued.write(self.certificates, "server")
        return issued

    def mismatch(self) -> None:
        """A key that is not the certificate's in the files of the gateway with TLS."""
        put(self.certificates / "server.key", self.authority.server().key, 0o600)

    def write(self, text: str) -> None:
        """Other settings, to be read now."""
        replace(self.gateway.config, self._head + text + self._tail)
        self.gateway.process.send_signal(signal.SIGHUP)

    def write_policy(self, flip: str) -> None:
        """Another policy, to be read now: whether bob may ask `flip`."""
        replace(self.gateway.folder / "policy.csv", POLICY.format(flip=flip))
        self.gateway.process.send_signal(signal.SIGHUP)

    def page(self, path: str) -> Answer:
        """A control page of the gateway, as alice."""
        return self.gateway.get(path, {"x-api-key": ALICE})

    def agreed_on_another(self, before: str) -> bool:
        """Whether all workers have one snapshot, and not the one of this hash.

        By one answer: between two of them one worker might swap. A worker that is being started may have read the
        files before an edit, so all must be there.
        """
        state = self.page("/gateway/v1/snapshot")
        if state.status != 200:
            return False
        document = state.json()
        return document["agreed"] and document["hash"] != before and len(document["workers"]) >= WORKERS

    def both_ready(self) -> bool:
        """Whether the worker that answers sees both replicas ready; they are asked a few times, since any may."""

        def states() -> list[str]:
            answer = self.page("/gateway/v1/upstreams")
            rows = answer.json()[0].get("replicas", ()) if answer.status == 200 else ()
            return [replica["state"] for replica in rows]

        return all(states() == ["ready", "ready"] for _ in range(4))

    def workers(self, gateway: Gateway | None = None) -> list[int]:
        """Process ids of a gateway's workers that live."""
        return [pid for pid in children((gateway or self.gateway).process.pid) if alive(pid)]

    def stop(self) -> dict[str, int]:
        """Everything; exit statuses of the gateways."""
        running = {"gateway": self.gateway, "gateway with TLS": self.tls}
        statuses = {name: one.stop(timeout=60) for name, one in running.items()}
        self.tritons.stop()
        return statuses
