"""The pipeline's steps, one by one, on a worker's real objects. `ABOUT` says more, on the page too."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from bench import configs
from bench.cases_kernels import answer_of, signature_of, upstream_answer
from bench.counted import Suite
from bench.load import HTTP_BODY, HTTP_HEADERS, JSON, MODEL, PATH, TENSOR, grpc_message
from bench.upstream import Server
from gateway import lastgood, telemetry
from gateway.admission.concurrency import Gate
from gateway.app import Application, Place
from gateway.doors.http import HttpExchange
from gateway.headers import from_asgi, request_id
from gateway.operations import parse_path
from gateway.settings.file import load
from gateway.upstream.http_head import header_block, request_line
from gateway.wire import grpc as grpc_codec
from gateway.wire import http as http_codec
from gateway.wire import validate
from governance.types import Subject

_LIMITS = {
    "tenants": {"limited": {"rate": "1000000000/s", "burst": 1_000_000, "concurrent": 1000, "bytes": f"{1 << 47}/day"}}
}
_SENT = {"Host": "127.0.0.1:8080", **HTTP_HEADERS, "Content-Length": str(len(HTTP_BODY)), "User-Agent": "bench"}
_RAW = [(name.lower().encode(), value.encode()) for name, value in _SENT.items()]


ABOUT = (
    "The governed configuration, compiled as a worker compiles it; a tenant with a rate, a concurrency and a quota of "
    "bytes stands beside the one of the load. No model server takes part: what a step costs in the gateway is the same "
    "whoever answers. Numbers are those of docs/life-of-a-request.md. Sockets, the event loop and the HTTP parser are "
    "not among the steps: the section of the gateway alone has the whole request."
)
SIGNATURE = signature_of(32)
ID_AND_TRACE = "1 request id and trace decision"
POLICY = "4 decide, 1,000 rules, seen before"
QUOTA = "5 admit, rate, concurrency and bytes"
ASSIGNMENT = "6 route"
COUNTER = "9 one counter, found by its labels"
HISTOGRAM = "9 one histogram, found by its labels"


class Site:
    """One worker, not serving; its methods give the calls that are measured."""

    def __init__(self, folder: Path, rules: int = configs.POLICY_RULES) -> None:
        (folder / "policy.csv").write_text(configs.policy(rules))
        nobody, neither = "127.0.0.1:9", "127.0.0.1:10"
        text = configs.tidegate_governed(
            Server(nobody, neither, ""), "127.0.0.1:0", "127.0.0.1:0", folder, f"http://{nobody}"
        )
        config = folder / "tidegate.yaml"
        config.write_text(json.dumps(json.loads(text) | {"limits": _LIMITS}))
        settings, findings = load(config)
        if settings is None:
            raise RuntimeError(str(findings[0]))
        run_dir = folder / "run"
        run_dir.mkdir()
        lastgood.keep(run_dir, settings)
        self.app = Application(Place(config=config, slot=0, run_dir=run_dir, slots=2, grpc=None))
        self.snapshot = self.app.snapshot
        self.headers = from_asgi(_RAW)
        self.subject: Subject = self.snapshot.identifier.identify(self.headers)
        self.call = http_codec.decode_request(HTTP_BODY, len(JSON), MODEL, "")
        validate.check(self.call, SIGNATURE)

    def exchange(self) -> HttpExchange:
        """A request that the door has read."""
        return HttpExchange(
            self.snapshot,
            self.headers,
            operation="infer",
            model=MODEL,
            version="",
            body=HTTP_BODY,
            request_id="0" * 32,
            peer="127.0.0.1",
            certificate=None,
        )

    def routed(self) -> HttpExchange:
        """The same, after step 6."""
        x = self.exchange()
        _driven(self.app.pipeline.enter(x))
        self.app.pipeline.assign(x, self.call)
        return x

    def door(self) -> None:
        """What a door finds out about every request."""
        request_id(self.headers)
        self.app.tracing.start(self.headers)

    def admitted(self, tenant: str) -> Callable[[], object]:
        """In and out."""
        admission = self.app.admission
        return lambda: admission.leave(admission.enter(tenant, 200))

    def assigned(self) -> Callable[[], object]:
        """Step 6 of the same request again and again."""
        return partial(self.app.pipeline.assign, self.routed(), self.call)

    def gate(self) -> Callable[[], object]:
        """In and out, with room."""

        async def find() -> Gate | None:
            return self.app.pipeline.gates.of("triton", MODEL)

        found = asyncio.run(find())  # a gate sets timers
        assert found is not None
        return lambda: found.leave(found.try_enter(1.0), 1.0, 1.001, True)

    def head(self) -> Callable[[], object]:
        """Request line and headers for the model server."""
        x, travelling = self.routed(), self.app.pipeline.travelling
        return lambda: request_line("POST", PATH) + header_block(travelling(x, "triton"))

    def encoded(self) -> Callable[[], object]:
        """The answer in the client's form."""
        x = self.routed()
        x.call = self.call
        return partial(x.encode, answer_of(TENSOR))

    def observed(self) -> Callable[[], object]:
        """Start and end."""
        x, observer = self.routed(), self.app.observer
        x.upstream_seconds = 0.0005

        def both() -> None:
            observer.started(x)
            observer.finished(x)

        return both

    def counted(self) -> Callable[[], object]:
        """One counter."""
        family = self.app.registry.counter(telemetry.REQUESTS)
        return lambda: family.labels(MODEL, "champion", "http", "200", "acme").inc()

    def timed(self) -> Callable[[], object]:
        """One histogram."""
        family = self.app.registry.histogram(telemetry.REQUEST_DURATION)
        return lambda: family.labels(MODEL, "champion", "http").observe(0.0012)

    def entered(self) -> None:
        """All steps that need neither the body nor the model server."""
        x = self.exchange()
        self.app.observer.started(x)
        _driven(self.app.pipeline.enter(x))
        self.app.pipeline.assign(x, self.call)
        self.app.pipeline.leave(x)


def _driven(coroutine: Coroutine[Any, Any, Any]) -> None:
    """To its end; a step that waits is none of those that are measured here."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise RuntimeError("it waited")


def steps(folder: Path) -> Suite:
    """Each step's call."""
    site = Site(folder)
    snapshot = site.snapshot
    return {
        "1 headers to a mapping": lambda: partial(from_asgi, _RAW),
        "1 address, seen before": lambda: partial(parse_path, "POST", PATH.encode()),
        ID_AND_TRACE: lambda: site.door,
        "1 exchange": lambda: site.exchange,
        "3 identify, an API key seen before": lambda: partial(snapshot.identifier.identify, site.headers),
        POLICY: lambda: partial(snapshot.authorise, site.subject, f"model:{MODEL}", "infer"),
        "5 admit, no limits": lambda: site.admitted("acme"),
        QUOTA: lambda: site.admitted("limited"),
        "2 decode": lambda: site.exchange().decode,
        "2 decode, gRPC": lambda: partial(grpc_codec.decode_request, grpc_message()),
        ASSIGNMENT: site.assigned,
        "7 check against the signature": lambda: partial(validate.check, site.call, SIGNATURE),
        "8 the model's gate": site.gate,
        "8 head of the request upstream": site.head,
        "8 body of the request upstream": lambda: partial(http_codec.encode_request, site.call),
        "8 read the answer": upstream_answer,
        "11 encode": site.encoded,
        "11 encode, gRPC": lambda: partial(grpc_codec.encode_response, answer_of(TENSOR)),
        "9 observe": site.observed,
        COUNTER: site.counted,
        HISTOGRAM: site.timed,
        "3-6 and 9 as the pipeline runs them": lambda: site.entered,
    }
