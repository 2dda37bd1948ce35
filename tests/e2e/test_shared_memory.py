"""Large tensors through shared memory, against real Tritons: answers are what they are without it.

One gateway shares memory with its two Tritons and one does not; what a client sees of them is the same. Then each
process is killed in turn, and nothing is left of it in /dev/shm or in a Triton.

The gateways run without Python's garbage collector: what comes back only when it passes by is held too long.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from driving import children, until
from gateway_fixture import Gateway, start_gateway
from triton_fixture import FORWARD_HEADERS, free_ports, installed, repository
from tritonclient.utils import InferenceServerException, shared_memory, triton_to_np_dtype

from gateway.triton import Launch, Listen, ManagedTriton, command
from gateway.upstream.shm_calls import FROM
from gateway.upstream.shm_ring import PREFIX

SHM = Path("/dev/shm")
LATE = """
import time
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            values = pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy()
            time.sleep(values[0, 0] / 1000)
            again = pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy()
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT0", again)]))
        return answers
"""
"""`identity_fp32` that first sleeps as many milliseconds as the first element says."""
WITHOUT_COLLECTOR = """
import gc
gc.disable()
gc.enable = lambda: None
gc.collect = lambda generation=2: 0
"""
TYPES = ("BOOL", "UINT8", "UINT16", "INT32", "INT64", "UINT64", "FP16", "FP32", "FP64", "BYTES")


class Server:
    """A Triton that can be killed and started again at its addresses."""

    def __init__(self, folder: Path) -> None:
        self._listen = Listen(*free_ports(3))
        self.http = f"{self._listen.host}:{self._listen.http}"
        self.grpc = f"{self._listen.host}:{self._listen.grpc}"
        self._log = folder / "triton.log"
        models = repository(folder / "models", "identity_fp32", "identity_all")
        late = models / "late"
        (late / "1").mkdir(parents=True)
        (late / "1" / "model.py").write_text(LATE)
        like = (models / "identity_fp32" / "config.pbtxt").read_text()
        (late / "config.pbtxt").write_text(like.replace("identity_fp32", "late"))
        self._launch: Launch = command(
            installed(), repositories=[models], listen=self._listen, otlp=None, extra=FORWARD_HEADERS
        )
        self._runner = asyncio.Runner()
        self.start()

    def start(self) -> None:
        self._server = ManagedTriton(self._launch, self._log, grace=0.0)
        self._runner.run(self._server.start())

    def kill(self) -> None:
        self._runner.run(self._server.stop())

    def close(self) -> None:
        self.kill()
        self._runner.close()

    def regions(self) -> list[dict]:
        """Those of gateways that are registered."""
        with urllib.request.urlopen(f"http://{self.http}/v2/systemsharedmemory/status") as page:
            return [row for row in json.load(page) if row["name"].startswith(PREFIX)]


@dataclass
class Site:
    tritons: list[Server]
    shared: Gateway
    copied: Gateway


def settings(tritons: list[Server], mode: str) -> str:
    replicas = ", ".join(f"{{http: '{one.http}', grpc: '{one.grpc}'}}" for one in tritons)
    return f"upstreams: {{t: {{replicas: [{replicas}], shared_memory: {mode}, unary: http}}}}\n"


@contextmanager
def stopped(gateway: Gateway) -> Iterator[Gateway]:
    try:
        yield gateway
    finally:
        assert gateway.stop() == 0, gateway.log.read_text()


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("shared-memory")
    (folder / "sitecustomize.py").write_text(WITHOUT_COLLECTOR)
    with ExitStack() as stack:
        tritons = []
        for name in ("a", "b"):
            (folder / name).mkdir()
            tritons.append(Server(folder / name))
            stack.callback(tritons[-1].close)
        ways = [
            stack.enter_context(
                stopped(start_gateway(folder / mode, settings(tritons, mode), env={"PYTHONPATH": str(folder)}))
            )
            for mode in ("auto", "off")
        ]
        yield Site(tritons, *ways)


def way(gateway: Gateway, name: str) -> float:
    return gateway.metric("tidegate_upstream_events_total", event=name)


def leased(gateway: Gateway) -> float:
    return gateway.metric("tidegate_shared_memory_bytes", state="leased")


def image(gateway: Gateway, values: np.ndarray) -> np.ndarray:
    """A matrix through `identity_fp32` and back, in binary over HTTP."""
    tensor = httpclient.InferInput("INPUT0", list(values.shape), "FP32")
    tensor.set_data_from_numpy(values)
    with httpclient.InferenceServerClient(gateway.http) as client:
        return client.infer("identity_fp32", [tensor]).as_numpy("OUTPUT0")


def goes_by_shared_memory(gateway: Gateway, calls: int = 4) -> bool:
    """Whether all of some calls did; each of them is answered rightly either way."""
    before = way(gateway, "shared_memory")
    for number in range(calls):
        values = np.random.default_rng(number).random((1, 50_000), np.float32)
        assert np.array_equal(image(gateway, values), values)
    return way(gateway, "shared_memory") - before == calls


def values_of(datatype: str, size: int) -> np.ndarray:
    """A vector of about so many bytes."""
    if datatype == "BYTES":
        return np.array([b"%d" % number * (number % 7) for number in range(size // 20 or 1)], np.object_)
    kind = triton_to_np_dtype(datatype)
    count = max(size // np.dtype(kind).itemsize, 1)
    return (np.arange(count) % 2000).astype(kind) if datatype != "BOOL" else np.arange(count) % 3 == 0


def document(parts: dict[str, np.ndarray], outputs: list[dict] | None) -> tuple[bytes, dict[str, str]]:
    """A binary request by hand, so that its bytes are the same each time."""
    inputs, blobs = [], []
    for datatype, values in parts.items():
        tensor = httpclient.InferInput(f"INPUT_{datatype}", [len(values)], datatype)
        tensor.set_data_from_numpy(values)
        inputs.append(tensor._get_tensor())
        blobs.append(tensor._get_binary_data())
    head: dict = {"id": "7", "inputs": inputs}
    if outputs is not None:
        head["outputs"] = outputs
    else:
        head["parameters"] = {"binary_data_output": True}
    text = json.dumps(head).encode()
    return b"".join([text, *blobs]), {
        "inference-header-content-length": str(len(text)),
        "content-type": "application/octet-stream",
        "x-request-id": "same",
    }


SIZES = (8, FROM - 8, FROM, 300_000)


@pytest.mark.parametrize("size", SIZES)
def test_answers_are_the_same_byte_for_byte_whatever_the_datatype(site, size):
    for datatype in TYPES:
        for outputs in (
            None,
            [{"name": f"OUTPUT_{datatype}"}],
            [{"name": f"OUTPUT_{datatype}", "parameters": {"binary_data": True}}],
        ):
            if datatype == "FP16" and outputs is not None and "parameters" not in outputs[0]:
                continue  # it has no JSON form
            body, headers = document({datatype: values_of(datatype, size)}, outputs)
            # The second time the gateway knows how large the output is.
            for _ in range(2):
                answers = [
                    gateway.request("POST", "/v2/models/identity_all/infer", body, headers)
                    for gateway in (site.shared, site.copied)
                ]
                assert [answer.status for answer in answers] == [200, 200], answers[0].body[:500]
                assert answers[0].headers == answers[1].headers
                assert answers[0].body == answers[1].body, (datatype, size, outputs)
    assert way(site.copied, "shared_memory") == 0


def test_large_tensors_have_gone_that_way(site):
    assert goes_by_shared_memory(site.shared)


def test_several_tensors_of_one_request_large_and_small(site):
    parts = {"FP32": values_of("FP32", 300_000), "UINT8": values_of("UINT8", 33), "BYTES": values_of("BYTES", 200_000)}
    body, headers = document(parts, None)
    for _ in range(4):
        answers = [
            gateway.request("POST", "/v2/models/identity_all/infer", body, headers).body
            for gateway in (site.shared, site.copied)
        ]
        assert answers[0] == answers[1]


def test_outputs_that_grow_and_shrink(site):
    """Rooms follow what was seen; where one is too small the call is sent again."""
    for count in (20_000, 20_000, 90_000, 400_000, 20_000, 17_000, 400_000, 100, 400_000):
        values = np.random.default_rng(count).random((1, count), np.float32)
        assert np.array_equal(image(site.shared, values), values)


def test_json_and_grpc_callers(site):
    values = np.random.default_rng(5).random((1, 60_000), np.float32)
    before = way(site.shared, "shared_memory")
    sent = {"inputs": [{"name": "INPUT0", "shape": [1, 60_000], "datatype": "FP32", "data": values.ravel().tolist()}]}
    answers = [gateway.post("/v2/models/identity_fp32/infer", sent) for gateway in (site.shared, site.copied)]
    assert answers[0].body == answers[1].body
    tensor = grpcclient.InferInput("INPUT0", [1, 60_000], "FP32")
    tensor.set_data_from_numpy(values)
    with grpcclient.InferenceServerClient(site.shared.grpc) as client:
        for _ in range(2):
            assert np.array_equal(client.infer("identity_fp32", [tensor]).as_numpy("OUTPUT0"), values)
    assert way(site.shared, "shared_memory") - before == 3


def test_what_a_client_gets_wrong_is_said_in_the_same_words(site):
    for body, headers in (
        (
            b'{"inputs":[{"name":"NO","shape":[1,70000],"datatype":"FP32","parameters":{"binary_data_size":280000}}]}',
            {},
        ),
        (
            b'{"inputs":[{"name":"INPUT0","shape":[1,7],"datatype":"FP32","parameters":{"binary_data_size":280000}}]}',
            {},
        ),
    ):
        length = {"inference-header-content-length": str(len(body)), **headers}
        answers = [
            gateway.request("POST", "/v2/models/identity_fp32/infer", body + bytes(280_000), length)
            for gateway in (site.shared, site.copied)
        ]
        assert answers[0].status == answers[1].status == 400
        assert answers[0].body == answers[1].body
    until(lambda: leased(site.shared) == 0)


def test_clients_may_use_shared_memory_of_their_own(site):
    values = np.random.default_rng(9).random((1, 100_000), np.float32)
    name = f"client-{os.getpid()}"
    handle = shared_memory.create_shared_memory_region(name, "/" + name, values.nbytes * 2)
    try:
        shared_memory.set_shared_memory_region(handle, [values])
        with httpclient.InferenceServerClient(site.shared.http) as client:
            client.register_system_shared_memory(name, "/" + name, values.nbytes * 2)
            assert [row["name"] for row in client.get_system_shared_memory_status()] == [name]
            tensor = httpclient.InferInput("INPUT0", [1, 100_000], "FP32")
            tensor.set_shared_memory(name, values.nbytes)
            output = httpclient.InferRequestedOutput("OUTPUT0")
            output.set_shared_memory(name, values.nbytes, offset=values.nbytes)
            for _ in range(3):
                client.infer("identity_fp32", [tensor], outputs=[output])
            back = shared_memory.get_contents_as_numpy(handle, np.float32, [1, 100_000], offset=values.nbytes)
            assert np.array_equal(back, values)
            client.unregister_system_shared_memory(name)
    finally:
        shared_memory.destroy_shared_memory_region(handle)


def test_the_gateways_own_regions_are_not_to_be_seen_or_named(site):
    own = site.tritons[0].regions()[0]["name"]
    with (
        httpclient.InferenceServerClient(site.shared.http) as http,
        grpcclient.InferenceServerClient(site.shared.grpc) as grpc,
    ):
        assert http.get_system_shared_memory_status() == []
        assert not grpc.get_system_shared_memory_status().regions
        for client, module in ((http, httpclient), (grpc, grpcclient)):
            for call in (
                lambda client=client: client.get_system_shared_memory_status(own),
                lambda client=client: client.unregister_system_shared_memory(own),
                lambda client=client: client.register_system_shared_memory(own, "/x", 10),
                lambda client=client, module=module: client.infer("identity_fp32", [stolen(module, own)]),
            ):
                with pytest.raises(InferenceServerException, match="Unable to find"):
                    call()
    assert goes_by_shared_memory(site.shared)


def stolen(module, region: str):
    tensor = module.InferInput("INPUT0", [1, 100], "FP32")
    tensor.set_shared_memory(region, 400)
    return tensor


def test_a_region_that_triton_has_forgotten_is_registered_again(site):
    for server in site.tritons:
        with httpclient.InferenceServerClient(server.http) as client:
            client.unregister_system_shared_memory()
    assert not any(server.regions() for server in site.tritons)
    until(lambda: goes_by_shared_memory(site.shared))


def test_a_client_may_unregister_all_while_others_regions_are_in_use(site):
    made = send(site.shared, *late(3000))
    with made:
        until(lambda: leased(site.shared) > 0)
        with (
            httpclient.InferenceServerClient(site.shared.http) as http,
            grpcclient.InferenceServerClient(site.shared.grpc) as grpc,
        ):
            http.unregister_system_shared_memory()
            grpc.unregister_system_shared_memory()
        assert b" 200 " in made.recv(1000)[:20]
    until(lambda: goes_by_shared_memory(site.shared))


def test_memory_of_calls_whose_clients_left_comes_back(site):
    body, headers = document({"FP32": values_of("FP32", 700_000)}, None)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST /v2/models/identity_all/infer HTTP/1.1\r\nhost: x\r\n{lines}content-length: {len(body)}\r\n\r\n"
    host, _, port = site.shared.http.rpartition(":")
    for number in range(30):
        with socket.create_connection((host, int(port))) as made:
            # Some leave in the midst of the body, some before the answer, some in the midst of that.
            made.sendall(head.encode() + body[: 100_000 if number % 3 == 0 else None])
            if number % 3 == 1:
                made.recv(1000)
    until(lambda: leased(site.shared) == 0, 20)
    assert goes_by_shared_memory(site.shared)


def late(milliseconds: int, count: int = 100_000) -> tuple[bytes, dict[str, str]]:
    """A large request for the model `late`."""
    values = np.full((1, count), milliseconds, np.float32)
    tensor = httpclient.InferInput("INPUT0", [1, count], "FP32")
    tensor.set_data_from_numpy(values)
    text = json.dumps({"inputs": [tensor._get_tensor()], "parameters": {"binary_data_output": True}}).encode()
    return text + values.tobytes(), {"inference-header-content-length": str(len(text))}


def send(gateway: Gateway, body: bytes, headers: dict[str, str]) -> socket.socket:
    """A connection on which one request for `late` has been sent."""
    host, _, port = gateway.http.rpartition(":")
    made = socket.create_connection((host, int(port)))
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    made.sendall(
        f"POST /v2/models/late/infer HTTP/1.1\r\nhost: x\r\n{lines}content-length: {len(body)}\r\n\r\n".encode()
    )
    made.sendall(body)
    return made


def test_memory_that_triton_may_still_use_is_nobody_elses(site):
    body, headers = late(0)
    for _ in range(16):  # so that its answers go that way too, from whichever replica
        assert site.shared.request("POST", "/v2/models/late/infer", body, headers).status == 200
    until(lambda: leased(site.shared) == 0)
    body, headers = late(6000)
    made = send(site.shared, body, headers)
    until(lambda: leased(site.shared) >= 2 * len(body) * 0.9)
    made.close()
    until(lambda: site.shared.metric("tidegate_requests_in_flight") == 0)
    assert goes_by_shared_memory(site.shared)
    until(lambda: 0 < leased(site.shared) < 4 * len(body), what="the model sleeps, and only it has memory")
    until(lambda: leased(site.shared) == 0, 30, "it has answered")


def test_memory_of_a_broken_call_is_held_until_triton_has_the_region_anew(site, tmp_path):
    (server,) = site.tritons[1:]
    with stopped(start_gateway(tmp_path / "one", settings([server], "auto"))) as gateway:
        until(lambda: goes_by_shared_memory(gateway), 30)
        made = send(gateway, *late(20_000))
        with made:
            until(lambda: leased(gateway) > 0)
            server.kill()
            assert b" 503 " in made.recv(1000)[:20]
        until(lambda: gateway.metric("tidegate_requests_in_flight") == 0)
        time.sleep(3)  # the gauge is a second old
        assert leased(gateway) > 0
        server.start()
        until(lambda: leased(gateway) == 0, 40)
        until(lambda: goes_by_shared_memory(gateway), 30)


def test_many_at_once_do_not_mix(site):
    failed: list[Exception] = []

    def client(number: int) -> None:
        try:
            with httpclient.InferenceServerClient(site.shared.http) as one:
                for turn in range(8):
                    values = np.full((1, 20_000 + 9_000 * turn), number * 100 + turn, np.float32)
                    tensor = httpclient.InferInput("INPUT0", list(values.shape), "FP32")
                    tensor.set_data_from_numpy(values)
                    assert np.array_equal(one.infer("identity_fp32", [tensor]).as_numpy("OUTPUT0"), values)
        except Exception as error:  # noqa: BLE001 - told in the test's own thread
            failed.append(error)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_a_triton_that_was_killed_and_started_again_has_the_region_anew(site):
    victim = site.tritons[0]
    victim.kill()
    victim.start()
    until(victim.regions, 30)
    until(lambda: goes_by_shared_memory(site.shared), 30)


def test_a_worker_that_was_killed_leaves_nothing(site):
    before = {row["key"] for server in site.tritons for row in server.regions()}
    assert len(before) == 1
    (worker,) = [pid for pid in children(site.shared.process.pid) if b"gateway.worker" in command_line(pid)]
    os.kill(worker, signal.SIGKILL)
    until(lambda: all(len(server.regions()) == 1 and own(server).isdisjoint(before) for server in site.tritons), 30)
    assert not any((SHM / key.lstrip("/")).exists() for key in before)
    until(lambda: goes_by_shared_memory(site.shared), 30)


def own(server: Server) -> set[str]:
    return {row["key"] for row in server.regions()}


def command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_gateway_that_stops_takes_everything_with_it(site, tmp_path):
    third = start_gateway(tmp_path / "third", settings(site.tritons, "auto"))
    until(lambda: all(len(server.regions()) == 2 for server in site.tritons), 20)
    keys = own(site.tritons[0])
    assert third.stop() == 0
    for server in site.tritons:
        (left,) = own(server)
        keys.discard(left)
    (gone,) = keys
    assert not (SHM / gone.lstrip("/")).exists()
