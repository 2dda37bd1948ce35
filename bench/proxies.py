"""HTTP and gRPC through every proxy in turn, then all of them once more: CPU, rate, added latency, memory."""

from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from bench import clients
from bench.load import write_files
from bench.measure import Load, Measured, measure
from bench.peers import Missing, Peer, peers
from bench.section import Bar, Bench, Cell, Chart, Goal, Result, Table
from bench.sink import otlp_sink
from bench.upstream import triton

GOVERNED = "Tidegate, governed"
BASELINE = "baseline, governed"
TRANSFORMER = "KServe transformer"
ENVOY_MOST = {"http": 0.70, "grpc": 0.85}
"""CPU of the governed gateway in multiples of Envoy's plain proxying."""
NGINX_MOST = 1.6
TRANSFORMER_LEAST = 30.0
"""CPU of the KServe SDK transformer in multiples of the governed gateway's."""
MORE = 1.05
"""CPU of the governed gateway in multiples of the baseline's, at most."""
ADDED_P50_US, ADDED_P99_US = 100.0, 300.0
IDLE_MIB = 120
"""RSS of an idle worker."""


def http(bench: Bench) -> Result:
    """`POST /v2/models/.../infer`, binary tensors."""
    return _compare(bench, "http")


def grpc(bench: Bench) -> Result:
    """`ModelInfer`, raw contents."""
    return _compare(bench, "grpc")


def available(wanted: str | None, baseline: Path | None, protocol: str) -> tuple[list[Peer], dict[str, str], list[str]]:
    """The peers that this machine has, their versions, and why the others are skipped."""
    chosen, found, skipped = [], {}, []
    for peer in peers(baseline):
        if protocol not in peer.protocols:
            continue
        if wanted and not any(part.strip().lower() in peer.name.lower() for part in wanted.split(",")):
            continue
        try:
            found[peer.name] = peer.find()
        except Missing as reason:
            skipped.append(f"{peer.name}: {reason}")
        else:
            chosen.append(peer)
    return chosen, found, skipped


def _compare(bench: Bench, protocol: str) -> Result:
    chosen, found, skipped = available(bench.peers, bench.baseline, protocol)
    for reason in skipped:
        bench.say(f"skipping {reason}")
    rounds: list[list[Measured]] = []
    load = Load(bench.requests, max(bench.requests // 10, 400), (protocol,), 1.0 if bench.quick else 3.0)
    write_files(bench.folder)
    with otlp_sink() as sink, triton(bench.folder) as upstream:
        for number in range(1 if bench.quick else 2):
            rounds.append([])
            for peer in tuple(chosen):
                bench.say(f"round {number + 1}: {peer.name}")
                folder = bench.folder / f"{number}-{peer.name.replace(', ', '-').replace(' ', '-').lower()}"
                try:
                    one = measure(peer, upstream, folder, f"http://127.0.0.1:{sink.server_port}", load)
                except (OSError, RuntimeError) as error:
                    chosen.remove(peer)
                    skipped.append(f"{peer.name} failed: {str(error).splitlines()[0]}")
                    bench.say(f"  failed: {error}")
                    continue
                rounds[-1].append(one)
                bench.say(_found(one, protocol))
        versions = {"Triton": upstream.version} | {k: v for k, v in found.items() if k != "direct"}
    if not any(rounds):
        raise RuntimeError("no proxy could be measured: " + "; ".join(skipped))
    result = results(rounds, protocol)
    client = clients.http_client() if protocol == "http" else clients.grpc_client()
    result.notes.insert(
        0,
        f"{bench.requests:,} requests of FP32[1,32] a run, {clients.CONNECTIONS} connections, {client}, one worker "
        "each."
        + (" The KServe transformer gets a fortieth of the requests, and no bar." if protocol == "http" else ""),
    )
    result.skipped, result.versions = skipped, versions
    return result


def _found(found: Measured, protocol: str) -> str:
    run, cpu = found.runs[protocol], found.cpu_us.get(protocol)
    spent = f", {cpu:.1f} us CPU a request" if cpu is not None else ""
    return f"  {run.requests} requests, {run.requests / run.seconds:,.0f}/s{spent}"


# --- from what was measured to what is shown ----------------------------------------------------------------


def results(rounds: list[list[Measured]], protocol: str) -> Result:
    """Tables, picture and goals of all rounds."""
    names = list(dict.fromkeys(one.peer for each in rounds for one in each))
    by_name = {name: [one for each in rounds for one in each if one.peer == name] for name in names}
    rows = summary(by_name, protocol)
    tables = [_cpu_table(rows)]
    latency = {name: row for name, found in by_name.items() if (row := _latency(found))}
    if latency:
        columns = ["proxy", "direct p50", "p50", "added p50", "direct p99", "p99", "added p99"]
        cells: list[list[Cell]] = [[name, *row.values()] for name, row in latency.items()]
        tables.append(Table("One connection: latency that a proxy adds (us)", columns, cells))
    memory = {name: row for name, found in by_name.items() if (row := _memory(found))}
    if memory:
        columns = ["proxy", "processes", "idle worker RSS", "idle worker PSS", "idle, all PSS", "after load, all PSS"]
        tables.append(Table("Memory (MiB)", columns, [[name, *row.values()] for name, row in memory.items()]))
    return Result(
        tables=tables,
        charts=[
            Chart(
                "CPU per request (us)",
                # The transformer's bar would be forty times as long as the others, which then show nothing.
                [Bar(n, row["cpu_us_runs"]) for n, row in rows.items() if row["cpu_us_runs"] and n != TRANSFORMER],
            )
        ],
        goals=goals(rows, latency, memory, protocol),
        data={
            "summary": rows,
            "latency": latency,
            "memory": memory,
            "rounds": [[asdict(one) for one in each] for each in rounds],
        },
    )


def summary(by_name: dict[str, list[Measured]], protocol: str) -> dict[str, dict[str, Any]]:
    """By proxy: means of the runs, and the CPU in multiples of Envoy's and nginx'."""
    rows = {name: row for name, found in by_name.items() if (row := _row(found, protocol))}
    for row in rows.values():
        for other in ("Envoy", "nginx"):
            row[f"x_{other.lower()}"] = _ratio(row["cpu_us"], rows.get(other, {}).get("cpu_us"))
    return rows


def _row(found: list[Measured], protocol: str) -> dict[str, Any] | None:
    runs = [one.runs[protocol] for one in found if protocol in one.runs]
    if not runs:
        return None
    cpu = [one.cpu_us[protocol] for one in found if protocol in one.cpu_us]
    return {
        "cpu_us": round(fmean(cpu), 1) if cpu else None,
        "cpu_us_runs": [round(value, 1) for value in cpu],
        "requests_a_second": round(sum(run.requests for run in runs) / sum(run.seconds for run in runs)),
        "p50_us": round(fmean(run.p50_us for run in runs)),
        "p99_us": round(fmean(run.p99_us for run in runs)),
        "requests": sum(run.requests for run in runs),
    }


def _ratio(value: float | None, base: float | None) -> float | None:
    return round(value / base, 2) if value and base else None


def _cpu_table(rows: dict[str, dict[str, Any]]) -> Table:
    columns = ["proxy", "CPU us/request", "runs", "x Envoy", "x nginx", "requests/s", "p50 us", "p99 us"]
    return Table(
        "CPU per request",
        columns,
        [
            [
                name,
                row["cpu_us"],
                ", ".join(map(str, row["cpu_us_runs"])) or None,
                row["x_envoy"],
                row["x_nginx"],
                row["requests_a_second"],
                row["p50_us"],
                row["p99_us"],
            ]
            for name, row in rows.items()
        ],
    )


def _latency(found: list[Measured]) -> dict[str, float] | None:
    rows = [one.latency for one in found if one.latency is not None]
    if not rows:
        return None
    names = ("direct_p50", "p50", "added_p50", "direct_p99", "p99", "added_p99")
    return {name: round(fmean(getattr(row, name) for row in rows), 1) for name in names}


def _memory(found: list[Measured]) -> dict[str, Any] | None:
    if not found[0].idle:
        return None
    mib = 1024**2

    def total(states: str, kind: str) -> float:
        return round(fmean(sum(getattr(p, kind) for p in getattr(one, states)) for one in found) / mib, 1)

    # The largest process is the one that serves.
    worker = [max(one.idle, key=lambda process: process.rss) for one in found]
    return {
        "processes": len(found[0].idle),
        "idle_worker_rss_mib": round(fmean(process.rss for process in worker) / mib, 1),
        "idle_worker_pss_mib": round(fmean(process.pss for process in worker) / mib, 1),
        "idle_all_pss_mib": total("idle", "pss"),
        "loaded_all_pss_mib": total("loaded", "pss"),
    }


def goals(
    rows: dict[str, dict[str, Any]], latency: dict[str, dict[str, float]], memory: dict[str, Any], protocol: str
) -> list[Goal]:
    """What was promised of the governed gateway, as far as those it is compared with took part."""
    governed = rows.get(GOVERNED, {})
    own = governed.get("cpu_us")
    found = []
    if ratio := governed.get("x_envoy"):
        found.append(Goal(f"CPU of {GOVERNED} in multiples of Envoy's", ratio, ENVOY_MOST[protocol]))
    if ratio := governed.get("x_nginx"):
        found.append(Goal(f"CPU of {GOVERNED} in multiples of nginx'", ratio, NGINX_MOST))
    if ratio := _ratio(own, rows.get(BASELINE, {}).get("cpu_us")):
        found.append(Goal(f"CPU of {GOVERNED} in multiples of the baseline's", ratio, MORE))
    if ratio := _ratio(rows.get(TRANSFORMER, {}).get("cpu_us"), own):
        what = f"CPU of the {TRANSFORMER} in multiples of {GOVERNED}'s"
        found.append(Goal(what, ratio, TRANSFORMER_LEAST, at_least=True))
    if GOVERNED in latency:
        added = latency[GOVERNED]
        found.append(Goal("added p50 at one connection, us", added["added_p50"], ADDED_P50_US))
        found.append(Goal("added p99 at one connection, us", added["added_p99"], ADDED_P99_US))
    if GOVERNED in memory:
        found.append(Goal("MiB (RSS) of an idle worker", memory[GOVERNED]["idle_worker_rss_mib"], IDLE_MIB))
    return found
