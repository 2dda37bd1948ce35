"""`make soak`: mixed traffic and faults for SOAK_SECONDS (3600); a table; status 1 when something does not hold.

Two parts. In the first quarter every fault comes, workers are killed and replaced too. Then the workers stay, so
that their memory can be watched, while Tritons are killed and stopped, and settings, policy and certificates
change. At the end the clients leave, and these same workers must hold nothing: no request in flight, no
connection, as many tasks as before the first client came, as few descriptors. The figures go to build/soak.json
(SOAK_JSON names another file), the gateways' logs to the folder SOAK_LOGS if that is set; SOAK_SEED (4) is another
order of the faults.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from driving import descriptors, until
from soak.faults import Faults
from soak.record import Record, table
from soak.site import AGE_S, Site
from soak.traffic import Traffic
from soak.watch import Watch, held, processes, tasks

FLAT = 0.05
SLACK_FDS = 16
"""Connections to replicas come and go; gRPC opens its own, and what it needs beside them, when they are first used."""
POOL_IDLE_S = 60
"""Connections to replicas are closed when they have been idle for so long (`upstream.pool`)."""
SLACK_TASKS = 2
"""A look at a replica's health may be under way."""


def main() -> int:
    """The soak."""
    seconds = float(os.environ.get("SOAK_SECONDS", "3600"))
    random.seed(int(os.environ.get("SOAK_SEED", "4")))
    record, problems = Record(), []
    result: dict[str, Any] = {"seconds": seconds}
    with tempfile.TemporaryDirectory() as folder:
        site = Site(Path(folder))
        faults, watch, traffic = Faults(site, record), Watch(site), Traffic(record, site)
        time.sleep(2)
        result["idle before"] = {"tasks": tasks(site), "descriptors": _descriptors(site)}
        print(f"soak: {seconds:g} s against {site.gateway.http} and {site.gateway.grpc}", file=sys.stderr)
        began = time.monotonic()
        try:
            traffic.start()
            watch.start()
            _inject(faults.all(), began + seconds / 4)
            # However short this part is, it has a worker's end in it; and those that stay are young.
            faults.kill_worker()
            faults.roll()
            settled, named = time.monotonic(), processes(site)
            _inject(faults.mild(), began + seconds)
            lived = time.monotonic()
            grown = [watch.growth(name, pid, settled + (lived - settled) / 4) for name, pid in named]
            problems += [f"{one.name} grew by {one.grown:.1%}" for one in grown if one.grown > FLAT]
            problems += [
                f"{one.name} has {one.last_fds} descriptors, first {one.first_fds}"
                for one in grown
                if one.last_fds > one.first_fds + SLACK_FDS
            ]
            result["processes"] = [asdict(one) for one in grown]
        except (AssertionError, OSError) as error:
            problems.append(f"the faults ended early: {error}")
            traceback.print_exc()  # what comes after may fail for the same reason
        finally:
            problems += traffic.stop()
            watch.end()
            try:
                problems += _left_over(site, result)
            finally:
                logs = [one.log.read_text() for one in (site.gateway, site.tls)]
                _keep(logs)
            statuses = site.stop()
        problems += [f"the {name} ended with {status}" for name, status in statuses.items() if status != 0]
        problems += [
            f"a traceback in a log:\n{log[log.index('Traceback') :][:3000]}" for log in logs if "Traceback" in log
        ]
    result |= record.result()
    if result["unexplained"]:
        problems.append(f"{len(result['unexplained'])} failures that no fault explains")
    calls = sum(row["calls"] for row in result["traffic"].values())
    result |= {"calls": calls, "problems": problems}
    figures = Path(os.environ.get("SOAK_JSON", "build/soak.json"))
    figures.parent.mkdir(parents=True, exist_ok=True)
    figures.write_text(json.dumps(result, indent=1) + "\n")
    _print(result, time.monotonic() - began)
    return 1 if problems else 0


def _keep(logs: Sequence[str]) -> None:
    """In the folder SOAK_LOGS."""
    if keep := os.environ.get("SOAK_LOGS"):
        Path(keep).mkdir(parents=True, exist_ok=True)
        for name, log in zip(("gateway", "gateway-tls"), logs, strict=True):
            Path(keep, f"{name}.log").write_text(log)


def _inject(faults: Sequence[Callable[[], None]], until_: float) -> None:
    """Faults in random rounds, each once a round, every few seconds."""
    while time.monotonic() < until_:
        for fault in random.sample(faults, len(faults)):
            if time.monotonic() >= until_:
                return
            fault()
            time.sleep(random.uniform(1, 3))


def _descriptors(site: Site) -> dict[str, int]:
    return {name: descriptors(pid) for name, pid in processes(site)}


def _left_over(site: Site, result: dict[str, Any]) -> list[str]:
    """What is still held once nobody asks any more."""
    problems = []
    before = result["idle before"]
    most = max(before["tasks"].values()) + SLACK_TASKS

    def crowded() -> dict[str, str]:
        """Processes with more descriptors than they may have."""
        return {
            name: f"{count}, before the first client {before['descriptors'][name]}"
            for name, count in _descriptors(site).items()
            if count > before["descriptors"].get(name, count) + SLACK_FDS
        }

    def nothing() -> bool:
        return not any(held(site).values()) and max(tasks(site).values()) <= most and not crowded()

    try:
        # Connections of clients that left without a word end with their age, idle ones to replicas after a minute.
        until(nothing, max(2 * AGE_S, POOL_IDLE_S) + 30)
    except AssertionError:
        problems.append(
            f"held at the end: {held(site)}; tasks {tasks(site)}, before {before['tasks']}; descriptors {crowded()}"
        )
    result["idle after"] = {"tasks": tasks(site), "held": held(site), "descriptors": _descriptors(site)}
    return problems


def _print(result: dict[str, Any], lasted: float) -> None:
    print(table(result))
    print("\n| process | MiB at first | MiB at last | growth | descriptors at first | at last | idle |")
    print("|---|---|---|---|---|---|---|")
    idle = result["idle after"]["descriptors"]
    for one in result.get("processes", ()):
        print(
            f"| {one['name']} ({one['pid']}) | {one['first_mib']:.1f} | {one['last_mib']:.1f} | {one['grown']:+.1%} "
            f"| {one['first_fds']} | {one['last_fds']} | {idle.get(one['name'], '-')} |"
        )
    print(f"\ntasks of idle workers: before {result['idle before']['tasks']}, after {result['idle after']['tasks']}")
    print(f"held at the end: {result['idle after']['held']}")
    problems = result["problems"]
    print(f"\nsoak: {result['calls']} calls in {lasted:.0f} s, ", end="")
    print("; ".join(problems) if problems else "everything holds")


if __name__ == "__main__":
    sys.exit(main())
