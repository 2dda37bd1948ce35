"""What several replicas answer, as one answer: the order never matters, one alone stays as it is."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.merge import agree, merge_index, merge_metadata, merge_regions, sum_statistics

counts = st.integers(0, 2**40)
duration = st.fixed_dictionaries({"count": counts, "ns": counts})
row = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["a", "b"]),
        "version": st.sampled_from(["1", "2", "10"]),
        "last_inference": counts,
        "inference_count": counts,
        "inference_stats": st.fixed_dictionaries({"success": duration, "fail": duration}),
        "batch_stats": st.lists(
            st.fixed_dictionaries({"batch_size": st.integers(1, 9), "compute_infer": duration}),
            unique_by=lambda one: one["batch_size"],
            max_size=3,
        ),
    }
)
rows = st.lists(row, unique_by=lambda one: (one["name"], one["version"]), max_size=4)
states = st.sampled_from(["READY", "LOADING", "UNAVAILABLE"])
index_row = st.fixed_dictionaries(
    {"name": st.sampled_from(["a", "b"])},
    optional={"version": st.sampled_from(["1", "2"]), "state": states},
)
index_rows = st.lists(index_row, unique_by=lambda one: (one["name"], one.get("version", "")), max_size=4)


def orders(answers):
    return [dict(order) for order in itertools.permutations(answers.items())]


@given(st.lists(rows, min_size=2, max_size=3))
def test_statistics_add_up_in_any_order(several):
    answers = {f"fleet[{i}]": found for i, found in enumerate(several)}
    merged = sum_statistics(answers)
    assert all(sum_statistics(order) == merged for order in orders(answers))
    every = [one for found in several for one in found]
    for total in merged:
        parts = [one for one in every if (one["name"], one["version"]) == (total["name"], total["version"])]
        assert total["inference_count"] == sum(one["inference_count"] for one in parts)
        assert total["last_inference"] == max(one["last_inference"] for one in parts)
        assert total["inference_stats"]["success"]["ns"] == sum(
            one["inference_stats"]["success"]["ns"] for one in parts
        )
        batches = [batch for one in parts for batch in one["batch_stats"]]
        for batch in total["batch_stats"]:
            same = [one for one in batches if one["batch_size"] == batch["batch_size"]]
            assert batch["compute_infer"]["count"] == sum(one["compute_infer"]["count"] for one in same)
    assert len(merged) == len({(one["name"], one["version"]) for one in every})


@given(rows)
def test_one_answer_stays_as_it_is(found):
    assert sum_statistics({"triton": found}) == found


@given(st.lists(index_rows, min_size=2, max_size=3))
def test_index_in_any_order(several):
    answers = {f"fleet[{i}]": found for i, found in enumerate(several)}
    merged = merge_index(answers)
    assert all(merge_index(order) == merged for order in orders(answers))
    keys = [(one["name"], one.get("version", "")) for one in merged]
    assert len(keys) == len(set(keys))
    ready = {
        (one["name"], one["version"]) for f in several for one in f if one.get("state") == "READY" and "version" in one
    }
    assert ready <= {(one["name"], one.get("version")) for one in merged if one.get("state") == "READY"}


def test_the_index_names_who_differs():
    loaded = [{"name": "m", "version": "1", "state": "READY"}]
    gone = [{"name": "m", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}]
    assert merge_index({"f[0]": loaded, "f[1]": loaded}) == loaded
    assert merge_index({"f[0]": loaded, "f[1]": gone}) == [{**loaded[0], "reason": "f[1]: UNAVAILABLE (unloaded)"}]
    assert merge_index({"f[0]": loaded, "f[1]": [{"name": "m"}]}) == [{**loaded[0], "reason": "f[1]: not loaded"}]
    assert merge_index({"f[0]": loaded, "f[1]": []}) == [{**loaded[0], "reason": "f[1]: not in its repository"}]
    assert merge_index({"f[0]": loaded}, ["f[1]"]) == [{**loaded[0], "reason": "f[1]: cannot be asked"}]
    assert merge_index({"f[0]": gone, "f[1]": gone}) == gone


def test_metadata_has_every_version():
    one = {"name": "m", "versions": ["1", "10"], "platform": "python", "inputs": [], "outputs": []}
    answers = {"f[0]": one, "f[1]": {**one, "versions": ["2"]}, "f[2]": {**one, "platform": "onnx"}}
    for order in orders(answers):
        assert merge_metadata(order) == ({**one, "versions": ["1", "2", "10"]}, ["f[2]"])


def test_documents_and_regions():
    assert agree({"f[0]": {"a": 1}, "f[1]": {"a": 2}, "f[10]": {"a": 2}, "f[9]": {"a": 2}}) == ({"a": 2}, ["f[0]"])
    region = {"name": "r", "key": "/k", "offset": 0, "byte_size": 4}
    assert merge_regions({"f[0]": [region], "f[1]": []}) == ([region], ["f[1]"])
    assert merge_regions({"f[0]": [region], "f[1]": [region]}) == ([region], [])
