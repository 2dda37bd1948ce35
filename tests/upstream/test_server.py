"""A model server as the gateway sees it: a real Triton, and servers that can less or say strange things."""

from __future__ import annotations

import asyncio
import json
import time

import msgspec
import numpy as np
import pytest
from calls import echo, fails, identity, repeat
from raw_server import serving

from gateway import settings
from gateway.errors import BadGateway, NotFound, TidegateError, Unreachable, Unsupported, UpstreamAnswered
from gateway.upstream import Upstream, Upstreams, model_target, signatures
from gateway.upstream.events import EVENTS


@pytest.fixture
def config(triton):
    return settings.Upstream(http=triton.http, grpc=triton.grpc)


def with_upstream(run, config, work, counters=None):
    """Run `work(upstream)` with a started upstream."""

    async def main():
        upstream = Upstream("up", config, counters=counters)
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


# -- against Triton ------------------------------------------------------------------------------------------


def test_what_triton_says_of_itself(run_once, config, events):
    async def work(up):
        assert up.ready()
        known = up.capabilities
        assert known.name == "triton"
        assert known.binary
        assert known.drain_streams
        assert "binary_tensor_data" in known.extensions

    with_upstream(run_once, config, work, events)
    assert events.names == ["replica_up", "up"]


@pytest.mark.parametrize("binary", ["auto", "always", "never"])
def test_inference_in_binary_and_in_json(run_once, config, binary):
    async def work(up):
        answer = await up.infer(identity(5, id="my id"), model="identity_fp32", timeout=60)
        assert (answer.model_name, answer.model_version, answer.id) == ("identity_fp32", "1", "my id")
        (output,) = answer.outputs
        assert (output.name, output.datatype, output.shape) == ("OUTPUT0", "FP32", [1, 5])
        if binary == "never":
            assert json.loads(bytes(output.json)) == [0, 1, 2, 3, 4]
        else:
            assert np.frombuffer(output.data, np.float32).tolist() == [0, 1, 2, 3, 4]
        answer = await up.infer(identity(500_000), model="identity_fp32", version="1", timeout=20)
        if binary != "never":
            assert np.frombuffer(answer.outputs[0].data, np.float32)[-1] == 499_999

    with_upstream(run_once, msgspec.structs.replace(config, binary=binary), work)


def test_headers_and_parameters_travel(run_once, config):
    async def work(up):
        call = echo(id="r1", parameters={"mine": "1", "n": 2})
        answer = await up.infer(call, model="params_echo", headers=[("x-fwd-tenant", "acme")], timeout=60)
        (seen,) = (o for o in answer.outputs if o.name == "SEEN")
        seen = json.loads(bytes(seen.data)[4:])
        assert seen["request_id"] == "r1"
        assert seen["parameters"] == {"mine": "1", "n": 2, "x-fwd-tenant": "acme"}

    with_upstream(run_once, config, work)


@pytest.mark.parametrize(
    "how, status, code",
    [("error:INVALID_ARG", 400, "INVALID_ARGUMENT"), ("error:NOT_FOUND", 404, "NOT_FOUND"),
     ("error:UNAVAILABLE", 503, "UNAVAILABLE"), ("error:UNSUPPORTED", 501, "UNIMPLEMENTED"),
     ("error:INTERNAL", 500, "INTERNAL"), ("raise", 500, "INTERNAL")],
)  # fmt: skip
def test_tritons_errors_keep_status_and_words(run_once, config, how, status, code):
    async def work(up):
        with pytest.raises(UpstreamAnswered) as caught:
            await up.infer(fails(how), model="fails", timeout=60)
        assert (caught.value.status, caught.value.code) == (status, code)
        assert "asked to" in caught.value.message

    with_upstream(run_once, config, work)


def test_unknown_models(run_once, config):
    async def work(up):
        for version in ("", "9"):
            with pytest.raises(UpstreamAnswered, match="unknown model") as caught:
                await up.infer(identity(), model="identity_fp32" if version else "no/such", version=version, timeout=60)
            assert caught.value.status == 404
            with pytest.raises(NotFound, match="unknown model"):
                await up.signature("identity_fp32" if version else "no/such", version)
        assert up.known_signature("no/such") is None

    with_upstream(run_once, config, work)


def test_signatures_are_fetched_once_and_keep_their_identity(run_once, config, monkeypatch):
    async def work(up):
        asked = []
        real = up.replicas[0]._pool.request

        async def counting(method, target, *args, **more):
            asked.append(target)
            return await real(method, target, *args, **more)

        monkeypatch.setattr(up.replicas[0]._pool, "request", counting)
        assert up.known_signature("batched") is None
        first, *others = await asyncio.gather(*(up.signature("batched") for _ in range(20)))
        assert all(other is first for other in others)
        assert asked == ["/v2/models/batched", "/v2/models/batched/config"]
        assert first.inputs["INPUT0"].shape == (-1, 4)
        assert first.max_batch_size == 8
        assert up.known_signature("batched") is first
        assert await up.fresh_signature("batched") is first
        assert len(asked) == 2, "fetched a moment ago"
        monkeypatch.setattr(signatures, "RETRY_SECONDS", 0.0)
        assert await up.fresh_signature("batched") is first, "asked again, found the same"
        assert len(asked) == 4
        # Old: it serves on while news is fetched.
        up.replicas[0].signatures._entries["batched", ""].stale_at = 0.0
        assert up.known_signature("batched") is first
        await until(lambda: len(asked) == 6)
        up.forget_model("batched")
        assert up.known_signature("batched") is None
        assert (await up.signature("repeat_int32")).decoupled

    with_upstream(run_once, config, work)


def test_a_cancelled_caller_does_not_spoil_the_fetch_of_others(run_once, config):
    async def work(up):
        tasks = [asyncio.create_task(up.signature("batched")) for _ in range(3)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(done[0], asyncio.CancelledError)
        assert done[1] is done[2]

    with_upstream(run_once, config, work)


def test_pages_pass_through(run_once, config):
    async def work(up):
        response = await up.one().control("POST", "/v2/repository/index", (), b'{"ready":true}')
        assert response.status == 200
        assert "identity_fp32" in {row["name"] for row in json.loads(response.body)}
        response = await up.one().control("GET", model_target("nope", "", "ready"), [("x-request-id", "1")])
        assert response.status == 400
        assert (await up.one().control("HEAD", "/v2")).status == 405

    with_upstream(run_once, config, work)


def test_generate_streams(run_once, config, events):
    async def work(up):
        body = b'{"IN":[1,2,3],"DELAY":[20,20,20],"WAIT":[0]}'
        stream = await up.one().stream_generate(body, model="repeat_int32", timeout=60)
        async with stream:
            text = b"".join([chunk async for chunk in stream])
        assert [json.loads(line[6:])["OUT"] for line in text.split(b"\n\n")[:-1]] == [1, 2, 3]
        for model, status in (("nope", 404), ("identity_fp32", 400)):
            with pytest.raises(UpstreamAnswered) as caught:
                await up.one().stream_generate(b'{"x":1}', model=model, timeout=60)
            assert caught.value.status == status
        stream = await up.one().stream_generate(body, model="repeat_int32", timeout=60)
        async with stream:
            await anext(stream)
            await up.one().leave(stream)
        await until(lambda: up.replicas[0]._pool.idle == up.replicas[0]._pool.open == 1)

    with_upstream(run_once, config, work, events)
    assert events["detach"] == events["drained"] == 1
    assert set(events.names) <= set(EVENTS)


def test_without_grpc(run_once, config):
    async def work(up):
        with pytest.raises(Unsupported):
            await up.one().unary("ServerLive", b"", timeout=1)
        with pytest.raises(Unsupported):
            up.one().open_stream()

    with_upstream(run_once, msgspec.structs.replace(config, grpc=None), work)


# -- other servers -------------------------------------------------------------------------------------------


def web(pages):
    """Serve `pages`: path -> (status, body), with JSON content type."""

    async def script(peer, state):
        while True:
            request = await peer.request()
            state.requests.append(request)
            status, body = pages.get(request.line.split()[1].decode(), (404, b'{"detail":"Not Found"}'))
            await peer.send(
                b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                % (status, len(body), body)
            )

    return script


READY = {"/v2/health/ready": (200, b"")}
ANSWER = b'{"model_name":"m","outputs":[{"name":"o","datatype":"FP32","shape":[1],"data":[0.5]}]}'


def against(run_once, pages, work, **options):
    async def main():
        async with serving(web(pages)) as server:
            config = settings.Upstream(http=f"127.0.0.1:{server.port}", grpc=f"127.0.0.1:{server.port}", **options)
            upstream = Upstream("up", config)
            await upstream.start()
            try:
                await work(upstream, server)
            finally:
                await upstream.close()

    run_once(main())


def test_a_server_without_the_binary_extension_gets_json(run_once):
    """As MLServer: no `binary_tensor_data`, no config page, metadata without tensors, other streams."""
    pages = READY | {
        "/v2": (200, b'{"name":"mlserver","version":"1.7.1","extensions":[]}'),
        "/v2/models/m": (200, b'{"name":"m","platform":"","versions":[],"inputs":null,"outputs":null}'),
        "/v2/models/m/infer": (200, ANSWER),
    }

    async def work(up, server):
        assert not up.capabilities.binary
        assert not up.capabilities.drain_streams
        answer = await up.infer(identity(2), model="m", timeout=60)
        assert bytes(answer.outputs[0].json) == b"[0.5]"
        request = server.requests[-1]
        assert b"inference-header-content-length" not in request.headers
        assert request.headers[b"content-type"] == b"application/json"
        assert json.loads(request.body)["inputs"][0]["data"] == [0, 1]
        assert not (await up.signature("m")).known
        with pytest.raises(Unsupported):
            up.one().open_stream()

    against(run_once, pages, work)


def test_a_server_that_takes_binary_and_answers_json(run_once):
    """As the KServe SDK with `binary: always`."""
    pages = READY | {"/v2": (200, b'{"name":"kserve"}'), "/v2/models/m/infer": (200, ANSWER)}

    async def work(up, server):
        answer = await up.infer(identity(2), model="m", timeout=60)
        assert bytes(answer.outputs[0].json) == b"[0.5]"
        assert b"inference-header-content-length" in server.requests[-1].headers

    against(run_once, pages, work, binary="always")


@pytest.mark.parametrize(
    "version, drains",
    [("2.51.0", True), ("2.9.0", True), ("2.52.0", False), ("3.0.0", False), ("2.51", True), ("dev", True)],
)
def test_streams_are_drained_by_version(run_once, version, drains):
    pages = READY | {"/v2": (200, json.dumps({"name": "triton", "version": version, "extensions": []}).encode())}

    async def work(up, server):
        assert up.replicas[0].drain_streams is drains

    against(run_once, pages, work)


@pytest.mark.parametrize(
    "status, body",
    [(500, b"<html>"), (404, b'{"detail":"Not Found"}'), (503, b""), (302, b'{"error":"moved"}'), (500, b'{"error":1}'),
     (200, b"not json"), (200, b"{}")],
)  # fmt: skip
def test_answers_that_nobody_can_read(run_once, status, body):
    pages = READY | {"/v2": (200, b"{}"), "/v2/models/m/infer": (status, body), "/v2/models/m": (status, body)}

    async def work(up, server):
        with pytest.raises(BadGateway) as caught:
            await up.infer(identity(), model="m", timeout=60)
        assert "html" not in caught.value.message
        if status != 404:
            pages["/v2/models/m"] = (status, body)
            try:
                await up.signature("m")
            except BadGateway:
                pass
            else:
                assert body == b"{}"

    against(run_once, pages, work)


def test_readiness_follows_the_server(run_once):
    pages = {"/v2": (200, b'{"name":"triton","version":"2.51.0"}'), "/v2/health/ready": (400, b"")}

    async def work(up, server):
        assert not up.ready()
        assert up.capabilities is None
        assert up.replicas[0].drain_streams, "not known is not safe"
        pages["/v2/health/ready"] = (200, b"")
        await until(up.ready)
        assert up.replicas[0].drain_streams
        pages["/v2/health/ready"] = (400, b"")
        await until(lambda: not up.ready())
        pages["/v2"] = (200, b'{"name":"triton","version":"2.60.0"}')
        pages["/v2/health/ready"] = (200, b"")
        await until(up.ready)
        assert not up.replicas[0].drain_streams, "another version came up"

    against(run_once, pages, work, health=settings.Health(interval=0.05))


def test_a_server_that_is_not_there_may_come_later(run_once):
    async def main():
        upstream = Upstream("up", settings.Upstream(http="127.0.0.1:9", grpc="127.0.0.1:9"))
        await upstream.start()
        assert not upstream.ready()
        with pytest.raises(Unreachable):
            await upstream.infer(identity(), model="m", timeout=60)
        with pytest.raises(TidegateError):
            await upstream.signature("m")
        await upstream.close()

    run_once(main())


def test_the_fleet_keeps_what_did_not_change(run_once, config):
    async def main():
        other = settings.Upstream(http="127.0.0.1:9")
        old = Upstreams({"a": config, "b": other, "c": other})
        await old.start()
        assert list(old) == ["a", "b", "c"]
        assert old.default is old["a"]
        await old["a"].infer(identity(), model="identity_fp32", timeout=60)
        new = Upstreams({"b": config, "a": config}, previous=old)
        assert new["a"] is old["a"]
        assert new["b"] is not old["b"]
        assert new.default is new["b"]
        await new.start()
        await old.close(keep=new)
        await new["a"].infer(identity(), model="identity_fp32", timeout=60)
        with pytest.raises(Unreachable):
            await old["c"].one().control("GET", "/v2")
        await new.close()
        with pytest.raises(Unreachable):
            await new["a"].one().control("GET", "/v2")

    run_once(main())


def test_repeat_is_decoupled_and_infer_says_so(run_once, config):
    async def work(up):
        with pytest.raises(UpstreamAnswered) as caught:
            await up.infer(repeat([1]), model="repeat_int32", timeout=60)
        assert caught.value.status == 501

    with_upstream(run_once, config, work)
