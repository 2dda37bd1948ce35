"""`tidegate audit verify|proof|verify-proof|show|export`: a log looked at, by whoever has a copy of it."""

from __future__ import annotations

import argparse
import base64
import sys
from pathlib import Path
from typing import Any

import msgspec

from gateway.commands import audit_state
from gateway.commands.guarded import declare
from gateway.commands.output import DOES_NOT_HOLD, HOLDS, add_format, emit, emit_json, progress, say
from governance.audit import show
from governance.audit.proof import prove, verify_proof
from governance.audit.pruned import read_pruned
from governance.audit.verify import Report, read_keys, read_witness_keys, verify
from governance.errors import AuditInputError

_VERIFY = """\
examples:
  tidegate audit verify state/audit --key state/audit/log.vkey
  tidegate audit verify copy/ --key log.vkey --remembered checkpoint-of-march --format json

  tidegate audit verify state/audit --key log.vkey --witness peer-witness.vkey

Takes any log of the form C2SP tlog-tiles, and needs nothing but its folder and its public key. Get the key from the
operator once, over a way that you trust, and keep it; keep the checkpoints that you saw, and hold later copies of
the log against them: that is what shows a history that was rewritten and signed again.
A finding is FILE: entry N: what is wrong [code]. Entries that are gone are none where the log itself states that they
were pruned, under which policy and of which classes: `pruned` in the result.
exit status: 0 all of it holds, 1 something does not, 2 the folder, the key or a remembered checkpoint cannot be read
"""
_PROOF = """\
examples:
  tidegate audit proof state/audit --index 4711 > decision.tlog-proof
  tidegate audit show state/audit --from 4711 --to 4711 --raw > decision.json

The proof (c2sp.org/tlog-proof@v1) and the entry together show to anyone who has the public key that the decision
stands in the log, without the rest of it: see `tidegate audit verify-proof --help`.
exit status: 0 done, 2 the log cannot be read, has no such entry, or does not lead to its own root
"""
_VERIFY_PROOF = """\
examples:
  tidegate audit verify-proof decision.tlog-proof --key log.vkey --entry decision.json

exit status: 0 the entry stands in the log, 1 the proof does not show it, 2 a file cannot be read
"""
_SHOW = """\
examples:
  tidegate audit show state/audit --from 100 --to 200
  tidegate audit show state/audit --request 6f1ed002ab5595859014ebf0951522d9
  tidegate audit show state/audit --follow | jq 'select(.outcome == "refused")'
  tidegate audit show state/audit --from 4711 --to 4711 --raw

One JSON object a line, in the log's order, each with its index; both ends are included. `--raw` prints the entry as
it is in the log, whose hash is the leaf's. Nothing is verified: that is `tidegate audit verify`. What was pruned is
passed over, and said.
exit status: 0 done, 1 `--request` names none that is in the log, 2 the log cannot be read
"""
_EXPORT = """\
examples:
  tidegate audit export state/audit --to decisions.jsonl
  tidegate audit export state/audit --to decisions.parquet
  duckdb -c "select outcome, count(*) from 'decisions.parquet' group by all"

exit status: 0 done, 2 the log cannot be read, or the file not written
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the commands."""
    audit = subparsers.add_parser("audit", help="verify, read and keep the audit log")
    commands = audit.add_subparsers(title="commands", metavar="COMMAND", required=True)

    check = declare(commands, "verify", "verify a log with nothing but its public key", _VERIFY, run_verify)
    check.add_argument("dir", type=Path, metavar="DIR", help="the log (state_dir/audit, or a copy)")
    check.add_argument("--key", type=Path, required=True, metavar="FILE", help="its verifier keys, one a line")
    check.add_argument(
        "--remembered",
        type=Path,
        action="append",
        default=[],
        metavar="CHECKPOINT",
        help="a checkpoint seen before; may be given several times",
    )
    check.add_argument(
        "--witness",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="keys of witnesses that must have cosigned it, one a line; may be given several times",
    )
    add_format(check)

    proof = declare(commands, "proof", "prove that an entry stands in a log", _PROOF, run_proof)
    proof.add_argument("dir", type=Path, metavar="DIR", help="the log")
    proof.add_argument("--index", type=_index, required=True, metavar="N", help="the entry's index, from 0")

    judge = declare(commands, "verify-proof", "check such a proof", _VERIFY_PROOF, run_verify_proof)
    judge.add_argument("proof", type=Path, metavar="PROOF", help="the proof")
    judge.add_argument("--key", type=Path, required=True, metavar="FILE", help="the log's verifier keys, one a line")
    judge.add_argument("--entry", type=Path, required=True, metavar="FILE", help="the raw entry")
    add_format(judge)

    shown = declare(commands, "show", "print records", _SHOW, run_show)
    shown.add_argument("dir", type=Path, metavar="DIR", help="the log")
    shown.add_argument("--from", dest="first", type=_index, default=0, metavar="N", help="first index (default: 0)")
    shown.add_argument("--to", dest="last", type=_index, metavar="N", help="last index (default: the last there is)")
    shown.add_argument("--request", metavar="ID", help="only records of this request id")
    shown.add_argument("--raw", action="store_true", help="the entries as they are in the log")
    shown.add_argument("--follow", action="store_true", help="go on with what comes, until interrupted")

    export = declare(commands, "export", "write records to a file", _EXPORT, run_export)
    export.add_argument("dir", type=Path, metavar="DIR", help="the log")
    export.add_argument("--to", type=Path, required=True, metavar="FILE", help="FILE.jsonl or FILE.parquet")
    add_format(export)

    audit_state.add_commands(commands, declare)


def _index(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"must be an index, a number from 0 on, not {text!r}")
    return int(text)


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise AuditInputError(f"{path}: cannot be read ({error.strerror}): give {what}") from None


def run_verify(args: argparse.Namespace) -> int:
    """Verifies a log; its exit status."""
    witnesses = [key for path in args.witness for key in read_witness_keys(path)]
    report = verify(args.dir, read_keys(args.key), args.remembered, progress(), witnesses=witnesses)
    root = None if report.root is None else base64.b64encode(report.root).decode()
    result: dict[str, Any] = {"ok": report.ok, "size": report.size, "root": root}
    if witnesses:
        result["witnessed"] = report.witnessed
    if report.pruned is not None:
        result["pruned"] = report.pruned.before if args.format == "text" else msgspec.to_builtins(report.pruned)
    status = _judged(report, args, result)
    if report.pruned is not None:
        say(f"{report.pruned}: their hashes hold, and they themselves were not seen")
    return status


def _judged(report: Report, args: argparse.Namespace, result: dict[str, Any]) -> int:
    if args.format == "json":
        emit_json({**result, "findings": [msgspec.structs.asdict(finding) for finding in report.findings]})
    else:
        for finding in report.findings:
            emit(str(finding))
        facts = ", ".join(f"{name} {value}" for name, value in result.items() if name != "ok" and value is not None)
        emit(f"{'ok' if report.ok else 'NOT ok'}: {facts}")
    return HOLDS if report.ok else DOES_NOT_HOLD


def run_proof(args: argparse.Namespace) -> int:
    """Prints a proof; its exit status."""
    sys.stdout.buffer.write(prove(args.dir, args.index).encode())
    sys.stdout.buffer.flush()
    pruned = read_pruned(args.dir, show.read_checkpoint(args.dir).size)
    if pruned is not None and args.index < pruned.before:
        say(f"{pruned}: the proof is for who has kept the entry")
    return HOLDS


def run_verify_proof(args: argparse.Namespace) -> int:
    """Checks a proof; its exit status."""
    keys = read_keys(args.key)
    entry = _read(args.entry, "the raw entry, as `audit show --raw` prints it")
    content = _read(args.proof, "the proof, as `audit proof` prints it")
    report, index = verify_proof(content, keys, entry, str(args.proof))
    return _judged(report, args, {"ok": report.ok, "index": index, "size": report.size})


def run_show(args: argparse.Namespace) -> int:
    """Prints records; its exit status."""
    found = show.follow(args.dir, args.first) if args.follow else show.entries(args.dir, args.first, args.last)
    _say_pruned(args.dir, args.first)
    shown = 0
    for index, entry in found:
        if args.last is not None and index > args.last:
            break
        value = show.as_object(index, entry)
        if args.request is not None and value.get("id") != args.request:
            continue
        shown += 1
        if args.raw:
            sys.stdout.buffer.write(entry + b"\n")
        else:
            emit_json(value)
        if args.follow:
            sys.stdout.flush()
    sys.stdout.flush()
    if args.request is not None and not shown:
        say(f"tidegate: {args.dir}: no record of request {args.request}")
        return DOES_NOT_HOLD
    return HOLDS


def _say_pruned(folder: Path, first: int) -> None:
    """Says that a log does not begin where somebody wants to begin to read it."""
    pruned = read_pruned(folder, show.read_checkpoint(folder).size)
    if pruned is not None and first < pruned.before:
        say(str(pruned))


def run_export(args: argparse.Namespace) -> int:
    """Writes records to a file; its exit status."""
    _say_pruned(args.dir, 0)
    count = show.export(args.dir, args.to)
    if args.format == "json":
        emit_json({"records": count, "file": str(args.to)})
    else:
        emit(f"{count} records in {args.to}")
    return HOLDS
