"""The audit log: what it costs a request, how many records it takes, and what it costs to wait for the disk."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from bench.alone import governed, loaded
from bench.cases_audit import KEYED, NAMED, SEALED
from bench.counted import costs
from bench.latency import check_http
from bench.load import write_files
from bench.null import null_upstream
from bench.runs import CHECKOUT
from bench.section import Bench, Cell, Goal, Result, Table, middle, spread
from bench.sink import otlp_sink
from governance.audit.show import read_checkpoint

COST_US = 5.0
RECORDS = 20_000
"""A second, sustained, of a machine with two cores."""
STRICT = 0.6
"""Of the throughput without waiting, at 64 connections."""
_WRITERS = 2
_CONNECTIONS = 64


def run(bench: Bench) -> Result:
    """All three."""
    bench.say("a record on the request path")
    # Not under callgrind: it does not know the processor's SHA-256, and counts what other code would take.
    call = costs("bench.cases_audit:cost", rounds=3 if bench.quick else 9, count=False)
    sync = _sync_us(bench.folder)
    sustained = _sustained(bench)
    modes = _modes(bench)
    rows: list[list[Cell]] = []
    for name in (NAMED, KEYED, SEALED):
        one = call[name]
        us = [ns / 1000 for ns in one.ns]
        rows.append([name, middle(us, 2), spread(us, 2)])
    total: list[list[Cell]] = []
    for mode, runs in sustained.items():
        rate, cpu = ([each[name] for each in runs] for name in ("rate", "cpu_us"))
        total.append([mode, middle(rate, 0), spread(rate, 0), middle(cpu, 1), round(1e6 / middle(cpu, 1))])
    waiting: list[list[Cell]] = []
    for mode, runs in modes.items():
        rate, cpu = ([each[name] for each in runs] for name in ("rate", "cpu_us"))
        p50, p99 = (middle([each[name] for each in runs], 0) for name in ("p50_us", "p99_us"))
        waiting.append([mode, middle(rate, 0), spread(rate, 0), middle(cpu, 1), p50, p99])
    # Each round has both, one after the other: the machine is in both.
    ratios = [one["rate"] / other["rate"] for one, other in zip(modes["strict"], modes["async"], strict=True)]
    return Result(
        tables=[
            Table("A record on the request path", ["subjects as", "us", "runs"], rows),
            Table(
                f"{_WRITERS} processes that do nothing but record, until all of it is in the signed tree",
                ["audit.mode", "records/s", "runs", "CPU us/record", "records/s of one core"],
                total,
                "Strict: each process waits for 64 records at once, as for as many connections.",
            ),
            Table(
                f"The governed gateway, one worker, {_CONNECTIONS} connections, by turns",
                ["audit.mode", "requests/s", "runs", "CPU us/request", "p50 us", "p99 us"],
                waiting,
            ),
        ],
        goals=[
            Goal("us of a record on the request path", round(call[NAMED].median_ns / 1000, 2), COST_US),
            Goal(
                f"records/s, {_WRITERS} processes, async",
                middle([each["rate"] for each in sustained["async"]], 0),
                RECORDS,
                at_least=True,
            ),
            Goal(
                f"throughput of strict in multiples of async's, {_CONNECTIONS} connections",
                round(median(ratios), 2),
                STRICT,
                at_least=True,
            ),
        ],
        notes=[
            "A record of the load of this suite: two digests (some 330 and 180 bytes), RFC 8785, and the queue. The "
            f"logs lie in the temporary folder, where fdatasync(2) of 16 KiB takes {sync:,.0f} us (median)."
        ],
        data={
            "cost": {name: one.ns for name, one in call.items()},
            "sustained": sustained,
            "modes": modes,
            "strict_x_async": [round(ratio, 3) for ratio in ratios],
            "fdatasync_us": round(sync),
        },
    )


def _sync_us(folder: Path) -> float:
    """Of the disk that the logs lie on."""
    found = []
    descriptor = os.open(folder / "sync", os.O_WRONLY | os.O_CREAT)
    try:
        for _ in range(30):
            os.write(descriptor, bytes(16 << 10))
            began = time.perf_counter()
            os.fdatasync(descriptor)
            found.append((time.perf_counter() - began) * 1e6)
    finally:
        os.close(descriptor)
    return median(found)


def _sustained(bench: Bench) -> dict[str, list[dict[str, float]]]:
    """Records a second by mode; RuntimeError where the log does not hold all of them."""
    counts = {"async": 20_000 if bench.quick else 200_000, "strict": 10_000 if bench.quick else 50_000}
    found: dict[str, list[dict[str, float]]] = {mode: [] for mode in counts}
    for number in range(1 if bench.quick else 3):
        for mode, count in counts.items():
            state = bench.folder / f"sustained-{mode}-{number}"
            words = [sys.executable, "-m", "bench.cases_audit", str(state), str(count), mode]
            began = time.perf_counter()
            writers = [subprocess.Popen(words, cwd=CHECKOUT, stdout=subprocess.PIPE) for _ in range(_WRITERS)]
            told = [json.loads(writer.communicate()[0] or b"{}") for writer in writers]
            if any(writer.returncode for writer in writers):
                raise RuntimeError("a process that records failed")
            elapsed = time.perf_counter() - began
            size = read_checkpoint(state / "audit").size
            if size != count * _WRITERS:
                raise RuntimeError(f"{size} records in the log and not {count * _WRITERS}")
            # The longer of the two, without the start of Python.
            seconds = max(each["seconds"] for each in told)
            cpu = sum(each["cpu"] for each in told)
            found[mode].append({"rate": round(size / seconds), "cpu_us": round(cpu / size * 1e6, 2), "wall": elapsed})
            bench.say(f"{mode}: {size / seconds:,.0f} records/s, {cpu / size * 1e6:.1f} us CPU a record")
    return found


def _modes(bench: Bench) -> dict[str, list[dict[str, Any]]]:
    """Requests a second of a gateway by mode, by turns."""
    found: dict[str, list[dict[str, Any]]] = {"off": [], "async": [], "strict": []}
    write_files(bench.folder)
    with otlp_sink() as sink, null_upstream(bench.folder) as upstream:
        for number in range(1 if bench.quick else 3):
            for mode, runs in found.items():
                folder = bench.folder / f"{number}-{mode}"
                folder.mkdir()
                with governed(upstream, folder, sink.server_port, audit=mode) as proxy:
                    check_http(proxy.http)
                    runs.append(loaded(proxy, bench.folder, bench.requests, _CONNECTIONS))
                bench.say(f"{mode}: {runs[-1]['rate']:,.0f}/s, {runs[-1]['cpu_us']:.1f} us CPU a request")
    return found
