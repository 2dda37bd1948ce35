"""Counted instructions of the kernels and of both doors' codecs against those that are committed.

Blocks (status 1) when a case costs more than 3 % above `gate.json`. Wall time never blocks.

The same instructions are executed wherever the same binaries run, so the committed figures hold for one toolchain:
Python's build, the C compiler and library, the packages that take part, valgrind, and what vector instructions the
processor has. On another toolchain nothing is compared with them: `--against REVISION` builds that revision and
counts both in the same run, which needs no committed figures.

status: 0 it holds, or cannot be judged here (it says so); 1 a case costs more; 2 it could not run
"""

import argparse
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import msgspec

from bench.counted import Cost, can_count, costs
from bench.runs import CHECKOUT

BASELINE = Path(__file__).with_name("gate.json")
SUITE = "bench.cases_kernels:gated"
MORE = 0.03
"""Of a case's instructions; two runs of the same binaries differ by some thousandths."""
_PACKAGES = ("cython", "httptools", "msgspec", "numpy", "protobuf", "tritonclient")
_EPILOG = """\
examples:
  python -m bench.gate                    judge this checkout
  python -m bench.gate --update           commit to what it costs now (then commit bench/gate.json)
  python -m bench.gate --against main     build `main` apart and count both in one run
"""


class Baseline(msgspec.Struct):
    """`gate.json`."""

    toolchain: dict[str, str]
    instructions: dict[str, float]


class Verdict(msgspec.Struct):
    """One case."""

    name: str
    before: float | None
    """None: it is new."""
    now: float | None
    """None: it does not run any more."""

    @property
    def change(self) -> float | None:
        """0.03 is 3 % more."""
        return None if not self.before or self.now is None else self.now / self.before - 1

    @property
    def worse(self) -> bool:
        """Whether it blocks. A case that no longer runs does."""
        return self.now is None or (self.change is not None and self.change > MORE)


def toolchain() -> dict[str, str]:
    """Everything that decides which instructions run, but the code."""
    flags = set(re.findall(r"^flags\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)[0].split())
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}, {platform.python_compiler()}",
        "compiler": _first_line("cc", "--version"),
        "libc": " ".join(platform.libc_ver()),
        "valgrind": _first_line("valgrind", "--version"),
        "processor": platform.machine() + "".join(f" {one}" for one in ("avx2", "bmi2", "fma") if one in flags),
        **{name: version(name) for name in _PACKAGES},
    }


def _first_line(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return "none"
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.partition("\n")[0].strip()


def judged(before: Mapping[str, float], now: Mapping[str, Cost]) -> list[Verdict]:
    """Each case of either."""
    names = sorted({*now, *before})
    return [Verdict(name, before.get(name), now[name].instructions if name in now else None) for name in names]


def table(verdicts: list[Verdict]) -> str:
    """For people."""
    width = max(len(one.name) for one in verdicts)
    lines = [f"{'case':{width}} {'before':>12} {'now':>12}  change"]
    for one in verdicts:
        before = "-" if one.before is None else f"{one.before:,.0f}"
        now = "-" if one.now is None else f"{one.now:,.0f}"
        change = "new" if one.before is None else "does not run" if one.change is None else f"{one.change:+.1%}"
        lines.append(f"{one.name:{width}} {before:>12} {now:>12}  {change}{'  TOO MUCH' if one.worse else ''}")
    return "\n".join(lines)


@contextmanager
def built(revision: str) -> Iterator[Path]:
    """A checkout of a revision with its kernels built. Raises RuntimeError with what went wrong."""
    with tempfile.TemporaryDirectory(prefix="tidegate-gate-") as name:
        folder = Path(name) / "checkout"
        _run(["git", "-C", str(CHECKOUT), "worktree", "add", "--detach", "--quiet", str(folder), revision])
        try:
            _run([sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"], folder)
            yield folder
        finally:
            _run(["git", "-C", str(CHECKOUT), "worktree", "remove", "--force", str(folder)])


def _run(argv: list[str], cwd: Path | None = None) -> None:
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv[:4])}: {done.stderr.strip()[-500:]}")


def _compare(against: str) -> int:
    with built(against) as folder:
        before = costs(SUITE, rounds=0, code=folder)
    known = {name: cost.instructions for name, cost in before.items() if cost.instructions is not None}
    return _verdict(judged(known, costs(SUITE, rounds=0)))


def _verdict(verdicts: list[Verdict]) -> int:
    print(table(verdicts))
    worse = [one.name for one in verdicts if one.worse]
    if worse:
        print(f"\n{len(worse)} of {len(verdicts)} cost more than {MORE:.0%} above what they did", file=sys.stderr)
    return 1 if worse else 0


def _update() -> int:
    now = costs(SUITE, rounds=0)
    if missing := [f"{name}: {cost.error}" for name, cost in now.items() if cost.instructions is None]:
        print("\n".join(missing), file=sys.stderr)
        return 2
    known = {name: cost.instructions for name, cost in sorted(now.items()) if cost.instructions is not None}
    text = msgspec.json.format(msgspec.json.encode(Baseline(toolchain(), known)), indent=1)
    BASELINE.write_bytes(text + b"\n")
    print(f"wrote {BASELINE}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """As the module says."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.gate",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--update", action="store_true", help="write gate.json")
    what.add_argument("--against", metavar="REVISION", help="of git; its kernels are built with this compiler")
    given = parser.parse_args(argv)
    if reason := can_count():
        print(f"not judged: {reason}")
        return 0
    try:
        if given.update:
            return _update()
        if given.against:
            return _compare(given.against)
        known = msgspec.json.decode(BASELINE.read_bytes(), type=Baseline)
        here = toolchain()
        if known.toolchain != here:
            for name in dict.fromkeys((*known.toolchain, *here)):
                if known.toolchain.get(name) != here.get(name):
                    print(f"{name}: {here.get(name)} here, gate.json has {known.toolchain.get(name)}")
            print("not judged: another toolchain than gate.json's; compare with a revision: --against REVISION")
            return 0
        return _verdict(judged(known.instructions, costs(SUITE, rounds=0)))
    except (OSError, RuntimeError, msgspec.DecodeError) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
