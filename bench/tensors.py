"""The sections of large payloads: what `bench.json_tensors` and `bench.large_tensors` find, as tables and goals."""

from statistics import median

from bench import json_tensors, large_tensors
from bench.section import Bar, Bench, Cell, Chart, Goal, Result, Table, middle

LARGE_MOST = 1.3
"""Time of FP32[1,150528] through the gateway in multiples of the time without it."""


def json(bench: Bench) -> Result:
    """JSON in, JSON out, straight to Triton and through the gateway."""
    sizes = json_tensors.SIZES
    bench.say(f"{', '.join(f'{size:,}' for size in sizes)} floats")
    found = json_tensors.run(sizes, 24 if bench.quick else 240)
    rows: list[list[Cell]] = [
        [
            row.floats,
            round(row.direct_ms, 2),
            round(row.tidegate_ms, 2),
            round(row.ratio, 2),
            None if row.tidegate_cpu_ms is None else round(row.tidegate_cpu_ms, 2),
            row.requests,
        ]
        for row in found
    ]
    columns = ["floats", "direct ms", "Tidegate ms", "ratio", "CPU of Tidegate, ms", "requests each way"]
    return Result(
        tables=[Table("One request at a time, medians", columns, rows)],
        charts=[
            Chart(f"ms, {row.floats:,} floats", [Bar("direct", [row.direct_ms]), Bar("Tidegate", [row.tidegate_ms])])
            for row in found
            if row.floats in json_tensors.GOALS
        ],
        goals=[
            Goal(
                f"time of {row.floats:,} floats in multiples of direct",
                round(row.ratio, 2),
                json_tensors.GOALS[row.floats],
            )
            for row in found
            if row.floats in json_tensors.GOALS
        ],
        data=rows,
    )


def large(bench: Bench) -> Result:
    """FP32[1,150528] in binary: direct, nginx, and the gateway in each of its ways."""
    bench.say(f"FP32[1,{large_tensors.ELEMENTS}]")
    ways = large_tensors.run(requests=80 if bench.quick else 2000)
    direct = median(ways[0].times)
    rows: list[list[Cell]] = []
    cpu: dict[str, float] = {}
    for way in ways:
        p50, count = median(way.times), len(way.times)
        own = None if way.pid is None else round(way.cpu / count * 1e6)
        if own is not None:
            cpu[way.name] = own
        triton_us = round(way.triton_cpu / count * 1e6)
        rows.append([way.name, middle([p50 * 1e3]), round(p50 / direct, 2), own, triton_us])
    ours = next(way for way in reversed(ways) if way.name.startswith("Tidegate"))  # the last is as it comes
    goals = [Goal(f"time of {ours.name} in multiples of direct", round(median(ours.times) / direct, 2), LARGE_MOST)]
    if cpu.get("nginx"):
        ratio = round(cpu[ours.name] / cpu["nginx"], 2)
        goals.append(Goal(f"CPU of {ours.name} in multiples of nginx'", ratio, 1.0))
    return Result(
        tables=[
            Table(
                "One request at a time",
                ["way", "p50 ms", "x direct", "CPU of the proxy, us", "CPU of Triton, us"],
                rows,
            )
        ],
        charts=[Chart("CPU per request (us)", [Bar(name, [value]) for name, value in cpu.items()])],
        goals=goals,
        data=rows,
    )
