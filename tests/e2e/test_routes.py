"""Who serves: splits, assignment, match, versions, fallback, timeouts, shadows, sequences; alike on HTTP and gRPC."""

from __future__ import annotations

import contextlib
import hashlib
import json
import signal
import socket
import statistics
import threading
import time
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from driving import (
    Load,
    RawUpstream,
    ask,
    channel,
    fp32,
    http_answer,
    message,
    pages,
    sleeping,
    until,
    word,
)
from gateway_fixture import start_gateway
from triton_fixture import free_ports

WEIGHTS = {"a": "0.1", "b": "0.2", "zero": "0", "c": "30", "d": "69.7"}
USERS = [f"user{number}" for number in range(24)]
POLICY = """\
p, user:anonymous, *, route:*, read, allow
p, user:anonymous, *, server, read, allow
""" + "".join(
    f"p, user:{user}, {tenant}, model:*, {action}, allow\n"
    for user, tenant in [("anonymous", "public"), *((user, f"tenant-{user}") for user in USERS)]
    for action in ("infer", "read")
)


def variants(model: str) -> str:
    return ", ".join(f"{{name: {name}, model: {model}, weight: {weight}}}" for name, weight in WEIGHTS.items())


class Offsets:
    """A model `m` whose answers are off by what the test asked for, in order; then right."""

    def __init__(self) -> None:
        self.offsets: list[float] = []
        self.served = 0
        self._lock = threading.Lock()

    def infer(self, connection: socket.socket) -> None:
        with self._lock:
            offset = self.offsets.pop(0) if self.offsets else 0.0
            self.served += 1
        output = {"name": "OUTPUT0", "datatype": "FP32", "shape": [1, 2], "data": [1.0 + offset, 1.0]}
        connection.sendall(http_answer(json.dumps({"model_name": "m", "outputs": [output]}).encode()))


def late(connection: socket.socket) -> None:
    time.sleep(0.4)
    output = {"name": "OUTPUT0", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 1.0]}
    with contextlib.suppress(OSError):
        connection.sendall(http_answer(json.dumps({"model_name": "m", "outputs": [output]}).encode()))


class Site:
    """The gateway of this file and the raw servers behind it."""

    def __init__(self, gateway, offsets: Offsets) -> None:
        self.gateway = gateway
        self.offsets = offsets

    def route(self, name: str) -> dict:
        answer = self.gateway.get(f"/gateway/v1/routes/{name}")
        assert answer.status == 200, answer
        return answer.json()

    def variant(self, name: str) -> dict[str, dict]:
        return {each["name"]: each for each in self.route(name)["variants"]}

    def shadow(self, name: str) -> dict:
        return self.route(name)["shadows"][0]


@pytest.fixture(scope="module")
def site(tmp_path_factory, triton):
    offsets = Offsets()
    failing = pages(lambda one: one.sendall(http_answer(b'{"error":"out of memory"}', "500 Internal Server Error")))
    refusing = pages(lambda one: one.sendall(http_answer(b'{"error":"no such tensor"}', "400 Bad Request")))
    keys = "".join(
        f"    - {{sha256: {hashlib.sha256(user.encode()).hexdigest()}, user: {user}, tenant: tenant-{user}}}\n"
        for user in USERS
    )
    with contextlib.ExitStack() as stack:
        raw = {
            name: stack.enter_context(RawUpstream(answer)).address
            for name, answer in {
                "offset": pages(offsets.infer), "late": pages(late), "failing": failing, "refusing": refusing,
            }.items()
        }  # fmt: skip
        raw["dead"] = f"127.0.0.1:{free_ports(1)[0]}"
        servers = "".join(f"  {name}: {{http: '{address}'}}\n" for name, address in raw.items())
        good = "{name: good, model: identity_fp32, weight: 0}"
        shadowed = "variants: [{name: only, model: identity_fp32}]"
        text = f"""
upstreams:
  triton: {{http: '{triton.http}', grpc: '{triton.grpc}'}}
{servers}
identity:
  anonymous: {{}}
  api_keys:
{keys}
policy: {{file: policy.csv}}
routes:
  by_header: {{variants: [{variants("identity_fp32")}], assign_by: header:X-Unit, salt: pepper}}
  by_parameter: {{variants: [{variants("params_echo")}], assign_by: parameter:unit}}
  by_subject: {{variants: [{variants("identity_fp32")}], assign_by: subject}}
  by_tenant: {{variants: [{variants("identity_fp32")}], assign_by: tenant, salt: "größe"}}
  by_id: {{variants: [{variants("identity_fp32")}], assign_by: id}}
  matched:
    variants: [{{name: one, model: identity_fp32}}, {{name: two, model: identity_fp32, weight: 0}}]
    match: [{{headers: {{x-variant: two, x-more: "yes"}}, variant: two}}]
  versions:
    variants:
      - {{name: first, model: income, version: "1"}}
      - {{name: second, model: income, version: "2", weight: 0}}
      - {{name: third, model: income, version: "3", weight: 3}}
      - {{name: third_too, model: income, version: "3", weight: 1}}
  saved: {{variants: [{{name: bad, model: m, upstream: failing}}, {{name: gone, model: m, upstream: dead, weight: 0}}, {good}], fallback: [gone, good]}}
  once: {{variants: [{{name: bad, model: m, upstream: failing}}, {good}], fallback: [good], idempotent: false}}
  theirs: {{variants: [{{name: bad, model: m, upstream: refusing}}, {good}], fallback: [good]}}
  hasty: {{variants: [{{name: only, model: slow}}], timeout: 300ms}}
  bare: {{{shadowed}}}
  compared: {{{shadowed}, shadows: [{{name: s, model: m, upstream: offset, compare: {{rtol: 0.001, atol: 0}}}}]}}
  delayed: {{{shadowed}, shadows: [{{name: s, model: m, upstream: late, concurrency: 2, queue: 4}}]}}
  haunted: {{{shadowed}, shadows: [{{name: s, model: m, upstream: dead}}]}}
  candidate:
    variants: [{{name: champion, model: income, version: "1"}}]
    shadows: [{{name: v3, model: income, version: "3", compare: {{rtol: 0.05, atol: 0.01}}}}]
"""
        gateway = start_gateway(tmp_path_factory.mktemp("routes"), text, files={"policy.csv": POLICY})
        yield Site(gateway, offsets)
        assert gateway.stop() == 0
        assert "Traceback" not in gateway.log.read_text(), gateway.log.read_text()


def predicted(salt: str, unit: str) -> str:
    """The pinned formula, written anew from its description."""
    digest = hashlib.sha256(salt.encode() + b"\0" + unit.encode()).digest()
    u = Fraction(int.from_bytes(digest[:8], "big"), 2**64)
    total = sum(Fraction(weight) for weight in WEIGHTS.values())
    share = Fraction(0)
    for name, weight in WEIGHTS.items():
        share += Fraction(weight) / total
        if share > u:
            return name
    raise AssertionError(u)


def both(site, model: str, document: dict, headers: dict[str, str] | None = None, call_id: str = "") -> tuple[str, str]:
    """The variant over HTTP and over gRPC."""
    if call_id:
        document = {**document, "id": call_id}
    answer = site.gateway.post(f"/v2/models/{model}/infer", document, headers)
    assert answer.status == 200, answer
    over_grpc = ask(site.wire, message(model, document, call_id), headers)
    assert over_grpc.code == "OK", over_grpc
    assert answer.json()["model_name"] == over_grpc.response.model_name == model
    return answer.headers["x-tidegate-variant"], over_grpc.variant


@pytest.fixture(scope="module")
def wired(site):
    with channel(site.gateway.grpc) as made:
        site.wire = made
        yield site


UNITS = [*(f"customer-{number}" for number in range(40)), "ünïcode", "0", "x" * 300]


@pytest.mark.parametrize("by", ["header", "parameter", "subject", "tenant", "id"])
def test_the_pinned_formula(wired, by):
    got: dict[str, tuple[str, str]] = {}
    expected: dict[str, str] = {}
    if by in ("subject", "tenant"):
        for user in USERS:
            unit = f"user:{user}" if by == "subject" else f"tenant-{user}"
            got[unit] = both(wired, f"by_{by}", fp32(), {"x-api-key": user})
            expected[unit] = predicted({"subject": "by_subject", "tenant": "größe"}[by], unit)
    elif by == "header":
        for unit in UNITS:
            if unit.isascii():
                got[unit] = both(wired, "by_header", fp32(), {"x-unit": unit})
                expected[unit] = predicted("pepper", unit)
    elif by == "id":
        for unit in UNITS:
            got[unit] = both(wired, "by_id", fp32(), call_id=unit)
            expected[unit] = predicted("by_id", unit)
    else:
        for value, unit in [
            *((unit, unit) for unit in UNITS),
            (7, "7"),
            (-12, "-12"),
            (True, "true"),
            (False, "false"),
        ]:
            got[unit] = both(wired, "by_parameter", word("w", unit=value))
            expected[unit] = predicted("by_parameter", unit)
    assert got == {unit: (variant, variant) for unit, variant in expected.items()}
    assert len(set(expected.values())) >= 2


def test_a_request_without_its_unit_is_drawn_and_counted(wired):
    before = wired.route("by_header")["without_unit"]
    drawn = Counter(both(wired, "by_header", fp32())[0] for _ in range(30))
    assert wired.route("by_header")["without_unit"] == before + 60
    assert len(drawn) >= 2
    assert "zero" not in drawn


def test_a_match_rule_decides_before_the_split(wired):
    assert both(wired, "matched", fp32()) == ("one", "one")
    assert both(wired, "matched", fp32(), {"x-variant": "two"}) == ("one", "one"), "all its headers must hold"
    assert both(wired, "matched", fp32(), {"x-variant": "two", "x-more": "yes"}) == ("two", "two")


ROW = [0.0] * 14


def income(rows: int = 1, features: list[list[float]] | None = None) -> dict:
    data = features if features is not None else [ROW] * rows
    flat = [value for row in data for value in row]
    return {"inputs": [{"name": "features", "datatype": "FP32", "shape": [len(data), 14], "data": flat}]}


def test_a_version_in_the_path_restricts_the_draw(wired):
    def served(version: str, http: int = 200, grpc: str = "OK") -> set[tuple[str, str]]:
        answer = wired.gateway.post(f"/v2/models/versions/versions/{version}/infer", income())
        other = ask(wired.wire, message("versions", income(), version=version))
        assert (answer.status, other.code) == (http, grpc), (answer, other)
        if http != 200:
            return set()
        assert answer.json()["model_version"] == other.response.model_version == version
        return {(answer.headers["x-tidegate-variant"], version), (other.variant, version)}

    assert served("1") == {("first", "1")}
    assert set.union(*(served("3") for _ in range(12))) == {("third", "3"), ("third_too", "3")}
    served("2", 404, "NOT_FOUND")  # its only variant draws nothing
    served("9", 404, "NOT_FOUND")


def test_the_fallback_answers_for_a_variant_that_fails(wired):
    before = wired.variant("saved")
    assert both(wired, "saved", fp32()) == ("good", "good")
    after = wired.variant("saved")
    assert {name: after[name]["fallbacks"] - before[name]["fallbacks"] for name in after} == {
        "bad": 0,
        "gone": 2,
        "good": 2,
    }
    assert after["good"]["codes"]["200"] - before["good"]["codes"].get("200", 0) == 1
    assert after["good"]["codes"]["OK"] - before["good"]["codes"].get("OK", 0) == 1
    metric = wired.gateway.metric("tidegate_fallbacks_total", route="saved", variant="good")
    assert metric == after["good"]["fallbacks"]


def test_no_fallback_where_a_request_is_sent_once_or_the_client_erred(wired):
    for route, status, code in (("once", 500, "INTERNAL"), ("theirs", 400, "INVALID_ARGUMENT")):
        answer = wired.gateway.post(f"/v2/models/{route}/infer", fp32())
        assert answer.status == status
        assert answer.headers["x-tidegate-variant"] == "bad"
        over_grpc = ask(wired.wire, message(route, fp32()))
        assert (over_grpc.code, over_grpc.variant) == (code, "bad")
        assert wired.variant(route)["good"]["requests"] == 0
    wrong = {"inputs": [{"name": "NO_SUCH", "datatype": "FP32", "shape": [1, 2], "data": [1, 1]}]}
    answer = wired.gateway.post("/v2/models/saved/infer", wrong)
    assert answer.status == 400
    assert "NO_SUCH" in answer.error


def test_shared_memory_that_nobody_registered_is_the_clients_mistake(wired):
    """What is not found then is no model: Triton's own answer, and nobody else is asked."""
    region = {"shared_memory_region": "nobody's", "shared_memory_byte_size": 8}
    document = {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1, 2], "parameters": region}]}
    answer = wired.gateway.post("/v2/models/bare/infer", document)
    assert (answer.status, answer.error) == (404, "Unable to find shared memory region: 'nobody's'")
    asked = message("bare", fp32())
    asked.inputs[0].ClearField("contents")
    asked.inputs[0].parameters["shared_memory_region"].string_param = "nobody's"
    asked.inputs[0].parameters["shared_memory_byte_size"].int64_param = 8
    over_grpc = ask(wired.wire, asked)
    assert over_grpc.code == "NOT_FOUND"


def test_a_routes_timeout(wired):
    answer = wired.gateway.post("/v2/models/hasty/infer", sleeping(900))
    assert (answer.status, bool(answer.error)) == (504, True)
    assert ask(wired.wire, message("hasty", sleeping(900))).code == "DEADLINE_EXCEEDED"
    until(lambda: wired.gateway.post("/v2/models/hasty/infer", sleeping(1)).status == 200)  # the sleeper is free again


# -- shadows ----------------------------------------------------------------------------------------------------


def test_injected_differences_are_counted_exactly(wired):
    """Half by HTTP, half by gRPC; tolerance 0.001 relative: 0.0005 is none."""
    offsets = [0.0, 0.5, 0.0005, -0.25, 0.0, 0.002] * 10
    wired.offsets.offsets = list(offsets)
    for number in range(len(offsets)):
        if number % 2:
            answer = wired.gateway.post("/v2/models/compared/infer", fp32())
            assert answer.json()["outputs"][0]["data"] == [1.0, 1.0], "a shadow never shows in an answer"
            assert answer.headers["x-tidegate-variant"] == "only"
        else:
            assert ask(wired.wire, message("compared", fp32())).code == "OK"
        until(lambda number=number: wired.offsets.served == number + 1, 5)
    state = until(lambda: (s := wired.shadow("compared"))["outputs"] and s["outputs"][0]["compared"] == 60 and s, 5)
    (output,) = state["outputs"]
    assert (state["requests"], state["errors"], state["dropped"]) == (60, 0, 0)
    assert (output["name"], output["differences"], output["elements_differing"]) == ("OUTPUT0", 30, 30)
    assert output["elements"] == 120
    assert output["max_abs"] == pytest.approx(0.5, rel=1e-6)
    labels = {"route": "compared", "shadow": "s"}
    assert wired.gateway.metric("tidegate_shadow_differences_total", output="OUTPUT0", **labels) == 30
    assert wired.gateway.metric("tidegate_shadow_requests_total", **labels) == 60


def test_a_real_candidate_differs_as_often_as_asking_both_says(wired, triton):
    """Version 1 answers, version 3 is the shadow; the same rows asked of Triton itself, compared in numpy."""
    random = np.random.default_rng(7)
    rows = random.uniform(0, 60, (40, 14)).astype(np.float32)
    import tritonclient.http as client_of

    differing = Counter[str]()
    with contextlib.closing(client_of.InferenceServerClient(triton.http)) as client:
        for row in rows:
            tensor = client_of.InferInput("features", [1, 14], "FP32")
            tensor.set_data_from_numpy(row[None])
            ours, theirs = (client.infer("income", [tensor], model_version=version) for version in "13")
            for name in ("probability", "label"):
                a, b = ours.as_numpy(name).astype(np.float64), theirs.as_numpy(name).astype(np.float64)
                differing[name] += bool((np.abs(a - b) > 0.01 + 0.05 * np.abs(a)).any())
    for row in rows:
        assert wired.gateway.post("/v2/models/candidate/infer", income(features=[row.tolist()])).status == 200
    state = until(
        lambda: (s := wired.shadow("candidate"))["outputs"] and min(o["compared"] for o in s["outputs"]) == 40 and s, 10
    )
    assert {output["name"]: output["differences"] for output in state["outputs"]} == dict(differing)
    assert sum(differing.values()) > 0
    assert state["latency_difference_seconds"] is not None


def test_a_slow_shadow_delays_nothing_and_what_overflows_is_counted(wired):
    """It takes 0.4 s, two at a time, four wait: the rest is dropped."""

    def seconds(route: str) -> list[float]:
        import http.client

        connection = http.client.HTTPConnection(wired.gateway.http)
        body, times = json.dumps(fp32()), []
        for _ in range(150):
            began = time.perf_counter()
            connection.request("POST", f"/v2/models/{route}/infer", body)
            response = connection.getresponse()
            response.read()
            assert response.status == 200
            times.append(time.perf_counter() - began)
        connection.close()
        return times

    seconds("bare")
    without, with_shadow = seconds("bare"), seconds("delayed")
    assert statistics.median(with_shadow) < 2 * statistics.median(without) + 0.003
    assert max(with_shadow) < 0.35, "no answer waits for its copy"
    state = until(lambda: (s := wired.shadow("delayed"))["requests"] + s["dropped"] == 150 and s, 8)
    assert state["dropped"] >= 120
    assert state["errors"] == 0
    labels = {"route": "delayed", "shadow": "s"}
    assert wired.gateway.metric("tidegate_shadow_dropped_total", **labels) == state["dropped"]


def test_a_dead_shadow_is_counted_and_changes_nothing(wired):
    for _ in range(5):
        assert both(wired, "haunted", fp32()) == ("only", "only")
    state = until(lambda: (s := wired.shadow("haunted"))["errors"] == 10 and s, 5)
    assert (state["requests"], state["outputs"]) == (10, [])
    assert wired.gateway.metric("tidegate_shadow_errors_total", route="haunted", shadow="s") == 10


# -- sequences, blue and green ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def four(tmp_path_factory, triton):
    """Four workers, and weights to edit; two names for the one Triton, so that the variants are two targets."""
    text = """
upstreams:
  triton: {http: 'HTTP', grpc: 'GRPC'}
  twin: {http: 'HTTP', grpc: 'GRPC'}
workers: 4
routes:
  sums:
    variants: [{name: left, model: sequence_accumulate, weight: 1}, {name: right, model: sequence_accumulate, upstream: twin, weight: 1}]
  income: {variants: [{name: blue, model: income, version: "1", weight: 1}, {name: green, model: income, version: "2", weight: 0}]}
""".replace("HTTP", triton.http).replace("GRPC", triton.grpc)
    gateway = start_gateway(tmp_path_factory.mktemp("four"), text)
    until(lambda: "serving: " in gateway.log.read_text(), 15)
    yield gateway
    assert gateway.stop() == 0


def edit(gateway, *changes: tuple[str, str]) -> None:
    """Change the settings and wait until all workers have them."""
    text = gateway.config.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    before = gateway.get("/gateway/v1/snapshot").json()["hash"]
    gateway.config.write_text(text)
    gateway.process.send_signal(signal.SIGHUP)
    until(lambda: before not in {gateway.get("/gateway/v1/snapshot").json()["hash"] for _ in range(24)}, 5)


def test_sequences_stay_on_their_variant_over_workers_and_through_a_changed_split(four):
    def step(sequence: int, number: int, *, start: bool = False, end: bool = False) -> tuple[str, int]:
        document = {
            "inputs": [{"name": "INPUT", "datatype": "INT32", "shape": [1, 1], "data": [number]}],
            "parameters": {"sequence_id": sequence, "sequence_start": start, "sequence_end": end},
        }
        if (sequence + number) % 2:
            answer = four.post("/v2/models/sums/infer", document)  # a connection of its own: any worker
            assert answer.status == 200, answer
            return answer.headers["x-tidegate-variant"], answer.json()["outputs"][0]["data"][0]
        with channel(four.grpc) as made:
            over_grpc = ask(made, message("sums", document))
        assert over_grpc.code == "OK", over_grpc
        raw = over_grpc.response.raw_output_contents[0]
        return over_grpc.variant, int.from_bytes(raw, "little", signed=True)

    sequences = range(9000, 9020)
    first = {sequence: step(sequence, 1, start=True)[0] for sequence in sequences}
    assert set(first.values()) == {"left", "right"}
    for number in (2, 3):
        assert {s: step(s, number) for s in sequences} == {s: (first[s], number * (number + 1) // 2) for s in sequences}
    edit(four, ("accumulate, weight: 1}", "accumulate, weight: 0}"))
    assert {s: step(s, 4) for s in sequences} == {s: (first[s], 10) for s in sequences}
    assert {step(s, 1, start=True, end=True)[0] for s in range(9100, 9110)} == {"right"}, (
        "new ones follow the new split"
    )
    assert {s: step(s, 5, end=True) for s in sequences} == {s: (first[s], 15) for s in sequences}
    assert {step(s, 1, start=True, end=True)[0] for s in sequences} == {"right"}, "their pins are gone"


def test_blue_and_green_by_editing_weights_loses_no_request(four):
    with Load(four, "income", income(), http=3, grpc=2) as load:
        until(lambda: load.answered() > 100)
        assert set(load.outcome.variants) == {"blue"}
        edit(four, ('version: "1", weight: 1', 'version: "1", weight: 0'), ('"2", weight: 0', '"2", weight: 1'))
        time.sleep(0.3)  # answers of requests that began before
        load.outcome.variants.clear()
        count = load.answered()
        until(lambda: load.answered() > count + 100)
        assert set(load.outcome.variants) == {"green"}
    assert load.outcome.errors == []
