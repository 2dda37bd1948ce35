"""One upstream of the settings: one model server or several replicas of it, seen as one.

Contract: callers ask an upstream and never a replica, save where the answer is each replica's own
(`replicas`) or a stream is opened (`pick_for`). A call goes to one replica that has the model version; a sequence
to the one that has its state. What the server answers with an error is `UpstreamAnswered`, in its words. Nothing
here knows routes, callers or policy.

A single replica is always the one: whether it answers is found out by asking it. Of several, those serve that are
up and known to have the model version. When none of these is up, one that had it is tried all the same (as in
Envoy's panic, but only when nothing healthy is left): at worst the client hears of the failure that it would have
been told anyway.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence

from gateway import settings
from gateway.errors import ModelAway, NotFound, SequenceLost, TidegateError, Unreachable
from gateway.routing.pins import MemoryPins, Pins
from gateway.routing.sequences import sequence_id
from gateway.tls import ClientFiles
from gateway.upstream import attempts
from gateway.upstream.capabilities import Capabilities
from gateway.upstream.choose import choose, warmed
from gateway.upstream.events import Counters, Silent
from gateway.upstream.grpc_channel import Engine
from gateway.upstream.http_stream import Stream
from gateway.upstream.lives import Lives
from gateway.upstream.members import Members
from gateway.upstream.plan import CallPlan, Resilience, Sending, allowed, is_broken, late
from gateway.upstream.pool import NOT_REACHED
from gateway.upstream.replica import Replica, Restore
from gateway.upstream.sequences import LOST, SequencePins, not_started
from gateway.upstream.shm_ring import Ring
from gateway.upstream.straight import Calls
from gateway.upstream.tls import UpstreamTls
from gateway.upstream.tries import StreamTry
from gateway.wire.types import Buffer, InferAnswer, InferCall
from gateway.wire.validate import ModelSignature

MOST_WANTED = 1024
"""Models and versions that are looked after on every replica; beyond, the one asked for longest ago is not."""


class Upstream(Calls):
    """All replicas under one name of the settings."""

    def __init__(
        self,
        name: str,
        config: settings.Upstream,
        *,
        counters: Counters | None = None,
        tls: ClientFiles | None = None,
        pins: Pins | None = None,
        lives: Lives | None = None,
        ring: Ring | None = None,
        engine: Engine = "auto",
        previous: Upstream | None = None,
    ) -> None:
        """`pins`, `lives`: shared by the workers; `ring`: of this one; `engine`: what carries gRPC streams.

        `previous`: of the settings before, whose replicas go over.
        """
        self.name = name
        self.settings = config
        self._tls = None if tls is None else UpstreamTls(tls)
        self.resilience = Resilience(name, config, counters or Silent())
        self._counters = counters or Silent()
        self._sequences = SequencePins(name, MemoryPins() if pins is None else pins)
        self._wanted: dict[tuple[str, str], None] = {}
        self._having: dict[tuple[str, str], list[Replica]] = {}
        self._only = None
        self._cold_until = 0.0
        self._was_ready = False
        self.members: Members = Members(
            name,
            config,
            self._changed,
            counters=counters,
            tls=self._tls,
            lives=lives,
            ring=ring,
            engine=engine,
            previous=None if previous is None else previous.members,
        )
        self.members.wanted = self.wanted
        self._changed()

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """All that there are now, in the order of the settings or of their addresses."""
        return self.members.replicas

    def restore_with(self, restore: Restore) -> None:
        """What a replica is brought to before it gets traffic. Call it before `start`."""
        self.members.restore = restore

    def wanted(self) -> tuple[tuple[str, str], ...]:
        """(model, version) that callers ask for."""
        return tuple(self._wanted)

    def _changed(self) -> None:
        """A replica came, went, rose, fell, or has other models."""
        replicas = self.members.replicas
        self._having.clear()
        self._only = replicas[0] if len(replicas) == 1 else None
        usable = [replica for replica in replicas if replica.usable]
        self.resilience.ejection.members = [replica.outlier for replica in usable]
        self._cold_until = max((replica.warm_at for replica in usable), default=0.0)
        if bool(usable) != self._was_ready:
            self._was_ready = bool(usable)
            self._counters.on_event("up" if usable else "down", upstream=self.name)

    def renew_tls(self, files: ClientFiles | None) -> None:
        """Other certificates, for the connections to come; calls under way keep theirs."""
        if self._tls is not None and files is not None and files != self._tls.files:
            self._tls = self.members.tls = UpstreamTls(files)
            for replica in self.replicas:
                replica.renew(self._tls)

    async def start(self) -> None:
        """Look once at every replica, then regularly. Never fails: a server may come later."""
        await self.members.start()

    async def close(self, drain: float = 0.0, *, keep: Upstream | None = None) -> None:
        """Let calls under way finish within `drain` seconds, then end them; replicas of `keep` go on."""
        await self.members.close(drain, () if keep is None else keep.replicas)

    def ready(self) -> bool:
        """Whether some replica answered as ready when it was last asked."""
        return any(replica.ready() for replica in self.replicas)

    @property
    def capabilities(self) -> Capabilities | None:
        """What the first replica that has answered says of itself; None until one did."""
        return next((one.capabilities for one in self.replicas if one.capabilities is not None), None)

    @property
    def has_grpc(self) -> bool:
        """Whether it has a gRPC address."""
        return any(replica.grpc_address is not None for replica in self.replicas)

    # -- what models take ------------------------------------------------------------------------------------

    def _known_among(self, model: str, version: str) -> ModelSignature | None:
        for replica in self._having.get((model, version)) or self._candidates(model, version):
            known = replica.signatures.peek(model, version)
            if known is not None:
                return known
        return None

    async def signature(self, model: str, version: str = "") -> ModelSignature:
        """What a model takes and gives, from the replica that says so first; all are asked.

        Raises NotFound when every replica that answers does not have it, ModelAway when one that is down had it, and
        the errors of `Signatures.get`.
        """
        if self._only is not None:
            return await self._only.signatures.get(model, version)
        loop = asyncio.get_running_loop()
        asked = [one for one in self.replicas if one.usable] or list(self.replicas)
        asking = {loop.create_task(one.signatures.get(model, version)) for one in asked}
        failures: list[TidegateError] = []
        try:
            while asking:
                done, asking = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    failure = task.exception()
                    if failure is None:
                        return task.result()
                    if not isinstance(failure, TidegateError):
                        raise failure
                    failures.append(failure)
        finally:
            for task in asking:
                task.add_done_callback(_looked_at)  # the fetches themselves go on, for the next calls
        # Of one that answers and cannot say, it is not known that it lacks the model.
        unclear = [failure for failure in failures if not isinstance(failure, NotFound)]
        raise self.missing(model, version, next(iter(unclear or failures), Unreachable(NOT_REACHED, sent=False)))

    def missing(self, model: str, version: str, failure: TidegateError) -> TidegateError:
        """What a failure of those that answer means: a 404, where one that is down had the model, is `ModelAway`."""
        if failure.status != 404 or not any(
            one.lists(model, version) and not one.usable and not one.draining for one in self.replicas
        ):
            return failure
        detail = f"upstreams.{self.name}: {model} {version}: {failure.message}"
        return ModelAway(detail, retry_after=self.settings.health.interval)

    async def fresh_signature(self, model: str, version: str = "") -> ModelSignature:
        """The same, asked anew; the same object as before when nothing has changed."""
        if self._only is not None:
            return await self._only.signatures.fresh(model, version)
        asked = list(self._having.get((model, version)) or self._candidates(model, version))
        if not asked:
            raise Unreachable(NOT_REACHED, sent=False)
        found = await asyncio.gather(*(one.signatures.fresh(model, version) for one in asked), return_exceptions=True)
        for each in found:
            if isinstance(each, ModelSignature):
                return each
        assert isinstance(found[0], BaseException)
        raise self.missing(model, version, found[0]) if isinstance(found[0], TidegateError) else found[0]

    def forget_model(self, model: str) -> None:
        """It was loaded, unloaded or replaced."""
        for replica in self.replicas:
            replica.forget_model(model)

    # -- which replica ---------------------------------------------------------------------------------------

    def pick(self, model: str, version: str = "", exclude: Sequence[Replica] = ()) -> Replica:
        """A replica for one call that has the model version, if possible none of `exclude`. Counts nothing.

        Raises:
            Unreachable: there is none at all (a DNS name without addresses).
        """
        only = self._only
        if only is not None:
            return only
        having = self._having.get((model, version)) or self._candidates(model, version)
        if exclude:
            having = [one for one in having if one not in exclude] or self._others(model, version, exclude) or having
        if not having:
            raise Unreachable(NOT_REACHED, detail=f"upstreams.{self.name}: no replica", sent=False)
        now = time.monotonic()
        warm = warmed(having, now, random.random) if self._cold_until > now else having
        chosen = choose(warm, random.random)
        if allowed(chosen, model, now):
            return chosen
        # When all are left alone just now, the one drawn says so.
        rest = [one for one in having if allowed(one, model, now)]
        return choose(rest, random.random) if rest else chosen

    def _others(self, model: str, version: str, exclude: Sequence[Replica]) -> list[Replica]:
        """Those that have the model ready, though it is not known yet what it takes there."""
        return [one for one in self.replicas if one.usable and one not in exclude and one.lists(model, version)]

    def pick_for(self, call: InferCall, model: str, version: str, plan: CallPlan | None = None) -> Replica:
        """The replica of the call's sequence, pinned by it; else any.

        Raises:
            SequenceLost: the replica that has its state is gone.
            UpstreamAnswered: the sequence was never started.
            Unreachable: as `pick`.
        """
        parameters = call.parameters
        if "sequence_id" not in parameters:
            return self.pick(model, version)
        key = self._sequences.key(model, version, parameters)
        if not key:
            return self.pick(model, version)
        if plan is not None and plan.sequence is None:
            plan.sequence = sequence_id(parameters)
        begins = parameters.get("sequence_start") is True
        try:
            replica = self._sequences.holder(key, self.replicas, begins=begins)
        except SequenceLost:
            self._counters.on_event("sequence_lost", upstream=self.name)
            raise
        if replica is None:
            if not begins and self._only is None:
                signature = self.known_signature(model, version)
                if signature is not None and signature.sequences:
                    raise not_started(parameters["sequence_id"], model)
                having = self._having.get((model, version)) or self._candidates(model, version)
                replica = having[key % len(having)] if having else self.pick(model, version)
            else:
                replica = self.pick(model, version)
        self._sequences.pin(key, replica, ends=parameters.get("sequence_end") is True)
        return replica

    def broke(self, call: InferCall, model: str, version: str, error: TidegateError) -> TidegateError:
        """A call failed on its way: what its client is told. A sequence is lost with a broken connection."""
        if not isinstance(error, Unreachable) or not (key := self._sequences.key(model, version, call.parameters)):
            return error
        if not error.sent and call.parameters.get("sequence_start") is True:
            return error  # nothing of it has begun
        if error.sent:
            self._sequences.lose(key)
        elif self._only is None or not self._only.usable:
            pass  # its replica has fallen: the next call is told so by its life
        self._counters.on_event("sequence_lost", upstream=self.name)
        return SequenceLost(LOST, detail=error.detail)

    def _candidates(self, model: str, version: str) -> list[Replica]:
        """Those that may serve; kept until something changes."""
        key = (model, version)
        there = [one for one in self.replicas if not one.draining]
        having = [one for one in there if one.has(model, version)]
        if having:
            self._wanted.pop(key, None)
            self._wanted[key] = None
            if len(self._wanted) > MOST_WANTED:
                del self._wanted[next(iter(self._wanted))]
        found = [one for one in having if one.usable] or having or [one for one in there if one.usable] or there
        if len(self._having) >= MOST_WANTED:
            self._having.clear()
        self._having[key] = found
        return found

    # -- calls -----------------------------------------------------------------------------------------------

    async def _infer(self, sending: Sending, timeout: float) -> InferAnswer:
        """Between several replicas, or in a sequence."""
        if self._only is None and self.known_signature(sending.model, sending.version) is None:
            await self.signature(sending.model, sending.version)  # shadows come without it
        if "sequence_id" not in sending.call.parameters:
            return await attempts.run(self, sending, timeout)
        over = time.monotonic() + timeout
        for left in range(len(self.replicas), 0, -1):
            try:
                return await attempts.run(self, sending, timeout)
            except Unreachable as error:
                told = self.broke(sending.call, sending.model, sending.version, error)
                timeout = over - time.monotonic()
                # One that begins, and of which nothing was sent, may begin elsewhere.
                if isinstance(told, SequenceLost) or error.sent or left == 1 or timeout <= 0:
                    try:
                        raise told from None
                    finally:
                        del told  # as in `attempts.run`
        raise Unreachable(NOT_REACHED, detail=f"upstreams.{self.name}: no replica", sent=False)

    async def open_generate(
        self,
        call: InferCall,
        body: Buffer,
        *,
        model: str,
        version: str = "",
        headers: Sequence[tuple[str, str]] = (),
        timeout: float,
        page: str,
        plan: CallPlan,
    ) -> tuple[StreamTry, Stream]:
        """A generate call, and its try on the replica that serves it: the caller MUST tell that how it `ended`.

        Tried again as a unary call is, until a head with status 200 has come. Errors are those of
        `Replica.stream_generate` and of `pick_for`; `timeout` in seconds, for the head with all tries, then between
        two chunks.
        """
        if self._only is None and self.known_signature(model, version) is None:
            await self.signature(model, version)
        now = time.monotonic()
        deadline = now + timeout
        self.resilience.budget.deposit(now)
        replica = self.pick_for(call, model, version, plan)
        tried: list[Replica] = []
        while True:
            plan.replica = replica
            ending = StreamTry(replica, self.resilience, model)
            try:
                return ending, await replica.stream_generate(
                    body, model=model, version=version, headers=headers, timeout=deadline - now, page=page
                )
            except BaseException as error:
                ending.ended(error, hurried=plan.hurried)
                if not isinstance(error, TidegateError):
                    raise
                if is_broken(error):
                    plan.broken += 1
                last = error
            other = await attempts.another(self, model, version, plan, last, tried, deadline)
            now = time.monotonic()
            if other is None:
                raise self.broke(call, model, version, late(last, deadline, now)) from None
            replica = other

    def one(self) -> Replica:
        """One that answers, for what is the same everywhere."""
        for replica in self.replicas:
            if replica.usable:
                return replica
        if not self.replicas:
            raise Unreachable(NOT_REACHED, detail=f"upstreams.{self.name}: no replica", sent=False)
        return self.replicas[0]


def _looked_at(task: asyncio.Task[ModelSignature]) -> None:
    if not task.cancelled():
        task.exception()
