"""What a gateway takes before it serves anyone: memory of an idle worker, time and CPU of a cold start, what the
imports cost; and whether its memory grows under load."""

import json
import re
import subprocess
import sys
import time
from typing import Any

from bench import configs, proc
from bench.alone import governed, loaded
from bench.latency import check_http, get
from bench.load import write_files
from bench.null import null_upstream
from bench.peers import _tidegate
from bench.ports import free_ports
from bench.runs import CHECKOUT
from bench.section import Bar, Bench, Cell, Chart, Goal, Result, Table, middle, spread
from bench.sink import otlp_sink
from bench.upstream import Server

IDLE_MIB = 120.0
START_S = 1.5
GROWTH_BYTES = 64.0
"""Of resident memory for each request, in the second half of a long load: less than any object that were kept."""
_MIB = 1024**2
_IDLE_S = 3.0
_LISTED = 14


def run(bench: Bench) -> Result:
    """Start, memory, imports, growth."""
    starts = _starts(bench)
    packages = _imports()
    growth = _growth(bench)
    wall = [one["wall_s"] for one in starts]
    cpu = [one["supervisor_s"] + one["worker_s"] for one in starts]
    worker = middle([one["worker_mib"] for one in starts], 1)
    grown = (growth[-1]["rss"] - growth[len(growth) // 2]["rss"]) / (
        growth[-1]["requests"] - growth[len(growth) // 2]["requests"]
    )
    figures = {
        "seconds until the doors are open": wall,
        "CPU seconds until then": cpu,
        "of these, the supervisor": [one["supervisor_s"] for one in starts],
        "of these, the worker": [one["worker_s"] for one in starts],
        "MiB (RSS) of the idle worker": [one["worker_mib"] for one in starts],
        "MiB (PSS) of supervisor and worker": [one["all_pss_mib"] for one in starts],
    }
    rows: list[list[Cell]] = [[name, middle(values), spread(values)] for name, values in figures.items()]
    goals = [
        Goal("seconds of a cold start, without a model server", middle(wall), START_S),
        Goal("MiB (RSS) of an idle worker, governed", worker, IDLE_MIB),
    ]
    if not bench.quick:
        goals.append(Goal("bytes of memory kept a request, second half of the load", round(grown, 1), GROWTH_BYTES))
    columns = ["package", "ms", "modules"]
    return Result(
        tables=[
            Table("A cold start, governed, and three seconds later", ["what", "median", "runs"], rows),
            Table("Imports of a worker, slowest first (own time of the modules)", columns, packages[:_LISTED]),
            Table(
                "Memory of the worker under load",
                ["requests", "MiB (RSS)", "CPU us/request"],
                [[one["requests"], round(one["rss"] / _MIB, 2), one["cpu_us"]] for one in growth],
            ),
        ],
        charts=[Chart("Imports of a worker (ms)", [Bar(str(row[0]), [float(str(row[1]))]) for row in packages[:8]])],
        goals=goals,
        notes=[
            "The start is over when all workers are ready and the doors are open; no model server runs. Wall time "
            "counts on a quiet machine alone; the CPU says what it takes."
        ],
        data={"starts": starts, "imports": packages, "growth": growth},
    )


def _starts(bench: Bench) -> list[dict[str, float]]:
    found = []
    for number in range(1 if bench.quick else 7):
        folder = bench.folder / f"start-{number}"
        folder.mkdir()
        http, grpc, triton, triton_grpc = (f"127.0.0.1:{port}" for port in free_ports(4))
        (folder / "policy.csv").write_text(configs.policy())
        upstream = Server(triton, triton_grpc, "")
        text = configs.tidegate_governed(upstream, http, grpc, folder, f"http://{triton}")
        began = time.monotonic()
        # As a probe sees it: the socket listens from the start, and is answered when the worker serves.
        with _tidegate(text, folder, http, None) as pid:
            get(http, "/v2/health/live")
            wall = time.monotonic() - began
            spent = {one: proc.cpu_seconds(one) for one in proc.tree(pid)}
            get(http, "/healthz")  # the pages that are not inference are loaded once the doors are open
            time.sleep(_IDLE_S)
            memory = proc.memory(pid)
        workers = [seconds for one, seconds in spent.items() if one != pid]
        found.append(
            {
                "wall_s": round(wall, 3),
                "supervisor_s": round(spent[pid] - sum(workers), 2),
                "worker_s": round(sum(workers), 2),
                "worker_mib": round(max(one.rss for one in memory) / _MIB, 1),
                "all_pss_mib": round(sum(one.pss for one in memory) / _MIB, 1),
            }
        )
        bench.say(f"start {number + 1}: {found[-1]}")
    return found


def _imports() -> list[list[Cell]]:
    """By package: milliseconds of its modules' own, and how many there are."""
    argv = [sys.executable, "-X", "importtime", "-c", "import gateway.worker"]
    done = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    spent: dict[str, list[int]] = {}
    for own, name in re.findall(r"^import time: +(\d+) \| +\d+ \| +(\S+)$", done.stderr, re.MULTILINE):
        package = ".".join(name.split(".")[: 2 if name.startswith("google.") else 1])
        spent.setdefault(package, []).append(int(own))
    rows: list[list[Cell]] = [[name, round(sum(times) / 1000, 1), len(times)] for name, times in spent.items()]
    return sorted(rows, key=lambda row: float(str(row[1])), reverse=True)


def _growth(bench: Bench) -> list[dict[str, Any]]:
    write_files(bench.folder)
    folder = bench.folder / "growth"
    folder.mkdir()
    pieces, found, requests = (2 if bench.quick else 8), [], 0
    with (
        otlp_sink() as sink,
        null_upstream(bench.folder) as upstream,
        governed(upstream, folder, sink.server_port) as proxy,
    ):
        check_http(proxy.http)
        assert proxy.pid is not None
        for _ in range(pieces):
            run = loaded(proxy, bench.folder, bench.requests, 8)
            requests += int(run["requests"])
            rss = max(one.rss for one in proc.memory(proxy.pid))
            found.append({"requests": requests, "rss": rss, "cpu_us": run["cpu_us"]})
            bench.say(json.dumps(found[-1]))
    return found
