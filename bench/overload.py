"""The overload curve: goodput and p99 against offered load, straight to Triton and through the gateway.

`python -m bench.overload`: the test model `slow` (two instances that sleep 20 ms) is offered 0.25 to 3 times what
it can (found first, by eight clients that each wait for their answers), by Poisson arrivals from a process of their
own. Three ways: straight, through the gateway with its adaptive limit, and with the limit off. Each load is the first
that its servers see, so nothing is known of the model when overload begins; the first seconds, in which it is
recognised, are shown apart. Goodput counts answers within `GOOD_MS`.
Writes `overload-DATE.{json,md,svg}` under `bench/results/`; ways that were left out (`--ways`) stay as they are there.
"""

import argparse
import asyncio
import datetime as dt
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from bench.machine import machine
from bench.openloop import MILLISECONDS, closed
from bench.overload_svg import curves
from bench.ports import free_ports, wait_for
from bench.upstream import Server, triton

RESULTS = Path(__file__).with_name("results")
TIMES = (0.25, 0.5, 0.75, 0.9, 1.0, 1.25, 1.5, 2.0, 3.0)
WARM_S = 3.0
"""Seconds of each load that are not judged."""
GOOD_MS = 1000.0
"""An answer that took longer helps nobody: it does not count as goodput."""
WAYS = ("Triton", "Tidegate, limit off", "Tidegate")


@contextmanager
def gateway(directory: Path, upstream: Server, *, limit: bool) -> Iterator[str]:
    """A gateway; its HTTP address."""
    directory.mkdir()
    address = f"127.0.0.1:{free_ports(1)[0]}"
    settings = {
        "listen": {"http": address, "grpc": None},
        "state_dir": str(directory / "state"),
        "upstreams": {"triton": {"http": upstream.http, "concurrency": {"enabled": limit}}},
        "log": {"level": "error"},
    }
    config = directory / "tidegate.yaml"
    config.write_text(json.dumps(settings))
    with (directory / "gateway.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "serve", "--config", str(config)], stdout=log, stderr=log
        )
    try:
        wait_for(address, process)
        time.sleep(1.0)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def capacity_of(directory: Path) -> float:
    """Answers a second, at most."""
    with triton(directory, "slow") as upstream:
        asyncio.run(closed(upstream.http, 8, 2.0))  # the first requests are slow
        return asyncio.run(closed(upstream.http, 8, 4.0))


def offer(address: str, times: float, capacity: float, seconds: float) -> dict[str, Any]:
    """One load of `times` the capacity; what came of it."""
    rate = times * capacity
    command = [sys.executable, "-m", "bench.openloop", address, str(rate), str(WARM_S + seconds)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    judged = [(ms, status) for planned, ms, status in found if planned >= WARM_S]
    served = sorted(ms for ms, status in judged if status == 200)
    first = sorted(ms for planned, ms, status in found if planned < WARM_S and status == 200)
    return {
        "offered": round(len(judged) / seconds, 1),
        "times": times,
        "goodput": round(sum(ms <= GOOD_MS for ms in served) / seconds, 1),
        "p50_ms": _quantile(served, 0.5),
        "p99_ms": _quantile(served, 0.99),
        "refused": sum(status == 503 for _, status in judged),
        "failed": sum(status not in (200, 503) for _, status in judged),
        "p99_ms_first": _quantile(first, 0.99),
    }


def _quantile(values: list[float], q: float) -> float | None:
    return round(values[min(len(values) - 1, int(q * len(values)))], 1) if values else None


def verdict(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The goals: at twice the capacity goodput at least 90 % of the best, p99 at most 3 times the unloaded."""
    best = max(row["goodput"] for row in rows)
    twice = next(row for row in rows if row["times"] == 2.0)
    unloaded = rows[0]["p99_ms"]
    return {
        "goodput_share": round(twice["goodput"] / best, 3),
        "p99_times": round(twice["p99_ms"] / unloaded, 2),
        "met": twice["goodput"] >= 0.9 * best and twice["p99_ms"] <= 3 * unloaded,
    }


def table(data: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        f"# Overload, {data['date']}",
        "",
        f"`slow`: two instances, {MILLISECONDS} ms each, {data['capacity']:.0f} requests a second at most. Loads of "
        f"{data['seconds']:g} s after {WARM_S:g} s that are not judged (their p99 is the last column). Goodput: "
        f"answers within {GOOD_MS:.0f} ms.",
        "",
    ]
    for way, rows in data["ways"].items():
        lines += [
            f"## {way}",
            "",
            "| offered | times capacity | goodput | p50 ms | p99 ms | refused | failed | p99 ms of the first seconds |",
            "|---|---|---|---|---|---|---|---|",
            *(
                f"| {row['offered']:.0f}/s | {row['times']:g} | {row['goodput']:.0f}/s | {row['p50_ms']} "
                f"| {row['p99_ms']} | {row['refused']} | {row['failed']} | {row['p99_ms_first']} |"
                for row in rows
            ),
            "",
        ]
    if found := data["verdict"]:
        lines.append(
            f"At twice the capacity: goodput {found['goodput_share']:.0%} of the best (goal: at least 90 %), p99 of "
            f"what was served {found['p99_times']} times the unloaded one (goal: at most 3): "
            f"{'met' if found['met'] else 'not met'}."
        )
    lines.append(f"\nMachine: {json.dumps(data['machine'])}")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run, write, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load, after the first ones")
    parser.add_argument("--times", help="comma-separated multiples of the capacity; 0.25 and 2 are always there")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="default: all")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    given = parser.parse_args()
    times = sorted({0.25, 2.0, *map(float, given.times.split(","))}) if given.times else TIMES
    date = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d")
    stem = given.output / f"overload-{date}"
    earlier = json.loads(stem.with_suffix(".json").read_text())["ways"] if stem.with_suffix(".json").exists() else {}
    ways: dict[str, list[dict[str, Any]]] = {way: earlier[way] for way in WAYS if way in earlier}
    ways |= {way: [] for way in given.ways}
    with tempfile.TemporaryDirectory(prefix="tidegate-overload-") as name:
        directory = Path(name)
        capacity = capacity_of(directory)
        print(f"==> capacity {capacity:.0f}/s", flush=True)
        for number, way in enumerate(given.ways):
            for each in times:
                folder = directory / f"{number}-{each:g}"
                folder.mkdir()
                with triton(folder, "slow") as upstream:
                    if way == "Triton":
                        row = offer(upstream.http, each, capacity, given.seconds)
                    else:
                        with gateway(folder / "gateway", upstream, limit=way == "Tidegate") as address:
                            row = offer(address, each, capacity, given.seconds)
                ways[way].append(row)
                print(f"==> {way}: {row}", flush=True)
    data = {
        "date": date,
        "seconds": given.seconds,
        "capacity": round(capacity, 1),
        "machine": msgspec.to_builtins(machine()),
        "ways": {way: ways[way] for way in WAYS if way in ways},
        "verdict": verdict(ways["Tidegate"]) if "Tidegate" in ways else None,
    }
    given.output.mkdir(exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps(data, indent=2) + "\n")
    stem.with_suffix(".md").write_text(table(data))
    stem.with_suffix(".svg").write_text(curves(data["ways"], capacity))
    print(table(data))
    return 0


if __name__ == "__main__":
    sys.exit(main())
