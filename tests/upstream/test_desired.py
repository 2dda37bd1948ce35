"""What was asked of replicas, folded into one entry for each thing."""

from __future__ import annotations

import pytest

from gateway.upstream.desired import (
    Wanted,
    after,
    in_order,
    load_document,
    model_as_wanted,
    region_as_wanted,
    settings_as_wanted,
)

LOAD, UNLOAD = Wanted("model", "m", "load", {}), Wanted("model", "m", "unload", {})
CONFIG = Wanted("model", "m", "load", {"parameters": {"config": "{}"}})


def folded(*asked):
    entries = ()
    for one in asked:
        entries = after(entries, one)
    return entries


@pytest.mark.parametrize(
    ("asked", "left"),
    [
        ((UNLOAD, LOAD), [("load", {})]),
        ((CONFIG, LOAD), [("load", CONFIG.body)]),
        ((CONFIG, UNLOAD, LOAD), [("load", {})]),
        ((LOAD, UNLOAD), [("unload", {})]),
        ((Wanted("trace", "", "set", {"trace_rate": "5", "x": "1"}), Wanted("trace", "", "set", {"trace_rate": None})),
         [("set", {"x": "1"})]),
        ((Wanted("log", "", "set", {"a": 1}), Wanted("log", "", "set", {"a": None})), []),
        ((Wanted("system_shm", "r", "register", {"key": "/k"}), Wanted("system_shm", "r", "unregister", {})), []),
        ((Wanted("system_shm", "r", "register", {}), Wanted("cuda_shm", "r", "register", {}),
          Wanted("system_shm", "", "unregister", {})), [("register", {})]),
    ],
)  # fmt: skip
def test_one_entry_for_each_thing(asked, left):
    assert [(entry.verb, entry.body) for entry in folded(*asked)] == left


def test_order_of_replay():
    trace, log = Wanted("trace", "m", "set", {"a": 1}), Wanted("log", "", "set", {"a": 1})
    other = Wanted("model", "n", "load", {})
    assert [e.kind for e in in_order(folded(trace, other, LOAD, log))] == ["log", "model", "model", "trace"]
    assert [e.name for e in in_order(folded(LOAD, other, UNLOAD)) if e.kind == "model"] == ["n", "m"]


def test_as_wanted():
    ready = [{"name": "m", "version": "1", "state": "READY"}]
    assert model_as_wanted(LOAD, ready)
    assert not model_as_wanted(LOAD, [{"name": "m"}])
    assert not model_as_wanted(UNLOAD, ready)
    assert model_as_wanted(UNLOAD, [{"name": "m"}])
    assert not model_as_wanted(CONFIG, ready)
    region = Wanted("system_shm", "r", "register", {"key": "/k", "byte_size": 4})
    assert region_as_wanted(region, [{"name": "r", "key": "/k", "offset": 0, "byte_size": 4}])
    assert not region_as_wanted(region, [{"name": "r", "key": "/k", "offset": 8, "byte_size": 4}])
    trace = Wanted("trace", "", "set", {"trace_rate": "5", "trace_level": ["TIMESTAMPS"], "trace_count": "9"})
    assert settings_as_wanted(trace, {"trace_rate": "5", "trace_level": ["TIMESTAMPS"], "trace_count": "3"})
    assert not settings_as_wanted(trace, {"trace_rate": "5", "trace_level": ["TIMESTAMPS"], "trace_count": "-1"})
    assert not settings_as_wanted(trace, {"trace_rate": "1000", "trace_level": ["OFF"]})


def test_grpc_parameters_as_a_document():
    assert load_document({}) == {}
    assert load_document({"config": "{}", "file:a": b"hi"}) == {"parameters": {"config": "{}", "file:a": "aGk="}}
