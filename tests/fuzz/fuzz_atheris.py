"""Coverage-guided fuzzing of the targets: `make fuzz ARGS="--seconds 60 [NAME...]"`.

Each target runs in a process of its own, from its seeds and what earlier runs kept in `.fuzz/`. A finding is written to
`.fuzz/`; put it into `corpus/NAME-WHAT` once it is repaired, where every test run tries it again.
"""

from __future__ import annotations

import argparse
import logging
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / ".fuzz"


def child(name: str, seconds: int) -> None:
    """Fuzz one target; libFuzzer ends the process."""
    import atheris

    logging.disable()  # what is refused is logged, thousands of times a second
    with atheris.instrument_imports(include=["gateway", "governance", "kernels.tensors"]):
        from fuzz_targets import TARGETS, seeds
    kept = WORK / name
    kept.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(name)):
        (kept / f"seed{number}").write_bytes(seed)
    flags = [
        f"-max_total_time={seconds}",
        "-print_final_stats=1",
        f"-artifact_prefix={WORK}/{name}-",
        "-max_len=4096",
        "-timeout=10",
    ]
    atheris.Setup([sys.argv[0], *flags, str(kept)], TARGETS[name])
    atheris.Fuzz()


def main() -> int:
    sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
    parser = argparse.ArgumentParser(description="Fuzz the decoders.")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("names", nargs="*")
    asked = parser.parse_args()
    if asked.child:
        child(asked.names[0], asked.seconds)
        return 0
    from fuzz_targets import TARGETS

    failed = 0
    print("| target | executions | coverage | findings |\n|---|---|---|---|")
    for name in asked.names or TARGETS:
        command = [sys.executable, __file__, "--child", "--seconds", str(asked.seconds), name]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        runs = re.findall(r"stat::number_of_executed_units: (\d+)", done.stderr) or re.findall(
            r"^#(\d+)", done.stderr, re.MULTILINE
        )
        coverage = re.findall(r"cov: (\d+)", done.stderr)
        # The exception, where there is one: libFuzzer's report follows it, and is long.
        at = done.stderr.find("Uncaught Python exception")
        finding = "" if done.returncode == 0 else done.stderr[at:][:4000] if at >= 0 else done.stderr[-4000:]
        failed += bool(finding)
        print(
            f"| {name} | {int(runs[-1]) if runs else 0:,} | {coverage[-1] if coverage else '-'} | {1 if finding else 0} |",
            flush=True,
        )
        if finding:
            print(finding, file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
