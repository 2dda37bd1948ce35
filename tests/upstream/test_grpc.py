"""gRPC to a real Triton: control calls, and streams that carry many calls."""

from __future__ import annotations

import asyncio
import contextlib
import time

import grpc
import msgspec
import pytest
from calls import accumulate, fails, identity, int32, repeat, slow
from tritonclient.grpc import service_pb2

from gateway import settings
from gateway.errors import (
    GRPC_CODES,
    BadGateway,
    BadRequest,
    DeadlineExceeded,
    TidegateError,
    Unreachable,
    UpstreamAnswered,
)
from gateway.upstream import Upstream, grpc_stream
from gateway.upstream.grpc_channel import GrpcChannel
from gateway.wire import grpc as codec
from gateway.wire.types import InferAnswer


@pytest.fixture
def config(triton):
    return settings.Upstream(http=triton.http, grpc=triton.grpc)


@pytest.fixture(autouse=True, params=["nghttp2", "grpcio"])
def engine(request, monkeypatch):
    """What carries streams, in all tests."""
    monkeypatch.setattr("test_grpc.ENGINE", request.param)


ENGINE = ""


def with_upstream(run, config, work, counters=None):
    async def main():
        upstream = Upstream("up", config, counters=counters, engine=ENGINE)
        await upstream.start()
        try:
            return await work(upstream)
        finally:
            await upstream.close()

    return run(main())


async def until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not come about in time"
        await asyncio.sleep(0.02)


class Taken:
    """What a call was answered."""

    def __init__(self, log=None, name="") -> None:
        self.answers: list[InferAnswer | TidegateError] = []
        self.finals: list[bool] = []
        self.log = log
        self.name = name

    async def __call__(self, answer, final) -> None:
        self.answers.append(answer)
        self.finals.append(final)
        if self.log is not None:
            self.log.append(self.name)

    @property
    def done(self) -> bool:
        return bool(self.finals) and self.finals[-1]

    def values(self, name="OUT"):
        return [int32(answer, name) for answer in self.answers if answer.outputs]


# -- unary ---------------------------------------------------------------------------------------------------


def test_control_calls(run_once, config):
    async def work(up):
        assert service_pb2.ServerLiveResponse.FromString(await up.one().unary("ServerLive", b"", timeout=60)).live
        request = service_pb2.ModelMetadataRequest(name="batched").SerializeToString()
        answer = await up.one().unary("ModelMetadata", request, metadata=[("x-request-id", "1")], timeout=60)
        assert service_pb2.ModelMetadataResponse.FromString(answer).name == "batched"
        infer = codec.encode_request(identity(2)).SerializeToString()
        answer = service_pb2.ModelInferResponse.FromString(await up.one().unary("ModelInfer", infer, timeout=60))
        assert len(answer.raw_output_contents[0]) == 8

    with_upstream(run_once, config, work)


@pytest.mark.parametrize(
    "how, status, code",
    [("error:INVALID_ARG", 400, "INVALID_ARGUMENT"), ("error:NOT_FOUND", 404, "NOT_FOUND"),
     ("error:UNAVAILABLE", 503, "UNAVAILABLE"), ("error:ALREADY_EXISTS", 400, "ALREADY_EXISTS"),
     ("error:UNSUPPORTED", 501, "UNIMPLEMENTED"), ("raise", 500, "INTERNAL")],
)  # fmt: skip
def test_unary_errors_keep_status_and_words(run_once, config, how, status, code):
    async def work(up):
        with pytest.raises(UpstreamAnswered, match="asked to") as caught:
            await up.one().unary("ModelInfer", codec.encode_request(fails(how)).SerializeToString(), timeout=60)
        assert (caught.value.status, caught.value.code) == (status, code)

    with_upstream(run_once, config, work)


def test_unary_without_a_server_in_time_and_with_bad_metadata(run_once, config):
    async def work(up):
        with pytest.raises(DeadlineExceeded):
            await up.one().unary("ModelInfer", codec.encode_request(slow(1500)).SerializeToString(), timeout=0.2)
        for pair in (("x-a", "\u20ac"), ("x-a", "1\n2"), ("\xe9", "1")):
            with pytest.raises(BadRequest, match="header"):
                await up.one().unary("ServerLive", b"", metadata=[pair], timeout=1)
            with pytest.raises(BadRequest, match="header"):
                up.one().open_stream(metadata=[pair])

    with_upstream(run_once, config, work)

    async def nobody(up):
        with pytest.raises(Unreachable) as caught:
            await up.one().unary("ServerLive", b"", timeout=60)
        assert "127.0.0.1" not in caught.value.message
        stream = up.one().open_stream()
        taken = Taken()
        await stream.send(identity(), model="m", timeout=60, deliver=taken)
        await until(lambda: taken.done)
        assert isinstance(taken.answers[0], Unreachable)
        assert stream.closed
        with pytest.raises(Unreachable):
            await stream.send(identity(), model="m", timeout=60, deliver=taken)

    with_upstream(run_once, settings.Upstream(http="127.0.0.1:9", grpc="127.0.0.1:9"), nobody)


def test_an_http_server_at_the_grpc_address(run_once, config):
    async def work(up):
        with pytest.raises((BadGateway, Unreachable)):
            await up.one().unary("ServerLive", b"", timeout=60)

    with_upstream(run_once, msgspec.structs.replace(config, grpc=config.http), work)


# -- streams -------------------------------------------------------------------------------------------------


def test_decoupled_answers_and_their_end(run_once, config):
    async def work(up):
        stream = up.one().open_stream()
        for values in ([1, 2, 3], [], [7]):
            got = [pair async for pair in stream.answers(repeat(values, id="c"), model="repeat_int32", timeout=60)]
            assert [int32(answer, "OUT") for answer, _ in got[:-1]] == values
            assert [final for _, final in got] == [False] * len(values) + [True]
            assert got[-1][0].outputs == [], "the empty final response"
            assert {answer.id for answer, _ in got} == {"c"}
        await stream.finish()
        assert stream.closed

    with_upstream(run_once, config, work)


def test_many_calls_of_one_stream_mixed(run_once, config):
    async def work(up):
        stream = up.one().open_stream(metadata=[("x-fwd-a", "1"), ("triton_grpc_error", "true")])
        log: list[str] = []
        takers = {name: Taken(log, name) for name in ("slow", "quick", "plain", "same", "bad", "unknown", "fails")}
        await stream.send(repeat([1, 2, 3], 60, id="x"), model="repeat_int32", timeout=60, deliver=takers["slow"])
        await stream.send(repeat([10, 20], 20, id="y"), model="repeat_int32", timeout=60, deliver=takers["quick"])
        await stream.send(identity(id="z"), model="identity_fp32", timeout=60, deliver=takers["plain"])
        await stream.send(repeat([5, 6], 30, id="x"), model="repeat_int32", timeout=60, deliver=takers["same"])
        wrong = identity(id="x")
        wrong.inputs[0].name = "WRONG"
        await stream.send(wrong, model="identity_fp32", timeout=60, deliver=takers["bad"])
        await stream.send(identity(id="x"), model="nope", timeout=60, deliver=takers["unknown"])
        await stream.send(fails("error:INTERNAL", id="x"), model="fails", timeout=60, deliver=takers["fails"])
        await stream.finish()
        assert all(taker.done for taker in takers.values())
        assert all(sum(taker.finals) == 1 for taker in takers.values())
        assert takers["slow"].values() == [1, 2, 3]
        assert takers["quick"].values() == [10, 20]
        assert takers["same"].values() == [5, 6]
        assert {a.id for name in ("slow", "same") for a in takers[name].answers} == {"x"}, "its own id came back"
        assert log.index("quick") < len(log) - log[::-1].index("slow"), "not one call after the other"
        (plain,) = takers["plain"].answers
        assert plain.parameters["triton_final_response"] is True
        assert [(t.status, t.message) for t in takers["bad"].answers] == [
            (400, "unexpected inference input 'WRONG' for model 'identity_fp32'")
        ]
        assert [(t.status, t.message) for t in takers["unknown"].answers] == [
            (404, "Request for unknown model: 'nope' is not found")
        ]
        assert [(t.status, t.message) for t in takers["fails"].answers] == [(500, "asked to fail with INTERNAL")]

    with_upstream(run_once, config, work)


def test_our_own_ids_do_not_show_in_errors(run_once, config):
    async def work(up):
        stream = up.one().open_stream()
        first, second, third = Taken(), Taken(), Taken()
        await stream.send(repeat([1], 300, id="mine"), model="repeat_int32", timeout=60, deliver=first)
        await stream.send(repeat([1], 300), model="repeat_int32", timeout=60, deliver=third)
        for ident, shown in (("mine", "mine"), ("", "<id_unknown>")):
            call = repeat([1, 2], id=ident)
            call.inputs.pop()
            second = Taken()
            await stream.send(call, model="repeat_int32", timeout=60, deliver=second)
            await until(lambda taken=second: taken.done)
            assert f"[request id: {shown}]" in second.answers[0].message
        await stream.finish()

    with_upstream(run_once, config, work)


def test_sequences_keep_their_order(run_once, config):
    async def work(up):
        stream = up.one().open_stream()
        one, other = Taken(), Taken()
        for n in range(5):
            flags = {"start": n == 0, "end": n == 4}
            await stream.send(accumulate(1, 71, **flags), model="sequence_accumulate", timeout=60, deliver=one)
            await stream.send(accumulate(10, 72, **flags), model="sequence_accumulate", timeout=60, deliver=other)
        await stream.finish()
        assert one.values("OUTPUT") == [1, 2, 3, 4, 5]
        assert other.values("OUTPUT") == [10, 20, 30, 40, 50]

    with_upstream(run_once, config, work)


def test_a_client_that_does_not_take_holds_up_its_stream_only(run_once, config):
    async def work(up):
        stream, free = up.one().open_stream(), up.one().open_stream()
        gate = asyncio.Event()
        taken: list[int] = []

        async def slow_client(answer, final):
            taken.append(1)
            await gate.wait()

        await stream.send(repeat(list(range(50))), model="repeat_int32", timeout=0.3, deliver=slow_client)
        other = Taken()
        await free.send(repeat([1, 2]), model="repeat_int32", timeout=60, deliver=other)
        await until(lambda: other.done)
        await asyncio.sleep(0.6)  # longer than the call's time: the client's slowness does not count
        assert len(taken) == 1
        gate.set()
        await stream.finish()
        await free.finish()
        assert len(taken) == 51

    with_upstream(run_once, config, work)


def test_a_call_whose_time_is_over_ends_alone(run_once, config):
    async def work(up):
        stream = up.one().open_stream()
        late, fine = Taken(), Taken()
        began = time.monotonic()
        await stream.send(repeat([1, 2], 1500, id="a"), model="repeat_int32", timeout=0.3, deliver=late)
        await stream.send(repeat([1] * 12, 100, id="b"), model="repeat_int32", timeout=60, deliver=fine)
        await until(lambda: late.done)
        assert time.monotonic() - began > 0.25
        assert isinstance(late.answers[0], DeadlineExceeded)
        # Its id is still taken upstream: what comes for it must not be given to the next with that id.
        again = Taken()
        await stream.send(repeat([9], id="a"), model="repeat_int32", timeout=60, deliver=again)
        await stream.finish()
        assert again.values() == [9]
        assert fine.values() == [1] * 12
        assert late.finals == [True]

    with_upstream(run_once, config, work)


def test_a_cancelled_sender_does_not_end_the_stream(run_once, config):
    async def work(up):
        stream = up.one().open_stream()
        taken = Taken()
        task = asyncio.create_task(stream.send(repeat([1, 2]), model="repeat_int32", timeout=60, deliver=taken))
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):  # nghttp2 has taken the call by now
            await task
        finishing = asyncio.create_task(stream.finish())
        await asyncio.sleep(0)
        finishing.cancel()
        await until(lambda: taken.done)
        assert taken.values() == [1, 2]
        await until(lambda: stream.closed)

    with_upstream(run_once, config, work)


def test_leaving_drains(run_once, config, events):
    async def work(up):
        stream = up.one().open_stream()
        taken = Taken()
        await stream.send(repeat([1] * 10, 50), model="repeat_int32", timeout=60, deliver=taken)
        await until(lambda: len(taken.answers) >= 2)
        stream.leave()
        stream.leave()
        count = len(taken.answers)
        await until(lambda: stream.closed)
        assert len(taken.answers) == count < 10
        # One that holds its reader up, and one with nothing open.
        stream = up.one().open_stream()
        gate = asyncio.Event()

        async def stuck(answer, final):
            await gate.wait()

        await stream.send(repeat([1] * 3), model="repeat_int32", timeout=60, deliver=stuck)
        await asyncio.sleep(0.3)
        stream.leave()
        await until(lambda: stream.closed)
        stream = up.one().open_stream()
        await stream.send(identity(), model="identity_fp32", timeout=60, deliver=taken)
        await until(lambda: taken.done)
        stream.leave()
        await until(lambda: stream.closed)
        up.one().open_stream().leave()

    with_upstream(run_once, config, work, events)
    assert events["detach"] == events["drained"] == 2
    assert events["drain_cut"] == events["cancel"] == 0


def test_draining_has_limits(run_once, config, events, monkeypatch):
    monkeypatch.setattr(grpc_stream, "DRAIN_SECONDS", 0.2)

    async def work(up):
        # The model has sent its last answer by then or waits in a pause: closing is harmless at this rate.
        stream = up.one().open_stream()
        await stream.send(repeat([1], 1500), model="repeat_int32", timeout=60, deliver=Taken())
        stream.leave()
        await until(lambda: stream.closed)

    with_upstream(run_once, config, work, events)
    assert events["drain_cut"] == 1


def test_leaving_cancels_where_that_is_safe(run_once, config, events):
    async def work(up):
        stream = up.one().open_stream()
        taken = Taken()
        await stream.send(repeat([1, 2], 1000), model="repeat_int32", timeout=60, deliver=taken)
        await asyncio.sleep(0.1)
        stream.leave()
        await until(lambda: stream.closed)
        assert taken.answers == []

    with_upstream(run_once, msgspec.structs.replace(config, drain_streams="never"), work, events)
    assert events["cancel"] == 1
    assert events["detach"] == 0


def test_leaving_an_iteration_early(run_once, config):
    async def work(up):
        stream = up.one().open_stream()
        answers = stream.answers(repeat([1, 2, 3, 4], 20), model="repeat_int32", timeout=60)
        async for answer, _ in answers:
            assert int32(answer, "OUT") == 1
            break
        await answers.aclose()
        await stream.finish()
        stream = up.one().open_stream()
        with pytest.raises(UpstreamAnswered, match="unknown"):
            async for _ in stream.answers(identity(), model="nope", timeout=60):
                pass
        stream.leave()

    with_upstream(run_once, config, work)


def test_the_channel_is_not_proxied(monkeypatch, run_once, config):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("grpc_proxy", "http://127.0.0.1:9")

    async def work(up):
        assert await up.one().unary("ServerLive", b"", timeout=60)

    with_upstream(run_once, config, work)


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        ("INTERNAL", "Internal error from Core", Unreachable),
        ("UNKNOWN", "Stream removed", Unreachable),
        ("UNKNOWN", "Failed Stream removed (recvmsg:Connection reset by peer (104))", Unreachable),
        ("UNKNOWN", "the model's stream removed nothing", UpstreamAnswered),
        ("INTERNAL", "Stream removed", Unreachable),
        ("INVALID_ARGUMENT", "Stream removed", UpstreamAnswered),
        ("UNAVAILABLE", "Stream removed (recvmsg:Connection reset by peer (104))", Unreachable),
        ("UNAVAILABLE", "recvmsg:Connection reset by peer", Unreachable),
        ("UNAVAILABLE", "Socket closed", Unreachable),
        ("UNAVAILABLE", "Request for model 'recvmsg' was refused", UpstreamAnswered),
    ],
)
def test_a_broken_connection_is_told_by_grpcios_words(monkeypatch, code, text, kind):
    """Also while the channel has not seen yet that its connection is gone."""
    channel = GrpcChannel("127.0.0.1:1", name="triton", counters=None)
    monkeypatch.setattr(channel, "_answered", lambda: True)
    error = grpc.aio.AioRpcError(grpc.StatusCode[code], grpc.aio.Metadata(), grpc.aio.Metadata(), details=text)
    found = channel.error_of(error)
    assert type(found) is kind
    assert kind is UpstreamAnswered or text not in found.message


def test_status_names_are_grpcs():
    assert {code.name for code in grpc.StatusCode} == set(GRPC_CODES)
