"""One upstream of the settings: one model server or several replicas of it, seen as one.

Contract: callers ask an upstream and never a replica, save where the answer is each replica's own
(`replicas`). A call goes to one replica that has the model version. What the server answers with an error is
`UpstreamAnswered`, in its words. Nothing here knows routes, callers or policy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gateway import settings
from gateway.upstream.events import Counters
from gateway.upstream.grpc_stream import ModelStream
from gateway.upstream.http_response import Response
from gateway.upstream.http_stream import Stream
from gateway.upstream.pool import Headers
from gateway.upstream.replica import LEARN_TIMEOUT, Capabilities, Replica
from gateway.wire.types import Buffer, InferAnswer, InferCall
from gateway.wire.validate import ModelSignature


class Upstream:
    """All replicas under one name of the settings."""

    def __init__(self, name: str, config: settings.Upstream, *, counters: Counters | None = None) -> None:
        self.name = name
        self.settings = config
        several = config.replicas or (settings.ReplicaAddress(http=config.http or "", grpc=config.grpc),)
        self.replicas: tuple[Replica, ...] = tuple(
            Replica(name, one.http, one.grpc, config, counters=counters) for one in several
        )

    async def start(self) -> None:
        """Look once at every replica, then regularly. Never fails: a server may come later."""
        await asyncio.gather(*(replica.start() for replica in self.replicas))

    async def close(self, drain: float = 0.0) -> None:
        """Let calls under way finish within `drain` seconds, then end them."""
        await asyncio.gather(*(replica.close(drain) for replica in self.replicas))

    def ready(self) -> bool:
        """Whether some replica answered as ready when it was last asked."""
        return any(replica.ready() for replica in self.replicas)

    @property
    def capabilities(self) -> Capabilities | None:
        """What the replicas say of themselves; None until one answered."""
        return self.replicas[0].capabilities

    @property
    def has_grpc(self) -> bool:
        """Whether it has a gRPC address."""
        return self.replicas[0].has_grpc

    def known_signature(self, model: str, version: str = "") -> ModelSignature | None:
        """What is known of a model without asking; None: nothing yet."""
        return self.replicas[0].known_signature(model, version)

    async def signature(self, model: str, version: str = "") -> ModelSignature:
        """What a model takes and gives. Raises NotFound and the errors of `Signatures.get`."""
        return await self.replicas[0].signature(model, version)

    async def fresh_signature(self, model: str, version: str = "") -> ModelSignature:
        """The same, asked anew; the same object as before when nothing has changed."""
        return await self.replicas[0].fresh_signature(model, version)

    def forget_model(self, model: str) -> None:
        """It was loaded, unloaded or replaced."""
        for replica in self.replicas:
            replica.forget_model(model)

    async def infer(
        self,
        call: InferCall,
        *,
        model: str,
        version: str = "",
        headers: Sequence[tuple[str, str]] = (),
        timeout: float,
    ) -> InferAnswer:
        """One inference; see `Replica.infer`."""
        return await self.replicas[0].infer(call, model=model, version=version, headers=headers, timeout=timeout)

    async def control(
        self,
        method: str,
        target: str,
        headers: Headers = (),
        body: Buffer = b"",
        timeout: float = LEARN_TIMEOUT,
    ) -> Response:
        """Any other page of one replica, passed through."""
        return await self.replicas[0].control(method, target, headers, body, timeout)

    async def stream_generate(
        self,
        body: Buffer,
        *,
        model: str,
        version: str = "",
        headers: Sequence[tuple[str, str]] = (),
        timeout: float,
        page: str = "generate_stream",
    ) -> Stream:
        """Triton's generate extension of one replica; see `Replica.stream_generate`."""
        return await self.replicas[0].stream_generate(
            body, model=model, version=version, headers=headers, timeout=timeout, page=page
        )

    async def leave(self, stream: Stream) -> None:
        """The client of a stream went early."""
        await self.replicas[0].leave(stream)

    async def unary(
        self, method: str, request: bytes, *, metadata: Sequence[tuple[str, str]] = (), timeout: float
    ) -> bytes:
        """One gRPC call of one replica, bytes in and out; see `GrpcChannel.unary`."""
        return await self.replicas[0].unary(method, request, metadata=metadata, timeout=timeout)

    def open_stream(self, *, metadata: Sequence[tuple[str, str]] = ()) -> ModelStream:
        """A `ModelStreamInfer` stream to one replica; see `Replica.open_stream`."""
        return self.replicas[0].open_stream(metadata=metadata)
