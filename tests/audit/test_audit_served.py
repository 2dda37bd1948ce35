"""The audit log over HTTP, as C2SP tlog-tiles has it: read by a client that shares no line with the gateway."""

from __future__ import annotations

import gzip
import json
import time
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st
from independent import read_with
from prune_fixture import DAY_NS, pruned

from governance.audit.pruned import read_pruned
from governance.audit.retention import REST, Class, Retention
from governance.audit.tiles import WIDTH, bundle_path, parse_path, tile_path

READER, OTHER = "reader-key", "other-key"
SETTINGS = f"""
upstreams: {{triton: {{http: '$TRITON_HTTP', grpc: '$TRITON_GRPC'}}}}
identity:
  api_keys:
    - {{sha256: {sha256(READER.encode()).hexdigest()}, user: auditor, tenant: audit}}
    - {{sha256: {sha256(OTHER.encode()).hexdigest()}, user: other, tenant: acme}}
policy: {{file: policy.csv}}
"""
POLICY = "p, user:auditor, *, audit, read, allow\np, user:other, acme, *, *, allow\n"
KEY = {"x-api-key": READER}
POLICY_NAME = "records schedule 7"


def started(gateway, **options):
    return gateway(SETTINGS, files={"policy.csv": POLICY}, **options)


def filled(one, count):
    """Have so many records public."""
    for _ in range(count):
        assert one.post("/v2/models/identity_fp32/infer", {}).status == 401
    end = time.monotonic() + 60
    while size_of(one) < count + 2:  # settings and policy
        assert time.monotonic() < end
        time.sleep(0.1)
    return count + 2


def size_of(one):
    answer = one.get("/audit/checkpoint", KEY)
    assert answer.status == 200
    return int(answer.body.splitlines()[1])


def test_a_log_is_read_over_http_and_holds(gateway):
    one = started(gateway)
    count = filled(one, 300)
    log = one.folder / "state/audit"
    served = {}

    def read(path):
        if path == "checkpoint" and path in served:
            return served[path]
        answer = one.get(f"/audit/{path}", KEY)
        served[path] = answer.body
        return answer.body if answer.status == 200 else None

    entries = read_with(read, (log / "log.vkey").read_text())
    assert len(entries) >= count
    assert sum(json.loads(entry)["status"] == "401" for entry in entries) >= count - 2
    for path in ("tile/0/000", "tile/entries/000"):
        assert served[path] == (log / path).read_bytes()
    checkpoint = one.get("/audit/checkpoint", KEY).headers
    assert (checkpoint["content-type"], checkpoint["cache-control"]) == (
        "text/plain; charset=utf-8",
        "private, max-age=2",
    )
    bundle = one.get("/audit/tile/entries/000", KEY | {"accept-encoding": "gzip"})
    assert (bundle.headers["content-encoding"], bundle.headers["content-type"]) == ("gzip", "application/octet-stream")
    assert gzip.decompress(bundle.body) == served["tile/entries/000"]
    tile = one.get("/audit/tile/0/000", KEY | {"accept-encoding": "gzip"})
    assert "content-encoding" not in tile.headers
    assert "immutable" in tile.headers["cache-control"]
    # A tree of 256 had one tile, and this log has gone on since: it stands in for its parts.
    assert one.get("/audit/tile/0/000.p/17", KEY).body == tile.body[: 17 * 32]


def test_what_was_pruned_is_gone_and_said(gateway):
    """Beside the gateway, which takes the statement into its log; the hashes are still served."""
    one = started(gateway)
    log = one.folder / "state/audit"
    filled(one, 300)
    served = one.get("/audit/tile/0/000", KEY).body
    assert one.get("/audit/tile/entries/000", KEY).status == 200
    later = {"clock": lambda: time.time_ns() + 10 * DAY_NS}
    assert pruned(one.folder / "state", Retention(POLICY_NAME, Class(REST, 1, "none")), **later).plan.before == 256
    answer = one.get("/audit/tile/entries/000", KEY)
    assert answer.status == 410
    assert answer.body == json.dumps({"error": str(read_pruned(log, size_of(one)))}, separators=(",", ":")).encode()
    assert POLICY_NAME.encode() in answer.body
    assert one.get("/audit/tile/entries/000.p/17", KEY).status == 410
    assert one.get("/audit/tile/0/000", KEY).body == served
    assert one.get("/audit/tile/entries/000").status == 401
    filled(one, 10)
    assert one.stop() == 0


def test_who_may_read_it_and_what_is_no_part_of_it(gateway):
    one = started(gateway)
    size = filled(one, 3)
    for path in ("checkpoint", "tile/0/000.p/1", "tile/entries/000.p/1"):
        assert one.get(f"/audit/{path}").status == 401
        assert one.get(f"/audit/{path}", {"x-api-key": OTHER}).status == 403
    log = one.folder / "state/audit"
    (log / "tile/0/001").write_bytes(bytes(8192))  # as a crash leaves what was never signed
    paths = [
        "tile/0/001",
        "tile/0/000",
        "tile/0/000.p/255",
        "tile/9/000.p/1",
        "tile/entries/x001/000",
        "log.vkey",
        "tile",
    ]
    paths += ["tile/0/000.p/0", "tile/0/000.p/256", "tile/00/000.p/1", "tile/64/000.p/1", "tile/0/x000/000.p/1"]
    paths += [
        "tile/../../audit-private/log.key",
        "tile/0/..%2f..%2f..%2faudit-private%2flog.key",
        "tile/0/%00",
        "tile/0/000.p/٣",
    ]
    for path in paths:
        assert one.get(f"/audit/{_quoted(path)}", KEY).status == 404, path
    assert size_of(one) >= size
    until = time.monotonic() + 30
    while size_of(one) < size + 6:
        assert time.monotonic() < until
        time.sleep(0.1)
    assert one.stop() == 0


def _quoted(path):
    return "".join(char if char.isascii() else "%D9%A3" for char in path)


@pytest.mark.slow
def test_without_a_log_there_is_nothing_to_serve(gateway):
    one = gateway("upstreams: {triton: {http: '$TRITON_HTTP', grpc: '$TRITON_GRPC'}}\naudit: {mode: off}\n")
    assert one.get("/audit/checkpoint").status == 404


@given(st.one_of(st.none(), st.integers(0, 63)), st.integers(0, 1 << 40), st.integers(1, WIDTH))
def test_paths_are_read_as_they_are_written(level, index, width):
    path = bundle_path(index, width) if level is None else tile_path(level, index, width)
    assert parse_path(path) == (level, index, width)


@given(st.text("tile/0123456789x.pentrs", max_size=24).map("tile/".__add__))
def test_every_tile_has_one_path(path):
    try:
        level, index, width = parse_path(path)
    except ValueError:
        return
    assert path == (bundle_path(index, width) if level is None else tile_path(level, index, width))


@pytest.mark.parametrize(
    "path", ["tile/64/000", "tile/01/000", "tile/0/x000/001", "tile/0/000.p/256", "tile/0/000.p/0", "tile/0/000\n"]
)
def test_other_paths_are_refused(path):
    with pytest.raises(ValueError, match="tile"):
        parse_path(path)
