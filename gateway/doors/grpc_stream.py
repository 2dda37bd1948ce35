"""`ModelStreamInfer`: one session of many calls.

Contract: requests are read as they come, answers written as they come; errors ride in `error_message` with
the stream still OK, unless the client asked by `triton_grpc_error: true` that the first one ends it. A client
that leaves early leaves the session, which does what the model server needs.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from tritonclient.grpc import service_pb2

from gateway.doors.grpc_call import Call, Gone
from gateway.doors.grpc_exchange import GrpcExchange, believed, check_size, fail, retry_metadata, served
from gateway.errors import Cancelled, TidegateError
from gateway.headers import request_id
from gateway.stream import StreamSession
from gateway.wire import grpc as codec
from gateway.wire.types import InferAnswer

if TYPE_CHECKING:
    from gateway.approvals import Notices
    from gateway.core import Core
    from gateway.exchange import Exchange
    from gateway.snapshot import Snapshot
    from gateway.tls import PeerCertificate


class StreamDoor:
    """One client's `ModelStreamInfer` call."""

    def __init__(self, app: Core, call: Call) -> None:
        self._app = app
        self._call = call
        self._peer = ""
        self._certificate: PeerCertificate | None = None
        self._headers = call.headers
        self._rid = request_id(self._headers)
        self._ends_on_error = self._headers.get("triton_grpc_error") == "true"
        self._failure: TidegateError | None = None
        self._failed_variant = ""
        self._failed = asyncio.Event()
        self._writing = asyncio.Lock()
        self._headed = False
        self._session = StreamSession(app.pipeline, self._deliver)

    async def run(self) -> None:
        """Serve the stream to its end; raises through `Call.abort` when it ends with an error."""
        try:
            # The metadata is that of every call: a credential that is not accepted ends the stream at once.
            self._peer, self._certificate = self._call.client()
            settings = self._app.snapshot.settings
            if settings.identity is not None:
                self._headers = believed(self._headers, self._peer, settings.listen.trusted_proxies)
            await self._app.snapshot.identifier.identified(self._headers, self._certificate)
        except TidegateError as error:
            await fail(self._call, await self._unread(self._app.snapshot, error), self._rid, "")
        work = asyncio.ensure_future(self._serve())
        failed = asyncio.ensure_future(self._failed.wait())
        try:
            await asyncio.wait({work, failed}, return_when=asyncio.FIRST_COMPLETED)
            if self._failure is not None:
                self._session.leave()
                async with self._writing:
                    await self._head(self._failed_variant)
                await self._call.abort(self._failure.code, self._failure.message, retry_metadata(self._failure))
            await work
            await self._head("")
        except BaseException:  # whatever ends it, nothing may be left open upstream
            self._session.leave()
            raise
        finally:
            work.cancel()
            failed.cancel()

    async def _serve(self) -> None:
        async for request in self._call.messages():
            await self._one(request)
        await self._session.finish()

    async def _one(self, request: bytes) -> None:
        snapshot = self._app.snapshot
        try:
            check_size(request, snapshot.settings.limits.body)
            read = codec.read_request(request, snapshot.settings.limits.tensors)
        except TidegateError as error:
            told = await self._unread(snapshot, error)
            await self._session.refuse(partial(self._refuse, told, "", ""))
            return
        x = GrpcExchange(
            snapshot,
            self._headers,
            operation="stream",
            read=read,
            request=request,
            request_id=self._rid,
            peer=self._peer,
            certificate=self._certificate,
        )
        self._app.observer.started(x)
        await self._session.submit(x)

    async def _unread(self, snapshot: Snapshot, error: TidegateError) -> TidegateError:
        """What the client is told of a message, or of the whole stream, that is not even looked at."""
        if isinstance(error, Cancelled):
            return error
        told = await self._app.decisions.unread(snapshot, "grpc", self._rid, error)
        self._app.observer.unread("grpc", told)
        return told

    async def _deliver(self, x: Exchange, answer: InferAnswer | TidegateError, _: bool) -> None:
        if isinstance(answer, TidegateError):
            await self._refuse(answer, x.read.id if isinstance(x, GrpcExchange) else "", x.variant_name)
            return
        if self._failure is not None:
            return  # an error before it has ended the stream
        body = codec.encode_response(answer)
        x.nbytes_out += len(body)
        await self._write(_FIELD_RESPONSE + _varint(len(body)) + body, x.variant_name, x.notices)

    async def _refuse(self, error: TidegateError, call_id: str, variant: str) -> None:
        if self._ends_on_error:
            if self._failure is None:
                self._failure, self._failed_variant = error, variant
                self._failed.set()
            return
        message = service_pb2.ModelStreamInferResponse(error_message=error.message)
        message.infer_response.id = call_id
        await self._write(message.SerializeToString(), variant)

    async def _write(self, message: bytes, variant: str = "", notices: Notices = ()) -> None:
        async with self._writing:
            try:
                await self._head(variant, notices)
                await self._call.write(message)
            except Gone:
                # We have not been cancelled yet: nobody takes what is still to come.
                self._session.leave()

    async def _head(self, variant: str, notices: Notices = ()) -> None:
        """The initial metadata, once: whoever answers first gives the variant."""
        if not self._headed:
            self._headed = True
            await self._call.begin(served(self._rid, variant, notices))


_FIELD_RESPONSE = b"\x12"
"""Tag of `ModelStreamInferResponse.infer_response`: 2 << 3 | 2."""


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
