"""The benchmark's own instruments: the programs in C, the costs of calls, and the gate on instructions."""

import json
import shutil
import socket
import subprocess
from contextlib import contextmanager

import msgspec
import pytest

from bench import counted, gate, null
from bench.native import compiled

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
REFUSED = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("native")
    return {name: compiled(name, folder) for name in ("null_upstream", "open_loop")}


@contextmanager
def playing(program, folder, entries):
    tape = folder / "tape"
    tape.write_bytes(b"".join(null._entry(*entry) for entry in entries))
    with subprocess.Popen([program, tape], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield int(process.stdout.readline()), process
        finally:
            process.kill()


def answers(port, pieces, nbytes):
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            connection.sendall(piece)
        data = b""
        while len(data) < nbytes and (more := connection.recv(65536)):
            data += more
    return data


def test_the_null_upstream_plays_back_whatever_the_pieces(programs, tmp_path):
    body = b"x" * 40_000
    post = b"POST /a HTTP/1.1\r\nhost: h\r\ncontent-LENGTH: %d\r\n\r\n%b" % (len(body), body)
    get = b"GET /a HTTP/1.1\r\n\r\n"
    with playing(programs["null_upstream"], tmp_path, [("GET", "/a", OK), ("POST", "/a", REFUSED)]) as (port, _):
        assert answers(port, [get], len(OK)) == OK
        assert answers(port, [get + post + get], 2 * len(OK) + len(REFUSED)) == OK + REFUSED + OK
        cut = [post[:10], post[10:50], post[50:30_000], post[30_000:] + get[:7], get[7:]]
        assert answers(port, cut, len(OK) + len(REFUSED)) == REFUSED + OK
        one_by_one = [bytes([byte]) for byte in get]
        assert answers(port, one_by_one, len(OK)) == OK


def test_what_is_not_on_the_tape_is_said(programs, tmp_path):
    with playing(programs["null_upstream"], tmp_path, [("GET", "/a", OK)]) as (port, process):
        got = answers(port, [b"GET /ab HTTP/1.1\r\n\r\nGET /a HTTP/1.1\r\n\r\n"], 99 + len(OK))
        assert got.startswith(b"HTTP/1.1 404 ")
        assert got.endswith(OK)
        assert process.stderr.readline() == b"not on the tape: GET /ab HTTP/1.1\n"


def test_the_open_loop_sends_what_was_planned(programs, tmp_path):
    request = tmp_path / "request"
    request.write_bytes(b"GET /a HTTP/1.1\r\n\r\n")
    with playing(programs["null_upstream"], tmp_path, [("GET", "/a", OK)]) as (port, _):
        found = [null.open_loop(programs["open_loop"], f"h:{port}", request, 400, 1.0, seed) for seed in (1, 1, 2)]
    # The plan is the seed's: the same requests are judged in each run, whatever the machine does.
    assert found[0].requests == found[1].requests
    assert 300 < found[0].requests < 500
    assert 0 < found[0].p50 <= found[0].p99 <= found[0].p999 <= found[0].longest


@pytest.mark.parametrize(
    ("answer", "told"), [(REFUSED, "failed"), (b"HTTP/1.1 200 OK\r\n", "no answer|closed|open loop")]
)
def test_the_open_loop_says_what_went_wrong(programs, tmp_path, answer, told):
    if b"\r\n\r\n" not in answer:
        request = tmp_path / "request"
        request.write_bytes(b"GET /a HTTP/1.1\r\n\r\n")
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            words = [programs["open_loop"], str(port), str(request), "100", "1", "0", "1", "1"]
            with subprocess.Popen(words, stderr=subprocess.PIPE) as process:
                server.accept()[0].close()
                assert b"closed" in process.stderr.read()
            assert process.returncode != 0
        return
    request = tmp_path / "request"
    request.write_bytes(b"GET /a HTTP/1.1\r\n\r\n")
    with (
        playing(programs["null_upstream"], tmp_path, [("GET", "/a", answer)]) as (port, _),
        pytest.raises(RuntimeError, match=told),
    ):
        null.open_loop(programs["open_loop"], f"h:{port}", request, 200, 0.5, 1)


@pytest.mark.parametrize(
    "suite",
    [
        "bench.cases_kernels:gated",
        "bench.cases_steps:steps",
        "bench.cases_policy:decisions",
        "bench.cases_policy:compiling",
        "bench.cases_policy:pycasbin",
    ],
)
def test_every_case_runs(suite):
    found = counted.costs(suite, rounds=1, count=False)
    assert found
    assert {name: cost.error for name, cost in found.items() if cost.error} == {}
    assert all(cost.calls for cost in found.values())


def test_the_twins_run_the_same_cases():
    found = counted.costs("bench.cases_kernels:kernels", rounds=1, count=False, extensions=False)
    assert [name for name, cost in found.items() if cost.error] == []


def test_the_gate_blocks_on_instructions_alone():
    before = {"same": 100.0, "less": 100.0, "more": 100.0, "gone": 100.0}
    now = {
        "same": counted.Cost(instructions=102.9, ns=[1e9]),
        "less": counted.Cost(instructions=50.0),
        "more": counted.Cost(instructions=103.1),
        "new": counted.Cost(instructions=1e9),
    }
    verdicts = gate.judged(before, now)
    assert {one.name for one in verdicts if one.worse} == {"more", "gone"}
    shown = gate.table(verdicts)
    assert "more          100          103  +3.1%  TOO MUCH" in shown
    assert "new             - 1,000,000,000  new\n" in shown


def test_committed_figures_are_those_of_the_cases(tmp_path):
    known = msgspec.json.decode(gate.BASELINE.read_bytes(), type=gate.Baseline)
    from bench.cases_kernels import gated

    assert known.instructions.keys() == gated(tmp_path).keys()
    assert known.toolchain.keys() == gate.toolchain().keys()


def test_another_toolchain_is_not_judged(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gate, "can_count", lambda: "")
    monkeypatch.setattr(gate, "BASELINE", tmp_path / "gate.json")
    gate.BASELINE.write_text(json.dumps({"toolchain": gate.toolchain() | {"libc": "musl 1"}, "instructions": {}}))
    assert gate.main([]) == 0
    said = capsys.readouterr().out
    assert "musl 1" in said
    assert "not judged: another toolchain" in said


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_the_gate_holds():
    assert gate.main([]) == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_a_revision_costs_what_it_costs():
    assert gate.main(["--against", "HEAD"]) == 0
