"""The gateway alone, in front of a model server that does nothing: what one core can, what is added at half of that,
and what more connections and more workers give."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import clients, configs, proc
from bench.latency import check_http
from bench.load import write_files
from bench.native import compiled
from bench.null import Latency, null_upstream, open_loop, write_request
from bench.peers import Missing, Running, _tidegate, peers
from bench.ports import free_ports
from bench.proxies import GOVERNED
from bench.section import Bar, Bench, Cell, Chart, Goal, Result, Table, middle, spread
from bench.sink import otlp_sink
from bench.upstream import Server

WORKERS_MOST = 1.05
"""CPU a request of two workers in multiples of one's: "no more", with the noise of a run."""
_CONNECTIONS = (1, 8, 64)
_TRIES = 3


def null(bench: Bench) -> Result:
    """Every proxy that speaks HTTP: CPU a request, and latency at half of the rate that each can."""
    seconds, rounds = (2.0, 1) if bench.quick else (8.0, 3)
    rows: list[list[Cell]] = []
    latency: list[list[Cell]] = []
    skipped: list[str] = []
    data: dict[str, Any] = {}
    program = compiled("open_loop", bench.folder)
    write_files(bench.folder)
    with otlp_sink() as sink, null_upstream(bench.folder) as upstream:
        for peer in peers():
            if "http" not in peer.protocols or peer.share < 1:
                continue
            try:
                peer.find()
            except Missing as reason:
                skipped.append(f"{peer.name}: {reason}")
                continue
            folder = bench.folder / peer.name.replace(", ", "-").lower()
            folder.mkdir()
            with peer.start(upstream, folder, f"http://127.0.0.1:{sink.server_port}") as proxy:
                check_http(proxy.http)
                runs = [loaded(proxy, bench.folder, bench.requests, 64) for _ in range(1 if bench.quick else 2)]
                most = max(one["rate"] for one in runs)
                bench.say(f"{peer.name}: {most:,.0f}/s at most")
                data[peer.name] = {"runs": runs, "half": []}
                if proxy.pid is None:
                    rows.append([peer.name, None, None, None, round(most)])
                    continue
                cpu = [one["cpu_us"] for one in runs]
                rows.append([peer.name, middle(cpu, 1), spread(cpu, 1), round(1e6 / middle(cpu, 1)), round(most)])
                # By turns with the upstream itself, at the same rate: the client and the kernel are in both.
                request = write_request(bench.folder, proxy.http)
                turns = [
                    (
                        open_loop(program, upstream.http, request, most / 2, seconds, number),
                        open_loop(program, proxy.http, request, most / 2, seconds, number),
                    )
                    for number in range(rounds)
                ]
                latency.append([peer.name, round(most / 2), *_added(turns)])
                data[peer.name]["half"] = [[vars(one) for one in turn] for turn in turns]
    columns = ["proxy", "CPU us/request", "runs", "requests/s of one core", "requests/s seen"]
    return Result(
        tables=[
            Table("64 connections, one request at a time on each", columns, rows),
            Table(
                "Open loop at half of the most: latency that a proxy adds (us)",
                ["proxy", "requests/s", "p50", "added p50", "p99", "added p99", "p99.9", "added p99.9", "client late"],
                latency,
                "Poisson arrivals over 64 connections; latency counts from the planned time. `added` is the difference "
                "to the upstream itself at the same rate. `client late`: the 99th percentile of how late the client "
                "was; where it is large, so is the noise of the others.",
            ),
        ],
        charts=[
            Chart(
                "CPU per request (us)", [Bar(n, [r["cpu_us"] for r in d["runs"]]) for n, d in data.items() if d["half"]]
            )
        ],
        notes=[
            "In front of a C program that plays back what a real Triton answered. `requests/s of one core` is a second "
            "of CPU divided by the CPU of a request; `seen` is what came out while client, proxy and upstream shared "
            "the cores."
        ],
        skipped=skipped,
        versions={"Triton (taped)": upstream.version},
        data=data,
    )


def _added(turns: list[tuple[Latency, Latency]]) -> Iterator[Cell]:
    for name in ("p50", "p99", "p999"):
        yield middle([getattr(through, name) for _, through in turns], 0)
        yield middle([getattr(through, name) - getattr(direct, name) for direct, through in turns], 0)
    yield middle([through.late for _, through in turns], 0)


def scaling(bench: Bench) -> Result:
    """The governed gateway with one and two workers, over 1, 8 and 64 connections."""
    write_files(bench.folder)
    cells: dict[tuple[int, int], list[dict[str, float]]] = {}
    with otlp_sink() as sink, null_upstream(bench.folder) as upstream:
        for number in range(1 if bench.quick else 2):
            for workers in (1, 2):
                folder = bench.folder / f"{number}-{workers}"
                folder.mkdir()
                with governed(upstream, folder, sink.server_port, workers=workers) as proxy:
                    check_http(proxy.http)
                    for count in _CONNECTIONS[2:] if bench.quick else _CONNECTIONS:
                        found = loaded(proxy, bench.folder, bench.requests, count)
                        cells.setdefault((workers, count), []).append(found)
                        bench.say(
                            f"{workers} worker(s), {count} connections: {found['rate']:,.0f}/s, "
                            f"{found['cpu_us']:.1f} us CPU a request"
                        )
    rows: list[list[Cell]] = []
    for (workers, count), runs in cells.items():
        cpu = [run["cpu_us"] for run in runs]
        p50, p99 = (middle([run[name] for run in runs], 0) for name in ("p50_us", "p99_us"))
        rate = middle([run["rate"] for run in runs], 0)
        rows.append([workers, count, middle(cpu, 1), spread(cpu, 1), rate, p50, p99])
    ratio = middle([run["cpu_us"] for run in cells[2, 64]]) / middle([run["cpu_us"] for run in cells[1, 64]])
    return Result(
        tables=[
            Table(
                GOVERNED,
                ["workers", "connections", "CPU us/request", "runs", "requests/s", "p50 us", "p99 us"],
                rows,
                "Where client, upstream and gateway share the cores, requests a second say little: CPU a request does.",
            )
        ],
        goals=[
            Goal("CPU a request of two workers in multiples of one's, 64 connections", round(ratio, 2), WORKERS_MOST)
        ],
        versions={"Triton (taped)": upstream.version},
        data=[{"workers": key[0], "connections": key[1], "runs": runs} for key, runs in cells.items()],
    )


@contextmanager
def governed(
    upstream: Server,
    folder: Path,
    otlp: int,
    *,
    workers: int = 1,
    rules: int = configs.POLICY_RULES,
    audit: str = "async",
) -> Iterator[Running]:
    """The governed gateway in front of an upstream that speaks HTTP alone."""
    http, grpc = (f"127.0.0.1:{port}" for port in free_ports(2))
    (folder / "policy.csv").write_text(configs.policy(rules))
    settings = json.loads(configs.tidegate_governed(upstream, http, grpc, folder, f"http://127.0.0.1:{otlp}"))
    settings["workers"] = workers
    settings["audit"] = {"mode": audit}
    settings["upstreams"]["triton"].pop("grpc")
    with _tidegate(json.dumps(settings), folder, http, None) as pid:
        yield Running(pid, http, grpc)


def loaded(proxy: Running, files: Path, requests: int, connections: int) -> dict[str, float]:
    """One closed-loop run: rate, CPU, percentiles. RuntimeError when requests fail, three times over.

    A gateway that a busy machine keeps from running refuses what it could not serve in time, and rightly so.
    """
    clients.run_http(proxy.http, max(requests // 10, 100), files, connections)
    for _ in range(_TRIES):
        before = 0.0 if proxy.pid is None else proc.cpu_seconds(proxy.pid)
        run = clients.run_http(proxy.http, requests, files, connections)
        used = 0.0 if proxy.pid is None else proc.cpu_seconds(proxy.pid) - before
        if not run.errors:
            break
    else:
        raise RuntimeError(f"{run.errors} of {run.requests} requests failed, {_TRIES} times over: no figure")
    return {
        "requests": run.requests,
        "rate": round(run.requests / run.seconds, 1),
        "cpu_us": round(used / run.requests * 1e6, 1),
        "p50_us": round(run.p50_us, 1),
        "p99_us": round(run.p99_us, 1),
    }
