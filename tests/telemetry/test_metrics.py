"""The metrics registry: one file a worker, merged and rendered; checked with prometheus_client's parsers."""

import multiprocessing
import os
import shutil
import subprocess
import time

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from gateway import telemetry as t
from gateway.metrics import MetricsError, Page, Reader, Registry
from gateway.metrics.expose import OPENMETRICS, TEXT, wants_openmetrics

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


def samples(text, parse):
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in parse(text) for s in family.samples}


def fill(registry):
    registry.counter(t.REQUESTS).labels("credit", "champion", "http", "200", "acme").inc()
    histogram = registry.histogram(t.REQUEST_DURATION).labels("credit", "champion", "http")
    histogram.observe(0.0001)
    histogram.observe(0.0003)
    histogram.observe(1000.0)
    histogram.exemplar(0.0003, 0x0AF7651916CD43DD, 0x8448EB211C80319C, 0xB7AD6B7169203331, 1700000000.5)
    registry.gauge(t.IN_FLIGHT).labels("http").add(2)
    registry.info(t.BUILD_INFO, "1.2.3")


def test_counts_are_merged_over_workers(tmp_path):
    workers = [Registry(tmp_path, slot) for slot in range(2)]
    for registry in workers:
        fill(registry)
    merged = Reader(tmp_path).collect()
    assert merged["tidegate_requests_total"] == {("credit", "champion", "http", "200", "acme"): 2.0}
    duration = merged["tidegate_request_duration_seconds"]["credit", "champion", "http"]
    assert duration.counts[0] == 2.0
    assert duration.counts[2] == 2.0
    assert duration.counts[-1] == 2.0
    assert duration.sum == pytest.approx(2000.0008)
    assert merged["tidegate_requests_in_flight"] == {("http",): 4.0}
    assert merged["tidegate_build_info"] == {("1.2.3",): 1.0}


@pytest.mark.parametrize(
    ("accept", "parse"), [("", parse_text), (PROMETHEUS, parse_openmetrics)], ids=["text", "openmetrics"]
)
def test_page_is_read_by_prometheus_clients_parser(tmp_path, accept, parse):
    registry = Registry(tmp_path, 0)
    fill(registry)
    nasty = 'a"b\\c\nd'
    registry.counter(t.SHADOW_DIFFERENCES).labels("r", "s", nasty).inc(3)
    content_type, body = Page(tmp_path).render(accept)
    assert content_type == (OPENMETRICS if accept else TEXT)
    got = samples(body.decode(), parse)
    assert got["tidegate_shadow_differences_total", (("output", nasty), ("route", "r"), ("shadow", "s"))] == 3.0
    labels = (("protocol", "http"), ("route", "credit"), ("variant", "champion"))

    def bucket(le):
        return got["tidegate_request_duration_seconds_bucket", tuple(sorted((*labels, ("le", le))))]

    assert bucket("0.0001") == 1.0
    assert bucket("0.0005") == 2.0
    assert bucket("60.0") == 2.0
    assert bucket("+Inf") == 3.0
    assert got["tidegate_request_duration_seconds_count", labels] == 3.0
    assert got["tidegate_build_info", (("version", "1.2.3"),)] == 1.0
    assert got["tidegate_workers", ()] == 1.0
    assert got["tidegate_worker_open_fds", (("worker", "0"),)] > 3
    start = got["tidegate_worker_start_time_seconds", (("worker", "0"),)]
    assert abs(time.time() - start) < 24 * 3600
    types = {family.name: family.type for family in parse(body.decode())}
    assert types["tidegate_request_duration_seconds"] == "histogram"
    assert types["tidegate_requests"] == "counter"


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not there")
def test_promtool_finds_nothing(tmp_path):
    registry = Registry(tmp_path, 0)
    fill(registry)
    for metric in t.METRICS:
        if metric.kind == "counter":
            registry.counter(metric).labels(*metric.labels).inc()
        elif metric.kind == "histogram":
            registry.histogram(metric).labels(*metric.labels).observe(1.0)
        elif metric.kind != "info":
            registry.gauge(metric).labels(*metric.labels).set(1.0)
    _, body = Page(tmp_path).render()
    out = subprocess.run(["promtool", "check", "metrics"], input=body, capture_output=True, check=False)
    assert (out.returncode, out.stdout, out.stderr) == (0, b"", b"")


def test_openmetrics_carries_exemplars(tmp_path):
    fill(Registry(tmp_path, 0))
    _, body = Page(tmp_path).render(PROMETHEUS)
    exemplars = [s.exemplar for f in parse_openmetrics(body.decode()) for s in f.samples if s.exemplar is not None]
    assert [e.labels for e in exemplars] == [
        {"trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "b7ad6b7169203331"}
    ]
    assert exemplars[0].value == 0.0003
    assert float(exemplars[0].timestamp) == 1700000000.5


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        (PROMETHEUS, True),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text; version=0.0.1", False),
        ("application/openmetrics-text;version=1.0.0;q=0.1, text/plain;q=0.9", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=x", False),
    ],
)
def test_format_follows_accept(accept, openmetrics):
    assert wants_openmetrics(accept) is openmetrics


def test_a_replaced_worker_continues_its_slot(tmp_path):
    first = Registry(tmp_path, 0)
    fill(first)
    created = first.created_ns()
    first.close()
    second = Registry(tmp_path, 0)
    second.counter(t.REQUESTS).labels("credit", "champion", "http", "200", "acme").inc()
    second.info(t.BUILD_INFO, "1.2.4")
    merged = Reader(tmp_path).collect()
    assert merged["tidegate_requests_total"]["credit", "champion", "http", "200", "acme"] == 2.0
    assert merged["tidegate_build_info"] == {("1.2.4",): 1.0}
    assert second.created_ns() == created


def test_gauges_of_the_dead_do_not_count(tmp_path):
    first = Registry(tmp_path, 0)
    fill(first)
    reader = Reader(tmp_path)
    assert reader.collect()["tidegate_requests_in_flight"] == {("http",): 2.0}
    first.close()
    assert reader.collect()["tidegate_requests_in_flight"] == {}
    second = Registry(tmp_path, 0)
    assert reader.collect()["tidegate_requests_in_flight"] == {}
    second.gauge(t.IN_FLIGHT).labels("http").add(1)
    assert reader.collect()["tidegate_requests_in_flight"] == {("http",): 1.0}


def test_a_gauge_set_to_nan_is_gone(tmp_path):
    registry = Registry(tmp_path, 0)
    registry.gauge(t.UPSTREAM_READY).labels("triton").set(1)
    assert Reader(tmp_path).collect()["tidegate_upstream_ready"] == {("triton",): 1.0}
    registry.gauge(t.UPSTREAM_READY).labels("triton").set(float("nan"))
    assert Reader(tmp_path).collect()["tidegate_upstream_ready"] == {}


def test_upstream_is_ready_when_every_worker_sees_it(tmp_path):
    a, b = Registry(tmp_path, 0), Registry(tmp_path, 1)
    a.gauge(t.UPSTREAM_READY).labels("triton").set(1)
    b.gauge(t.UPSTREAM_READY).labels("triton").set(0)
    assert Reader(tmp_path).collect()["tidegate_upstream_ready"] == {("triton",): 0.0}


def test_a_slot_has_one_writer(tmp_path):
    first = Registry(tmp_path, 0)
    with pytest.raises(MetricsError, match=r"worker-0\.metrics: another process counts there"):
        Registry(tmp_path, 0)
    first.close()
    Registry(tmp_path, 0)


def test_unwritable_directory_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MetricsError, match="cannot make the metrics file"):
        Registry(tmp_path / "file", 0)


def test_a_file_of_another_version_is_begun_anew(tmp_path):
    old = Registry(tmp_path, 0, metrics=(t.RETRIES,))
    old.counter(t.RETRIES).labels("r").inc()
    old.close()
    reader = Reader(tmp_path)
    assert reader.collect()["tidegate_retries_total"] == {}
    new = Registry(tmp_path, 0)
    new.counter(t.RETRIES).labels("r").inc()
    assert reader.collect()["tidegate_retries_total"] == {("r",): 1.0}


def test_files_that_are_none_are_skipped(tmp_path):
    (tmp_path / "worker-7.metrics").write_bytes(b"")
    (tmp_path / "worker-8.metrics").write_bytes(os.urandom(4096))
    fill(Registry(tmp_path, 0))
    _, body = Page(tmp_path).render()
    assert b"tidegate_workers 1.0" in body


def test_unknown_label_values_count_as_other_and_take_no_memory(tmp_path):
    registry = Registry(tmp_path, 0)
    registry.know("tenant", ["acme"])
    limited = registry.counter(t.LIMITED)
    for i in range(1000):
        limited.labels(f"mallory-{i}", "rate").inc()
    limited.labels("acme", "rate").inc()
    assert Reader(tmp_path).collect()["tidegate_limited_total"] == {
        ("other", "rate"): 1000.0,
        ("acme", "rate"): 1.0,
    }
    assert len(limited._handles) == 1
    registry.know("tenant", None)
    limited.labels("zeta", "rate").inc()
    assert Reader(tmp_path).collect()["tidegate_limited_total"]["zeta", "rate"] == 1.0


def test_series_are_bounded(tmp_path):
    few = t.Metric("tidegate_few_total", "counter", "Few.", ("name",), series=3)
    registry = Registry(tmp_path, 0, metrics=(few, t.SERIES_FOLDED))
    for i in range(10):
        registry.counter(few).labels(str(i)).inc()
        registry.counter(few).labels(str(i)).inc()
    merged = Reader(tmp_path, (few, t.SERIES_FOLDED)).collect()
    assert merged["tidegate_few_total"] == {("0",): 2.0, ("1",): 2.0, ("2",): 2.0, ("other",): 14.0}
    assert merged["tidegate_metrics_folded_total"] == {("tidegate_few_total",): 14.0}


def test_every_metric_may_have_all_its_series(tmp_path):
    registry = Registry(tmp_path, 0)
    for metric in t.METRICS:
        if metric.kind == "info" or not metric.labels:
            continue
        family = {"counter": registry.counter, "histogram": registry.histogram}.get(metric.kind, registry.gauge)(metric)
        for i in range(metric.series + 1):
            handle = family.labels(*(f"{label}-{i}" for label in metric.labels))
            getattr(
                handle,
                "observe" if metric.kind == "histogram" else "inc" if metric.kind == "counter" else "set",
            )(1.0)
    merged = Reader(tmp_path).collect()
    for metric in t.METRICS:
        if metric.kind != "info" and metric.labels and metric is not t.SERIES_FOLDED:
            assert len(merged[metric.name]) == metric.series + 1, metric.name


def test_wrong_use_is_refused(tmp_path):
    registry = Registry(tmp_path, 0)
    with pytest.raises(ValueError, match="no declared counter"):
        registry.counter(t.IN_FLIGHT)
    with pytest.raises(ValueError, match="has 1 labels, not 2"):
        registry.counter(t.RETRIES).labels("a", "b")
    with pytest.raises(ValueError, match="no info metric of 2 labels"):
        registry.info(t.BUILD_INFO, "a", "b")


def test_names_are_declared_once_and_well():
    every = (*t.METRICS, *t.PROCESS_METRICS)
    assert len({metric.name for metric in every}) == len(every)
    for metric in every:
        assert metric.name.startswith("tidegate_")
        assert metric.help.endswith(".")
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert bool(metric.bounds) == (metric.kind == "histogram")
        assert list(metric.bounds) == sorted(metric.bounds)
        assert not {"le", "quantile"} & set(metric.labels)


def _hammer(directory, slot, rounds):
    registry = Registry(directory, slot)
    counter = registry.counter(t.REQUESTS)
    duration = registry.histogram(t.REQUEST_DURATION)
    for i in range(rounds):
        counter.labels("r", f"v{i % 50}", "http", "200", "acme").inc()
        duration.labels("r", f"v{i % 50}", "http").observe(0.001)


def test_a_reader_sees_whole_series_while_four_processes_write(tmp_path):
    rounds = 20_000
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_hammer, args=(tmp_path, slot, rounds)) for slot in range(4)]
    for process in processes:
        process.start()
    reader = Reader(tmp_path)
    last = 0.0
    while any(process.is_alive() for process in processes):
        total = sum(reader.collect()["tidegate_requests_total"].values())
        assert total >= last
        last = total
        parse_text(Page(tmp_path).render()[1].decode())
    for process in processes:
        process.join()
        assert process.exitcode == 0
    merged = reader.collect()
    assert sum(merged["tidegate_requests_total"].values()) == 4 * rounds
    assert sum(sum(h.counts) for h in merged["tidegate_request_duration_seconds"].values()) == 4 * rounds
    assert len(merged["tidegate_requests_total"]) == 50


def _grow(directory, gate):
    registry = Registry(directory, 0)
    counter = registry.counter(t.SHADOW_MISMATCHES)
    gate.set()
    for i in range(10**9):
        counter.labels(str(i % 400), str(i % 7), "x", "y").inc()


def test_a_killed_worker_leaves_a_file_that_goes_on(tmp_path):
    context = multiprocessing.get_context("spawn")
    reader = Reader(tmp_path)
    last = 0.0
    for _ in range(3):
        gate = context.Event()
        worker = context.Process(target=_grow, args=(tmp_path, gate))
        worker.start()
        assert gate.wait(60)
        while sum(reader.collect()["tidegate_shadow_mismatches_total"].values()) <= last:
            time.sleep(0.001)
        worker.kill()
        worker.join()
        merged = reader.collect()
        assert merged == Reader(tmp_path).collect()
        total = sum(merged["tidegate_shadow_mismatches_total"].values())
        assert total > last
        last = total
        assert reader.processes() == {}
