"""The benchmark suite: what Tidegate costs, next to nginx, Envoy and the KServe SDK transformer, in one run."""

import argparse
import importlib
import shlex
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from bench import page
from bench.runs import RESULTS, Folder, Plan, Stored, revision
from bench.section import Bench, Result, Section, Skipped
from bench.sections import sections
from gateway.triton import TritonError

_EPILOG = """\
examples:
  python -m bench                            all of it, about half an hour on a quiet machine
  python -m bench --quick                    a look at everything in about three minutes: no figures
  python -m bench --sections http,grpc       two sections
  python -m bench --peers Envoy,governed --requests 5000
                                             HTTP and gRPC of these two alone
  python -m bench --peers Envoy,governed --baseline ../main
                                             the same, and another checkout (its kernels built) in the same run
  python -m bench.overload                   the overload curve, apart: it takes an hour
  python -m bench.gate                       counted instructions against those that are committed

Results land in bench/results/DATE-MACHINE/: README.md, pictures, and one JSON file a section. A run that was
killed is continued by the same command; --fresh begins a new one. Figures count on a quiet machine alone: look at
the spread and at the load average on the page.

sections:
"""
_REQUESTS, _QUICK_REQUESTS = 20_000, 2_000


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    every = sections()
    names = [one.name for one in every]
    listed = "\n".join(f"  {one.name:10} {one.asks} (about {one.seconds[0] / 60:.0f} min)" for one in every)
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        epilog=_EPILOG + listed,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="small loads, one round: a look, not a figure")
    parser.add_argument("--sections", metavar="NAME,...", help="some sections (default: all)")
    parser.add_argument("--requests", type=int, help=f"requests of each run of a proxy (default {_REQUESTS:,})")
    parser.add_argument("--peers", help="comma-separated parts of names, such as `nginx,governed`; http and grpc")
    parser.add_argument("--baseline", type=Path, help="checkout of another revision to measure too; http and grpc")
    parser.add_argument("--only", choices=("http", "grpc"), help="the same as --sections with one of the two")
    parser.add_argument("--fresh", action="store_true", help="begin anew where an unfinished run could be continued")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    given = parser.parse_args(argv)
    if given.only and given.sections:
        parser.error("--only and --sections say the same: give one")
    # Peers and a baseline are asked for where proxies are compared; the other sections know neither.
    compared = given.peers or given.baseline is not None
    given.sections = given.only or given.sections or ("http,grpc" if compared else ",".join(names))
    given.sections = tuple(name.strip() for name in given.sections.split(","))
    if unknown := [name for name in given.sections if name not in names]:
        parser.error(f"no section is called {', '.join(unknown)}; there are {', '.join(names)}")
    given.requests = given.requests or (_QUICK_REQUESTS if given.quick else _REQUESTS)
    if given.requests < 100:
        parser.error("--requests must be at least 100")
    return given


def plan_of(given: argparse.Namespace) -> Plan:
    """What this command asks."""
    return Plan(
        sections=given.sections,
        quick=given.quick,
        requests=given.requests,
        peers=given.peers,
        baseline=None if given.baseline is None else revision(given.baseline),
        revision=revision(),
        whole=set(given.sections) == {one.name for one in sections()} and not given.peers and given.baseline is None,
    )


class Progress:
    """Where the run is, and how long the rest takes if it goes on as so far."""

    def __init__(self, todo: list[Section], *, quick: bool) -> None:
        self._expected = {one.name: one.seconds[quick] for one in todo}
        self._spent = self._expected_so_far = 0.0
        self._number, self._count = 0, len(todo)

    def begin(self, section: Section) -> None:
        """Say it."""
        self._number += 1
        left = self.left()
        shown = f"{left / 60:.0f} min" if left >= 90 else f"{left:.0f} s"
        print(f"==> [{self._number}/{self._count}] {section.title}; about {shown} left", flush=True)

    def end(self, section: Section, seconds: float) -> None:
        """It took so long."""
        self._spent += seconds
        self._expected_so_far += self._expected.pop(section.name)

    def left(self) -> float:
        """Seconds."""
        pace = self._spent / self._expected_so_far if self._expected_so_far else 1.0
        return sum(self._expected.values()) * pace


def run_section(section: Section, given: argparse.Namespace) -> Result:
    """One section, in a folder that is gone afterwards."""
    module, _, function = section.run.partition(":")
    # Paths of Unix sockets are bounded in length: near the root.
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as folder:
        bench = Bench(
            Path(folder),
            quick=given.quick,
            requests=given.requests,
            say=lambda text: print(f"    {text}", flush=True),
            peers=given.peers,
            baseline=given.baseline,
        )
        found: Result = getattr(importlib.import_module(module), function)(bench)
        return found


def run_all(given: argparse.Namespace, folder: Folder) -> list[str]:
    """Every section that is not done; what failed."""
    failed: list[str] = []
    todo = [one for one in sections() if one.name in given.sections and folder.stored(one.name) is None]
    progress = Progress(todo, quick=given.quick)
    for section in todo:
        progress.begin(section)
        load, began = _load_average(), time.monotonic()
        try:
            found = run_section(section, given)
        except Skipped as reason:
            print(f"    skipped: {reason}", flush=True)
            found = Result(skipped=[f"the whole section: {reason}"])
        except (OSError, RuntimeError, TritonError) as error:
            print(f"    failed: {error}", flush=True)
            failed.append(section.name)
            progress.end(section, time.monotonic() - began)
            continue
        except Exception:  # noqa: BLE001 - a defect of one section is not the end of the others
            traceback.print_exc()
            failed.append(section.name)
            progress.end(section, time.monotonic() - began)
            continue
        seconds = time.monotonic() - began
        folder.store(section.name, Stored(round(seconds, 1), load, found))
        progress.end(section, seconds)
    return failed


def _load_average() -> float:
    return float(Path("/proc/loadavg").read_text().split()[0])


def _command(given: argparse.Namespace, argv: list[str]) -> str:
    """As it was given, without paths, which say nothing to others."""
    words = [{str(given.baseline): "CHECKOUT", str(given.output): "FOLDER"}.get(word, word) for word in argv]
    return shlex.join(["python", "-m", "bench", *words])


def main() -> int:
    """Run, write, print. 1: a section failed (the same command tries it again); 2: nothing could be measured."""
    given = arguments()
    folder = Folder.of(plan_of(given), given.output, _command(given, sys.argv[1:]), fresh=given.fresh)
    done = [name for name in given.sections if folder.stored(name) is not None]
    print(f"==> results: {folder.path}" + (f"; done before: {', '.join(done)}" if done else ""), flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is ended then, too
    try:
        failed = run_all(given, folder)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    if not failed:
        folder.finish()
    written = page.write(folder)
    print(written.read_text())
    print(f"wrote {written}")
    if given.output == RESULTS:
        page.document()
        print(f"wrote {page.DOCS}")
    if failed:
        print(f"failed: {', '.join(failed)}; the same command tries them again", file=sys.stderr)
    return 0 if not failed else 1 if page.done(folder) else 2


if __name__ == "__main__":
    sys.exit(main())
