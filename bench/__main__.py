"""`python -m bench`: every proxy in turn, then all once more; results under `bench/results/`."""

import argparse
import datetime as dt
import shlex
import sys
import tempfile
from pathlib import Path

import bench
from bench import clients, report
from bench.load import write_files
from bench.machine import machine, versions
from bench.measure import Load, Measured, measure
from bench.peers import Missing, Peer, peers
from bench.sink import otlp_sink
from bench.upstream import triton
from gateway.triton import TritonError

RESULTS = Path(__file__).with_name("results")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of 3,000 requests: a look, not a figure")
    parser.add_argument("--only", choices=("http", "grpc"), help="one protocol")
    parser.add_argument("--requests", type=int, help="requests of each run (default 20000)")
    parser.add_argument("--peers", help="comma-separated parts of names, such as `nginx,governed`")
    parser.add_argument("--baseline", type=Path, help="checkout of another revision to measure in the same run")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    given = parser.parse_args()
    given.requests = given.requests or (3_000 if given.quick else 20_000)
    if given.requests < 100:
        parser.error("--requests must be at least 100")
    return given


def available(wanted: str | None, baseline: Path | None) -> tuple[list[Peer], dict[str, str], list[str]]:
    """The peers that this machine has, their versions, and why the others are skipped."""
    chosen, found, skipped = [], {}, []
    for peer in peers(baseline):
        if wanted and not any(part.strip().lower() in peer.name.lower() for part in wanted.split(",")):
            continue
        try:
            found[peer.name] = peer.find()
        except Missing as reason:
            skipped.append(f"{peer.name}: {reason}")
            print(f"==> skipping {peer.name}: {reason}", flush=True)
        else:
            chosen.append(peer)
    return chosen, found, skipped


def run_all(given: argparse.Namespace, chosen: list[Peer], skipped: list[str]) -> tuple[list[list[Measured]], str]:
    """All rounds, and Triton's version. A proxy that fails is left out of the rest, saying so."""
    load = Load(given.requests, max(given.requests // 10, 400), (given.only,) if given.only else ("http", "grpc"))
    rounds: list[list[Measured]] = []
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as name, otlp_sink() as sink:
        directory = Path(name)
        write_files(directory)
        otlp = f"http://127.0.0.1:{sink.server_port}"
        print("==> starting Triton", flush=True)
        with triton(directory) as upstream:
            for number in range(1 if given.quick else 2):
                rounds.append([])
                for peer in tuple(chosen):
                    print(f"==> round {number + 1}: {peer.name}", flush=True)
                    folder = directory / f"{number}-{peer.name.replace(', ', '-').lower()}"
                    try:
                        found = measure(peer, upstream, folder, otlp, load)
                    except (OSError, RuntimeError) as error:
                        chosen.remove(peer)
                        skipped.append(f"{peer.name}: {error}")
                        print(f"    failed: {error}", flush=True)
                        continue
                    rounds[-1].append(found)
                    _progress(found)
            return rounds, upstream.version


def _progress(found: Measured) -> None:
    for protocol, run in found.runs.items():
        cpu = found.cpu_us.get(protocol)
        spent = f", {cpu:.1f} us CPU a request" if cpu is not None else ""
        print(f"    {protocol}: {run.requests} requests, {run.requests / run.seconds:,.0f}/s{spent}", flush=True)


def _command(given: argparse.Namespace) -> str:
    """As it was given, without the path of the baseline, which says nothing to others."""
    words = [word if word != str(given.baseline) else "CHECKOUT" for word in sys.argv[1:]]
    return shlex.join(["python", "-m", "bench", *words])


def main() -> int:
    """Run, write, print. 1: a peer failed; 2: nothing could be measured."""
    given = arguments()
    now = dt.datetime.now(dt.UTC)
    facts = machine()
    chosen, found, skipped = available(given.peers, given.baseline)
    missing = len(skipped)
    try:
        rounds, triton_version = run_all(given, chosen, skipped)
    except TritonError as error:
        print(error, file=sys.stderr)
        return 2
    if not any(rounds):
        print("nothing could be measured", file=sys.stderr)
        return 2
    data = report.results(
        rounds,
        {
            "date": now.strftime("%Y-%m-%d"),
            "time": now.isoformat(timespec="seconds"),
            "command": _command(given),
            "machine": facts,
            "versions": {"Triton": triton_version} | {k: v for k, v in found.items() if k != "direct"} | versions(),
            "load": f"{given.requests:,} requests of FP32[1,32] a run, {clients.CONNECTIONS} connections, "
            f"{clients.http_client()} (HTTP), {clients.grpc_client()} (gRPC), one worker each",
            "method": " ".join(bench.__doc__.partition("Method: ")[2].split()),
            "skipped": skipped,
        },
    )
    name = f"{data['date']}-quick" if given.quick else data["date"]
    paths = report.write(data, given.output, name)
    print(paths[1].read_text())
    print("wrote " + ", ".join(map(str, paths)))
    return 1 if len(skipped) > missing else 0


if __name__ == "__main__":
    sys.exit(main())
