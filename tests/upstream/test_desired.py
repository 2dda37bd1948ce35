"""What was asked of replicas, folded into one entry for each thing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


# -- what is replayed leads where what was asked led ----------------------------------------------------------------


class Model:
    """What requests leave behind in a Triton, by its documented rules; a fresh one has every model loaded."""

    def __init__(self) -> None:
        self.models: dict[str, tuple[bool, object]] = dict.fromkeys("ab", (True, None))
        self.regions: dict[tuple[str, str], object] = {}
        self.settings: dict[tuple[str, str], dict[str, object]] = {}

    def ask(self, asked: Wanted) -> None:
        match asked.kind, asked.verb:
            case "model", "load":
                given = asked.body.get("parameters")
                loaded, before = self.models[asked.name]
                # An overriding configuration stays until the model is unloaded.
                self.models[asked.name] = (True, given or (before if loaded else None))
            case "model", _:
                self.models[asked.name] = (False, None)
            case _, "register":
                self.regions[asked.kind, asked.name] = asked.body
            case _, "unregister":
                self.regions = {
                    key: body
                    for key, body in self.regions.items()
                    if key[0] != asked.kind or (asked.name and key[1] != asked.name)
                }
            case _:
                merged = {**self.settings.get((asked.kind, asked.name), {}), **asked.body}
                left = {name: value for name, value in merged.items() if value is not None}
                self.settings.pop((asked.kind, asked.name), None)
                if left:
                    self.settings[asked.kind, asked.name] = left

    @property
    def state(self):
        return self.models, self.regions, self.settings


shm = st.sampled_from(["system_shm", "cuda_shm"])
requests = st.one_of(
    st.builds(
        Wanted,
        st.just("model"),
        st.sampled_from("ab"),
        st.just("load"),
        st.sampled_from([{}, {"parameters": {"config": "1"}}, {"parameters": {"config": "2"}}]),
    ),
    st.builds(Wanted, st.just("model"), st.sampled_from("ab"), st.just("unload"), st.just({})),
    st.builds(
        Wanted, shm, st.sampled_from("rs"), st.just("register"), st.fixed_dictionaries({"offset": st.integers(0, 3)})
    ),
    st.builds(Wanted, shm, st.sampled_from(["r", "s", ""]), st.just("unregister"), st.just({})),
    st.builds(
        Wanted,
        st.sampled_from(["trace", "log"]),
        st.sampled_from(["", "a"]),
        st.just("set"),
        st.dictionaries(st.sampled_from("xyz"), st.sampled_from(["1", "2", None]), max_size=2),
    ),
)


@given(st.lists(requests, max_size=25))
def test_a_replay_leads_where_the_requests_led(asked):
    there, back = Model(), Model()
    entries = ()
    for one in asked:
        there.ask(one)
        entries = after(entries, one)
    for entry in in_order(entries):
        back.ask(entry)
    assert back.state == there.state
    assert len({entry.key for entry in entries}) == len(entries)
    assert len({entry.serial for entry in entries}) == len(entries)
    serials = [entry.serial for entry in entries]
    assert serials == sorted(serials)


@given(st.lists(requests, max_size=15), requests)
def test_what_is_asked_again_has_another_serial(asked, last):
    before = folded(*asked)
    now = {entry.key: entry for entry in after(before, last)}
    entry = now.get(last.key)
    if entry is not None and last.verb != "unregister":
        assert entry.serial > max((one.serial for one in before), default=0)
    assert {key: one for key, one in now.items() if key != last.key and one.kind != last.kind} == {
        one.key: one for one in before if one.key != last.key and one.kind != last.kind
    }
