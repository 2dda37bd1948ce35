"""The request, steps 2 to 11, as one straight function. `docs/life-of-a-request.md` has the same numbers.

Contract: knows no door and no socket. Steps 2 to 7 are synchronous but for a model's metadata that is not
yet known; then it waits once, for the model server. Whatever happens, `_observe` sees the request exactly
once and the admission ticket is given back.

Refusals come in this order: 401, 403, 404, 429/503, 400 (framing and 413 were the door's). So the body is
not looked at before the caller is known, allowed and admitted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from traceback import clear_frames
from typing import TYPE_CHECKING, Any

from gateway import logs, telemetry
from gateway.admission import Ticket
from gateway.admission.priority import DEFAULT_CLASS, priority_of
from gateway.approvals import refused
from gateway.decisions import durable
from gateway.errors import (
    BadRequest,
    Cancelled,
    DeadlineExceeded,
    Defect,
    NotFound,
    TidegateError,
    Unsupported,
    UpstreamAnswered,
    not_the_clients_fault,
)
from gateway.headers import Headers, Standing, upstream_headers
from gateway.identity import KeysNeeded
from gateway.routing import CallView, sequence_id, upstream_sequence_id
from gateway.transform import columns_of
from gateway.upstream.plan import CallPlan
from gateway.usual import Usual
from gateway.wire import validate

if TYPE_CHECKING:
    from gateway.admission import Admission
    from gateway.admission.concurrency import Gate, Gates
    from gateway.approvals import Approvals
    from gateway.decisions import Decisions, Written
    from gateway.exchange import Exchange
    from gateway.observe import Observer
    from gateway.routing import Assignment, CompiledRoute
    from gateway.routing.lane import Copy
    from gateway.routing.shadows import Dropped, ShadowRunner
    from gateway.snapshot import Snapshot
    from gateway.tracing import Step
    from gateway.upstream import Upstream
    from gateway.wire.types import InferAnswer, InferCall
    from gateway.wire.validate import ModelSignature
    from governance.types import Subject

_log = logs.get("pipeline")
_now = time.perf_counter
# Triton's own words; a stream is what such a model needs.
_DECOUPLED = {
    "http": "HTTP end point doesn't support models with decoupled transaction policy",
    "grpc": "ModelInfer RPC doesn't support models with decoupled transaction policy",
}


class Pipeline:
    """Steps 2 to 11 of every inference request of this worker."""

    def __init__(
        self, admission: Admission, gates: Gates, observer: Observer, shadows: ShadowRunner, decisions: Decisions
    ) -> None:
        self._admission = admission
        self._decisions = decisions
        self.gates = gates
        self._observer = observer
        self._usual = Usual(observer, decisions)
        self._shadows = shadows

    async def infer(self, x: Exchange) -> Any:
        """One unary inference request, from its bytes to the door's own form of the answer.

        Raises:
            TidegateError: what the client is to be told.
        """
        try:
            await self.enter(x)  # 3 identify, 4 decide, 5 admit
            call = x.call = x.decode()  # 2 decode, now that it is worth it
            if "timeout" in call.parameters:
                x.hurry(call.parameters["timeout"])
            assignment = self.assign(x, call)  # 6 route
            if x.snapshot.features:
                await self.transform(x, call)  # 7 transform
            try:
                answer = await self._forward(x, call, assignment)  # 7 validate, 8 forward
            except TidegateError as error:
                answer = await self._fall_back(x, call, assignment, error)
            answer.model_name = x.model
            x.answer = answer
            reply = x.encode(answer)  # 11 answer
        except TidegateError as error:
            x.error = error
            raise
        except asyncio.CancelledError:
            x.error = Cancelled("the client went away")
            raise
        except Exception as error:  # the last line of defence: whatever it is, the client gets no internals
            _log.exception("a defect", extra={"fields": {"request_id": x.request_id}})
            x.error = Defect(repr(error))
            raise x.error from error
        else:
            if x.snapshot.fairness:
                self.watch(x, answer)  # 9 observe
            return reply
        finally:
            gone = isinstance(x.error, Cancelled)
            written = self.leave(x)  # 9 observe, 10 record
            if written is not None and not gone:
                await durable(written)

    async def enter(self, x: Exchange) -> None:
        """Steps 3 to 5: who asks, may they, is there such a model, is there room.

        Whoever calls it MUST call `leave`, however the request ends.
        """
        self._decisions.admit()
        snapshot = x.snapshot
        x.route = snapshot.routes.routes.get(x.model)  # first: who is refused is counted under it too
        headers = x.headers
        standing = headers.standing if type(headers) is Headers else None
        if standing is not None and standing.of is snapshot.hash and not x.trace.sampled:
            x.subject = subject = standing.subject
            x.decision_line = standing.line
            assert subject is not None
        else:
            subject = await self._known_and_allowed(x)
        if x.route is None or x.version:
            x.route = await find_route(snapshot, x.model, x.version)
        if snapshot.approvals is not None:
            snapshot.approvals.admit(x.route, x.version)
        ticket = self._admission.enter(subject.tenant, x.nbytes)
        x.ticket = ticket if isinstance(ticket, Ticket) else await ticket

    @staticmethod
    async def _known_and_allowed(x: Exchange) -> Subject:
        """Steps 3 and 4; kept where only the head and the snapshot say so."""
        snapshot, headers = x.snapshot, x.headers
        try:
            x.subject = subject = snapshot.identifier.identify(headers, x.certificate)
        except KeysNeeded:
            x.subject = subject = await snapshot.identifier.identified(headers, x.certificate)
        with x.trace.span(telemetry.SPAN_POLICY):
            x.decision_line = snapshot.authorise_infer(subject, x.model)
        # A listed key holds as long as the settings do; tokens expire, and a certificate is the connection's.
        if subject.method == "api_key" and type(headers) is Headers and headers.standing is not None:
            headers.standing = Standing(snapshot.hash, subject, x.decision_line)
        return subject

    def begun(self, x: Exchange) -> Written:
        """A stream is about to give its first answer; what that has to wait for (`decisions.durable`)."""
        return self._decisions.begun(x)

    def leave(self, x: Exchange) -> Written:
        """Give the room back, count the request and record it; what its answer has to wait for."""
        if x.ticket is not None:
            self._admission.leave(x.ticket, x.nbytes_out)
        if self._usual.leave(x):
            return None
        self._observer.finished(x)
        written = self._decisions.inference(x)
        if x.error is not None:
            # Its traceback holds frames, which hold it and the tensors: the collector may come late.
            clear_frames(x.error.__traceback__)
            x.error = None
        return written

    @staticmethod
    def watch(x: Exchange, answer: InferAnswer) -> None:
        """Of step 9: count what an answer decides on whom, where the route declares it."""
        watch = x.snapshot.fairness.get(x.route_name)
        if watch is not None:
            watch.count(x, answer)

    def assign(self, x: Exchange, call: InferCall, draws: dict[str, int] | None = None) -> Assignment:
        """Step 6: one variant, maybe shadows. `draws` is kept per stream."""
        assert x.route is not None
        assert x.subject is not None
        parameters = call.parameters
        plain = draws is None and not x.version and "sequence_id" not in parameters
        assignment = x.route.drawn() if plain and not x.trace.sampled else None
        if assignment is None:
            with x.trace.span(telemetry.SPAN_ROUTE):
                assignment = (x.route.drawn() if plain else None) or x.route.assign(self._view(x, call, draws))
        x.assignment = assignment
        x.variant = assignment.variant
        if assignment.unit_missing:
            self._observer.assigned(x, assignment)
        if x.snapshot.approvals is not None:
            self._approved(x, x.snapshot.approvals, assignment)
        if "sequence_id" not in parameters:
            return assignment
        if x.snapshot.settings.identity is not None:
            sequence = sequence_id(call.parameters)
            if sequence is not None:
                # Two tenants that choose the same id must not meet in one state.
                call.parameters = {
                    **call.parameters,
                    "sequence_id": upstream_sequence_id(x.subject.tenant, sequence),
                }
        return assignment

    def _approved(self, x: Exchange, approvals: Approvals, to: Assignment) -> None:
        """The version may serve. Raises Forbidden where that is enforced; else it is counted."""
        model = to.variant.model
        why = approvals.why_not(model, to.version)
        if why:
            if approvals.enforcing:
                raise refused(x.model, why, to.variant.name)
            self._observer.unapproved(x, to)
        x.notices = approvals.notices(model, to.version or approvals.live(model))

    @staticmethod
    def _view(x: Exchange, call: InferCall, draws: dict[str, int] | None = None) -> CallView:
        """What routing may know of the call."""
        assert x.subject is not None
        x.view = CallView(
            x.subject,
            headers=x.headers,
            parameters=call.parameters,
            id=call.id,
            version=x.version,
            draws=draws,
        )
        return x.view

    @staticmethod
    async def transform(x: Exchange, call: InferCall) -> None:
        """Step 7 of a route with a feature plan: its columns become the model's tensors."""
        features = x.snapshot.features.get(x.route_name)
        if features is None:
            return
        inputs, rows = call.inputs, call.rows
        limit = x.snapshot.settings.limits.body
        with x.trace.span(telemetry.SPAN_FEATURES):
            if features.many(call):
                await asyncio.to_thread(features.apply, call, limit)
            else:
                features.apply(call, limit)
        monitor = x.snapshot.monitors.get(x.route_name)
        if monitor is not None and call.inputs is not inputs and features.has(monitor.names):
            x.raw = inputs if rows is None else columns_of(rows)

    @staticmethod
    def judge(x: Exchange, call: InferCall) -> None:
        """Of step 7: hold a call in raw form against constraints of its route that refuse. Raises BadRequest."""
        judged = x.snapshot.judged
        monitor = judged.get(x.route_name) if judged else None
        if monitor is not None:
            monitor.judge(call.inputs if x.raw is None else x.raw)

    async def _fall_back(
        self, x: Exchange, call: InferCall, assignment: Assignment, last: TidegateError
    ) -> InferAnswer:
        """Steps 7 and 8 again after `last`: the fallbacks, where the failure is not the client's.

        What a fallback then refuses is no news to the client, whose request the chosen variant took: it is told what
        failed before.
        """
        assert x.route is not None
        if not not_the_clients_fault(last):
            raise last
        failed = x.variant, x.notices
        for other in x.route.fallbacks(x.view or self._view(x, call), assignment):
            if x.time_left() <= 0:
                break
            self.fell_back(x, other, last)
            try:
                return await self._forward(x, call, other)
            except TidegateError as error:
                if not_the_clients_fault(error):
                    last, failed = error, (x.variant, x.notices)
        x.variant, x.notices = failed
        raise last

    async def _forward(self, x: Exchange, call: InferCall, to: Assignment) -> InferAnswer:
        upstream = x.snapshot.upstreams[to.variant.upstream]
        signature = None if x.trace.sampled else self._found_to_fit(call, upstream, to)
        if signature is None:
            with x.trace.span(telemetry.SPAN_TRANSFORM):
                signature = self._found_to_fit(call, upstream, to) or await self.fit(x, call, to)
        if signature.decoupled:
            raise Unsupported(_DECOUPLED[x.protocol])
        self.judge(x, call)
        left = x.time_left()
        if left <= 0:
            raise DeadlineExceeded("the request's time was over before it could be forwarded")
        assert x.route is not None
        plan = CallPlan(
            idempotent=x.route.idempotent,
            sequence=sequence_id(call.parameters) if "sequence_id" in call.parameters else None,
            hurried=x.deadline is not None and x.hurried(left),
            heeds_timeout=signature.heeds_timeout,
        )
        headers = self.travelling(x, upstream.name)
        copies = self.mirror(x, call, to) if to.shadows else ()
        answer: InferAnswer | None = None
        began = _now()
        gate = self.gates.of(upstream.name, to.variant.model)
        place = 1 if gate is None else gate.try_enter(began)
        try:
            if gate is not None and not place:
                place = await self.wait(x, call, gate, began)
                began = _now()
                left = x.time_left()
            context = x.trace.propagation()
            asking = upstream.infer(
                call,
                model=to.variant.model,
                version=to.version,
                headers=[*headers, *context] if context else headers,
                timeout=left,
                plan=plan,
            )
            answer = await (_traced(x, asking, to, plan) if x.trace.sampled else asking)
            x.answered_by = answer.model_version
        except UpstreamAnswered as error:
            if plan.replica is not None and plan.replica.lacks(to.variant.model, error):
                raise missing(x, to, error) from None
            raise
        else:
            return answer
        finally:
            ended = _now()
            if gate is not None and place:
                gate.leave(place, began, ended, answer is not None)
            x.upstream_seconds += ended - began
            for copy in copies:
                copy.primary_done(answer)

    async def wait(self, x: Exchange, call: InferCall, gate: Gate, now: float) -> int:
        """A place at a model that has none free, by priority. Raises Overloaded."""
        assert x.subject is not None
        tenants = x.snapshot.settings.limits.tenants
        limit = tenants.get(x.subject.tenant) or tenants.get("*")
        tenant_class = DEFAULT_CLASS if limit is None or limit.priority is None else limit.priority
        priority = priority_of(tenant_class, call.parameters.get("priority"))
        return await gate.wait(priority, x.time_left(), x.nbytes, now)

    def fell_back(self, x: Exchange, to: Assignment, error: TidegateError) -> None:
        """Another variant serves from here on."""
        self._observer.fell_back(x, to, error)
        x.fallbacks = (*x.fallbacks, to.variant.name)
        x.variant = to.variant
        approvals = x.snapshot.approvals
        if approvals is not None:
            x.notices = approvals.notices(to.variant.model, to.version)

    def mirror(self, x: Exchange, call: InferCall, to: Assignment) -> list[Copy | Dropped]:
        """Copies for the shadows of a call whose tensors are raw; they are sent when nobody waits."""
        watch = x.snapshot.fairness.get(x.route_name)
        return [
            self._shadows.offer(
                shadow,
                call,
                x.snapshot.upstreams[shadow.upstream],
                self.travelling(x, shadow.upstream),
                room=self.gates.room(to.variant.upstream, to.variant.model)
                and self.gates.room(shadow.upstream, shadow.model),
                decided=None if watch is None else watch.shadowed(x, shadow.name),
            )
            for shadow in to.shadows
        ]

    @staticmethod
    def travelling(x: Exchange, upstream: str) -> list[tuple[str, str]]:
        """The client's headers that travel to an upstream."""
        return upstream_headers(x.headers, x.snapshot.allowed_headers[upstream], x.request_id)

    @staticmethod
    async def signature(x: Exchange, to: Assignment) -> ModelSignature:
        """What the model takes and gives. Raises what it means that the server does not have it."""
        upstream = x.snapshot.upstreams[to.variant.upstream]
        known = upstream.known_signature(to.variant.model, to.version)
        if known is not None:
            return known
        try:
            return await _in_time(x, upstream.signature(to.variant.model, to.version))
        except NotFound as error:
            raise missing(x, to, error) from None

    @staticmethod
    def _found_to_fit(call: InferCall, upstream: Upstream, to: Assignment) -> ModelSignature | None:
        """As `fit`, where a call of the same head has been found to fit; None: it has to be looked at."""
        known = call.known
        if known is None:
            return None
        signature = upstream.known_signature(to.variant.model, to.version)
        return signature if signature is not None and known.fits(signature) else None

    @staticmethod
    async def fit(x: Exchange, call: InferCall, to: Assignment) -> ModelSignature:
        """Step 7: hold the tensors against the model's metadata and bring them into raw form.

        A refusal is checked once against fresh metadata, since the model may just have been reloaded.
        """
        signature = await Pipeline.signature(x, to)
        try:
            validate.check(call, signature)
        except BadRequest:
            upstream = x.snapshot.upstreams[to.variant.upstream]
            fresh = await _in_time(x, upstream.fresh_signature(to.variant.model, to.version))
            features = x.snapshot.features.get(x.route_name)
            if features is not None and (why := features.misfits(fresh)):
                # The client had no part in it.
                message = "the route's feature plan does not fit the model that serves it"
                raise UpstreamAnswered(message, status=503, detail=why) from None
            if fresh is signature:
                raise
            validate.check(call, fresh)
            return fresh
        if call.known is not None:
            call.known.found_to_fit(signature)
        return signature


async def _traced(x: Exchange, asking: Coroutine[Any, Any, InferAnswer], to: Assignment, plan: CallPlan) -> InferAnswer:
    """The call to the model server, as a span of its own."""
    with x.trace.span(telemetry.SPAN_FORWARD) as span:
        span.set(telemetry.UPSTREAM, to.variant.upstream)
        span.set(telemetry.TRITON_MODEL, to.variant.model)
        span.set(telemetry.TRITON_VERSION, to.version)
        try:
            return await asking
        finally:
            tell(span, plan)


def tell(span: Step, plan: CallPlan) -> None:
    """What became of a call upstream, on its span."""
    if plan.replica is not None:
        host, _, port = plan.replica.address.rpartition(":")
        span.set(telemetry.SERVER_ADDRESS, host)
        span.set(telemetry.SERVER_PORT, int(port))
        span.set(telemetry.TRANSPORT, plan.transport)
    if plan.retries:
        span.set(telemetry.RETRIED, plan.retries)
    if plan.hedge:
        span.set(telemetry.HEDGED, plan.hedge)


def missing(x: Exchange, to: Assignment, error: TidegateError) -> TidegateError:
    """What it means that a model server does not have the model or version of a variant.

    The client's fault only where the client chose the name or the version; else whoever wrote the route did, and a
    fallback may serve.
    """
    assert x.route is not None
    if x.route.implicit or (x.version and not to.variant.version):
        return error
    return UpstreamAnswered("the model server does not have what serves this route", status=503, detail=error.message)


async def _in_time(x: Exchange, asking: Coroutine[Any, Any, ModelSignature]) -> ModelSignature:
    """A model's metadata, asked for within the request's time. Raises DeadlineExceeded."""
    try:
        async with asyncio.timeout(max(x.time_left(), 0.0)):
            return await asking
    except TimeoutError:
        raise DeadlineExceeded("the model server did not say in time what the model takes") from None


async def find_route(snapshot: Snapshot, model: str, version: str) -> CompiledRoute:
    """The route of a name; for a passed-through one the model server has to know it.

    Raises:
        NotFound: no such route, or no such model or version behind it.
        BadRequest: the version is no number (gRPC; an HTTP address with one is no page).
    """
    route = snapshot.routes.lookup(model)
    if route is None:
        raise NotFound(f"Request for unknown model: '{model}' is not found")
    if version and not (version.isascii() and version.isdigit()):
        raise BadRequest(
            f"failed to get model version from specified version string '{version}', "
            "version should be an integral value > 0"
        )
    if route.implicit:
        upstream = snapshot.upstreams[route.variants[0].upstream]
        if upstream.known_signature(model, version) is None:
            await upstream.signature(model, version)
    return route
