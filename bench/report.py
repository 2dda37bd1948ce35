"""The results as JSON, Markdown and a picture."""

import json
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from bench.measure import Measured
from bench.svg import bars

GOALS = {"http": 2.0, "grpc": 8.0}
"""CPU of the governed gateway in multiples of Envoy's plain proxying, at most."""
IDLE_MIB = 150
"""Of an idle worker, at most."""
GOVERNED = "Tidegate, governed"
BASELINE = "baseline, governed"
MORE = 1.05
"""CPU of the governed gateway in multiples of the baseline's, at most."""


def results(rounds: list[list[Measured]], facts: dict[str, Any]) -> dict[str, Any]:
    """Everything that is written: facts, every run, and the summary that the table and the picture show."""
    names = list(dict.fromkeys(found.peer for one in rounds for found in one))
    by_name = {name: [found for one in rounds for found in one if found.peer == name] for name in names}
    summary = {
        protocol: {name: row for name, found in by_name.items() if (row := _row(found, protocol))}
        for protocol in ("http", "grpc")
    }
    for rows in summary.values():
        for row in rows.values():
            for other in ("Envoy", "nginx"):
                base = rows.get(other, {}).get("cpu_us")
                row[f"x_{other.lower()}"] = _ratio(row["cpu_us"], base)
    return {
        **facts,
        "summary": summary,
        "latency": {name: row for name, found in by_name.items() if (row := _latency(found))},
        "memory": {name: row for name, found in by_name.items() if (row := _memory(found))},
        "goals": _goals(summary, by_name),
        "rounds": [[asdict(found) for found in one] for one in rounds],
    }


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


def _latency(found: list[Measured]) -> dict[str, float] | None:
    rows = [one.latency for one in found if one.latency is not None]
    if not rows:
        return None
    return {
        name: round(fmean(getattr(row, name) for row in rows), 1)
        for name in ("direct_p50", "p50", "added_p50", "direct_p99", "p99", "added_p99")
    }


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


def _goals(summary: dict[str, Any], by_name: dict[str, list[Measured]]) -> list[dict[str, Any]]:
    goals = []
    for protocol, most in GOALS.items():
        ratio = summary[protocol].get(GOVERNED, {}).get("x_envoy")
        if ratio is not None:
            name = f"{protocol}: CPU of {GOVERNED} in multiples of Envoy's"
            goals.append({"goal": name, "most": most, "got": ratio, "met": ratio <= most})
        before = summary[protocol].get(BASELINE, {}).get("cpu_us")
        ratio = _ratio(summary[protocol].get(GOVERNED, {}).get("cpu_us"), before)
        if ratio is not None:
            name = f"{protocol}: CPU of {GOVERNED} in multiples of the baseline's"
            goals.append({"goal": name, "most": MORE, "got": ratio, "met": ratio <= MORE})
    memory = _memory(by_name[GOVERNED]) if GOVERNED in by_name else None
    if memory is not None:
        got = memory["idle_worker_rss_mib"]
        goals.append({"goal": "MiB (RSS) of an idle worker", "most": IDLE_MIB, "got": got, "met": got <= IDLE_MIB})
    return goals


def markdown(data: dict[str, Any], picture: str) -> str:
    """The page beside the picture."""
    machine = data["machine"]
    lines = [
        f"# Benchmark of {data['date']}",
        "",
        (
            f"`{data['command']}` on {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
            f"{machine['system']}; load average before: {machine['load_average_before'][0]}."
        ),
        "",
        f"Load: {data['load']}. Versions: " + ", ".join(f"{k} {v}" for k, v in data["versions"].items()) + ".",
        "",
        f"![CPU per request]({picture})",
        "",
    ]
    for protocol, title in (("http", "HTTP"), ("grpc", "gRPC")):
        rows = data["summary"][protocol]
        if rows:
            lines += [f"## {title}", "", *_table(rows), ""]
    lines += [*_latency_table(data["latency"]), *_memory_table(data["memory"])]
    for goal in data["goals"]:
        verdict = "met" if goal["met"] else "NOT met"
        lines.append(f"- {goal['goal']}: {goal['got']} (goal: at most {goal['most']}), {verdict}")
    lines += [f"- skipped: {reason}" for reason in data["skipped"]]
    lines += ["", data["method"], ""]
    return "\n".join(lines)


def _table(rows: dict[str, Any]) -> list[str]:
    lines = [
        "| proxy | CPU us/request | runs | x Envoy | x nginx | requests/s | p50 us | p99 us |",
        "|---|--:|---|--:|--:|--:|--:|--:|",
    ]
    for name, row in rows.items():
        runs = ", ".join(map(str, row["cpu_us_runs"])) or "-"
        lines.append(
            f"| {name} | {_cell(row['cpu_us'])} | {runs} | {_cell(row['x_envoy'])} | {_cell(row['x_nginx'])} "
            f"| {row['requests_a_second']:,} | {row['p50_us']:,} | {row['p99_us']:,} |"
        )
    return lines


def _latency_table(rows: dict[str, Any]) -> list[str]:
    if not rows:
        return []
    lines = [
        "## One HTTP connection: latency that a proxy adds (us)",
        "",
        "| proxy | direct p50 | p50 | added p50 | direct p99 | p99 | added p99 |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    return [
        *lines,
        *(f"| {name} | " + " | ".join(map(str, row.values())) + " |" for name, row in rows.items()),
        "",
    ]


def _memory_table(rows: dict[str, Any]) -> list[str]:
    if not rows:
        return []
    lines = [
        "## Memory (MiB)",
        "",
        "| proxy | processes | idle worker RSS | idle worker PSS | idle, all PSS | after load, all PSS |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    return [
        *lines,
        *(f"| {name} | " + " | ".join(map(str, row.values())) + " |" for name, row in rows.items()),
        "",
    ]


def _cell(value: float | None) -> str:
    return "-" if value is None else str(value)


def write(data: dict[str, Any], folder: Path, name: str) -> list[Path]:
    """`NAME.json`, `NAME.md` and `NAME.svg` in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    charts = [
        (
            title,
            [(peer, row["cpu_us_runs"]) for peer, row in data["summary"][protocol].items() if row["cpu_us_runs"]],
        )
        for protocol, title in (("http", "HTTP"), ("grpc", "gRPC"))
    ]
    subtitle = f"{data['machine']['cpu']}, {data['date']}; {data['load']}"
    paths = [folder / f"{name}.{suffix}" for suffix in ("json", "md", "svg")]
    paths[0].write_text(json.dumps(data, indent=1) + "\n")
    paths[1].write_text(markdown(data, paths[2].name))
    paths[2].write_text(bars("CPU per request (us)", subtitle, [chart for chart in charts if chart[1]]))
    return paths
