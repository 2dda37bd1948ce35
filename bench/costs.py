"""Sections that measure functions instead of programs: each step of the pipeline, the kernels, the policy."""

from bench import cases_policy, cases_steps
from bench.alone import governed, loaded
from bench.cases_steps import ASSIGNMENT, COUNTER, HISTOGRAM, ID_AND_TRACE, POLICY, QUOTA
from bench.counted import Cost, can_count, costs
from bench.latency import check_http
from bench.load import write_files
from bench.null import null_upstream
from bench.section import Bench, Cell, Goal, Result, Table, middle, spread
from bench.sink import otlp_sink

BUDGETS_US = {ID_AND_TRACE: 1.0, POLICY: 0.5, QUOTA: 1.0, ASSIGNMENT: 1.5, COUNTER: 0.3, HISTOGRAM: 0.3}
UNCACHED_US, CACHED_US = 3.0, 0.5
"""Of a decision under 11,000 rules."""
_HOW = (
    "Instructions: counted by callgrind over 200 calls, the least of three times, user space alone. Time: CPU time of "
    "the thread, median of the rounds. A call of a function that does nothing is subtracted, the garbage collector is "
    "off."
)


def _rounds(bench: Bench) -> int:
    return 3 if bench.quick else 9


def _notes(*, count: bool) -> list[str]:
    return [_HOW] if count else [f"{_HOW} Instructions were not counted: {can_count() or 'a quick look'}."]


def steps(bench: Bench) -> Result:
    """The per-step table."""
    bench.say("each step's call" + ("" if bench.quick else ", then once more under callgrind"))
    found = costs("bench.cases_steps:steps", rounds=_rounds(bench), count=not bench.quick)
    rows: list[list[Cell]] = []
    for name, cost in found.items():
        budget = BUDGETS_US.get(name)
        rows.append([name, *_figures(cost), budget])
    goals = [
        Goal(f"us of step {name}", round(found[name].median_ns / 1000, 2), budget)
        for name, budget in BUDGETS_US.items()
        if found[name].ns
    ]
    columns = ["step", "instructions", "us", "runs", "calls", "budget us"]
    return Result(
        tables=[Table("Steps of one request, FP32[1,32] in binary over HTTP", columns, rows)],
        goals=goals,
        notes=[cases_steps.ABOUT, *_notes(count=not bench.quick)],
        skipped=[f"{name}: {cost.error}" for name, cost in found.items() if cost.error],
        data={name: [cost.instructions, cost.ns] for name, cost in found.items()},
    )


def _figures(cost: Cost) -> list[Cell]:
    """Instructions, microseconds, their spread, calls."""
    count = None if cost.instructions is None else round(cost.instructions)
    if not cost.ns:
        return [count, None, None, None]
    us = [ns / 1000 for ns in cost.ns]
    digits = 3 if us[0] < 10 else 1
    return [count, middle(us, digits), spread(us, digits), cost.calls]


def kernels(bench: Bench) -> Result:
    """The compiled kernels, and the twins in Python that specify them."""
    bench.say("the compiled kernels" + ("" if bench.quick else ", then once more under callgrind"))
    compiled = costs("bench.cases_kernels:kernels", rounds=_rounds(bench), count=not bench.quick)
    bench.say("their twins in Python")
    twins = costs("bench.cases_kernels:kernels", rounds=_rounds(bench), count=False, extensions=False)
    rows: list[list[Cell]] = []
    for name, cost in compiled.items():
        twin = twins[name]
        slower = round(twin.median_ns / cost.median_ns, 1) if twin.ns and cost.ns else None
        rows.append([name, *_figures(cost)[:3], _figures(twin)[1], slower])
    return Result(
        tables=[Table("", ["call", "instructions", "us", "runs", "twin us", "twin / kernel"], rows)],
        notes=_notes(count=not bench.quick),
        skipped=[f"{name}: {cost.error}" for name, cost in (compiled | twins).items() if cost.error],
        data={name: [cost.instructions, cost.ns, twins[name].ns] for name, cost in compiled.items()},
    )


def policy(bench: Bench) -> Result:
    """10, 1,000 and 11,000 rules: a decision, the compiling, and a whole request."""
    sizes = cases_policy.SIZES
    bench.say("decisions")
    decisions = costs("bench.cases_policy:decisions", rounds=_rounds(bench), count=not bench.quick)
    compiling = costs("bench.cases_policy:compiling", rounds=1 if bench.quick else 3, count=False)
    bench.say("pycasbin's")
    casbin = costs("bench.cases_policy:pycasbin", rounds=1 if bench.quick else 3, count=False)
    rows: list[list[Cell]] = []
    for kind in cases_policy.KINDS:
        for rules in sizes:
            cost = decisions[f"{rules} {kind}"]
            rows.append([rules, kind, *_figures(cost)[:3]])
    rows += [[rules, "pycasbin, allowed", None, *_figures(casbin[str(rules)])[1:3]] for rules in sizes]
    rows += [[rules, "compile the file", None, *_figures(compiling[str(rules)])[1:3]] for rules in sizes]
    most = sizes[-1]
    goals = [
        Goal(f"us of a decision, {most:,} rules, {kind}", round(decisions[f"{most} {kind}"].median_ns / 1000, 2), limit)
        for kind, limit in zip(cases_policy.KINDS, (CACHED_US, UNCACHED_US, UNCACHED_US, UNCACHED_US), strict=True)
    ]
    tables = [Table("A decision", ["rules", "what", "instructions", "us", "runs"], rows)]
    if not bench.quick:
        title = "A whole governed request, in front of a model server that does nothing"
        tables.append(Table(title, ["rules", "CPU us/request", "runs"], _whole(bench)))
    return Result(
        tables=tables,
        goals=goals,
        notes=_notes(count=not bench.quick),
        data={name: [cost.instructions, cost.ns] for name, cost in decisions.items()},
    )


def _whole(bench: Bench) -> list[list[Cell]]:
    found: dict[int, list[float]] = {rules: [] for rules in cases_policy.SIZES}
    write_files(bench.folder)
    with otlp_sink() as sink, null_upstream(bench.folder) as upstream:
        for number in range(2):
            for rules, cpu in found.items():
                folder = bench.folder / f"{number}-{rules}"
                folder.mkdir()
                with governed(upstream, folder, sink.server_port, rules=rules) as proxy:
                    check_http(proxy.http)
                    cpu.append(loaded(proxy, bench.folder, bench.requests, 8)["cpu_us"])
                    bench.say(f"{rules:,} rules: {cpu[-1]:.1f} us CPU a request")
    return [[rules, middle(cpu, 1), spread(cpu, 1)] for rules, cpu in found.items()]
