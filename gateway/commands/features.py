"""`tidegate features`: plans that make a model's tensors of raw columns."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.commands.output import (
    DOES_NOT_HOLD,
    HOLDS,
    NOT_JUDGED,
    add_format,
    as_json,
    count,
    emit,
    emit_json,
    not_judged,
    say,
)
from governance.errors import DataError

if TYPE_CHECKING:
    from governance.features.reading import Loaded

_EPILOG = """\
examples:
  tidegate features import pipeline.skops --sample train.csv --output plan.yaml --tensor features
  tidegate features check plan.yaml
  tidegate features run --plan plan.yaml --input today.parquet --output rows.npz
  tidegate features show plan.yaml --svg plan.svg

A plan is a YAML file: the columns that come in, what is done with them, the tensors that come out. A route takes it by
`routes.NAME.features: plan.yaml`; clients then send raw columns. docs/features.md has every step.
"""
_IMPORT = """\
examples:
  tidegate features import pipeline.skops --sample train.csv --output plan.yaml
  tidegate features import pipeline.skops --sample train.jsonl --output plan.yaml --tensor input_1

Writes a plan that does what a fitted scikit-learn pipeline's transform does, and compares the two on the sample's rows.
A skops file cannot run code. A joblib file can: it is read only with --trust-joblib.
Needs `pip install tidegate[features]`; the plan does not.
exit status: 0 written and equal, 1 not equal on the sample (nothing is written), 2 a step that no plan has, or a file
that cannot be read
"""
_CHECK = """\
examples:
  tidegate features check plan.yaml
  tidegate features check plan.yaml --format json

exit status: 0 the plan holds, 1 it has errors, 2 it cannot be read
"""
_RUN = """\
examples:
  tidegate features run --plan plan.yaml --input today.csv --output rows.npz
  tidegate features run --plan plan.yaml --input log.jsonl --output rows.csv

One row for each row of the input (CSV, JSONL, Parquet), in the tensor's own datatype.
exit status: 0 written, 2 a row is refused (its line and column are named), or a file cannot be read
"""
_SHOW = """\
examples:
  tidegate features show plan.yaml
  tidegate features show plan.yaml --svg plan.svg

exit status: 0 shown, 2 the plan has errors or cannot be read
"""
_PARITY_LIMIT = 2
"""Units in the last place of float32 by which a value may differ from scikit-learn's: its transcendental functions and
the C library's are not the same to the last bit."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the commands."""
    features = subparsers.add_parser(
        "features",
        help="make a model's tensors of raw columns",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = features.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, words: str, epilog: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=words, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
        )

    one = add("import", "a plan from a fitted scikit-learn pipeline", _IMPORT)
    one.add_argument("pipeline", type=Path, metavar="PIPELINE.skops", help="as skops.io.dump wrote it")
    one.add_argument(
        "--sample", type=Path, required=True, metavar="DATA", help="rows to compare on: CSV, JSONL, Parquet"
    )
    one.add_argument("--output", type=Path, required=True, metavar="PLAN", help="the plan's file")
    one.add_argument("--tensor", default="features", metavar="NAME", help="the model's input (default: features)")
    one.add_argument(
        "--trust-joblib", action="store_true", help="PIPELINE is a joblib file, which may run any code on this machine"
    )
    add_format(one)
    one.set_defaults(run=import_)

    one = add("check", "judge a plan", _CHECK)
    one.add_argument("plan", type=Path, metavar="PLAN")
    add_format(one)
    one.set_defaults(run=check)

    one = add("run", "the tensors of a table's rows", _RUN)
    one.add_argument("--plan", type=Path, required=True, metavar="PLAN")
    one.add_argument(
        "--input", type=Path, required=True, metavar="DATA", help="CSV, JSONL or Parquet, by the name's end"
    )
    one.add_argument("--output", type=Path, required=True, metavar="ROWS", help="*.npz or *.csv")
    add_format(one)
    one.set_defaults(run=run_plan)

    one = add("show", "what a plan does, in words and as a picture", _SHOW)
    one.add_argument("plan", type=Path, metavar="PLAN")
    one.add_argument("--svg", type=Path, metavar="FILE", help="write the picture there")
    add_format(one)
    one.set_defaults(run=show)


def import_(args: argparse.Namespace) -> int:
    """Writes a plan; its exit status."""
    # Other commands do not wait for numpy.
    from governance import tables  # noqa: PLC0415  numpy
    from governance.features import importing, parity  # noqa: PLC0415  numpy
    from governance.features.flows import Unsupported  # noqa: PLC0415  numpy

    try:
        if args.trust_joblib:
            say(f"tidegate: {args.pipeline}: a joblib file runs the code that is in it: load only what you made")
            estimator = importing.load_joblib(args.pipeline)
        else:
            estimator = importing.load_skops(args.pipeline)
        table = tables.read(args.sample)
        imported = importing.Imported(estimator, table, args.tensor)
        text, found = parity.compare(imported, table, f"Made by `tidegate features import` from {args.pipeline.name}.")
    except Unsupported as unsupported:
        say(f"tidegate: {args.pipeline}: no plan does this: {unsupported}")
        return NOT_JUDGED
    except DataError as error:
        say(f"tidegate: {error}")
        return NOT_JUDGED
    shown = {"parity": {"rows": found.rows, "max_abs_difference": found.largest}}
    if found.units > _PARITY_LIMIT:
        say(
            f"tidegate: {args.pipeline}: the plan and scikit-learn differ in row {found.row + 1} of the sample, column "
            f"'{found.column}', by {found.units} units in the last place; nothing was written"
        )
    else:
        try:
            args.output.write_text(text, encoding="utf-8")
        except OSError as error:
            say(f"tidegate: {args.output}: {error.strerror or error}")
            return NOT_JUDGED
    if args.format == "json":
        emit_json(shown)
    else:
        emit(f"parity with scikit-learn on {found.rows} rows: the largest difference is {found.largest:g}")
    return DOES_NOT_HOLD if found.units > _PARITY_LIMIT else HOLDS


def check(args: argparse.Namespace) -> int:
    """Judges a plan; its exit status."""
    from governance.features.reading import load  # noqa: PLC0415  numpy

    loaded, findings = load(args.plan)
    if [finding.code for finding in findings] == ["unreadable"]:
        return not_judged(findings)
    ok = loaded is not None
    if args.format == "json":
        emit_json({"ok": ok, "findings": as_json(findings)})
    else:
        for finding in findings:
            emit(str(finding))
        emit(f"{args.plan}: {'holds' if ok else 'does not hold'} ({count(findings)})")
    return HOLDS if ok else DOES_NOT_HOLD


def _loaded(path: Path) -> Loaded | None:
    """The plan; None: why not has been said."""
    from governance.features.reading import load  # noqa: PLC0415  numpy

    loaded, findings = load(path)
    if loaded is None:
        not_judged(findings, f": tidegate features check {path}")
    return loaded


def run_plan(args: argparse.Namespace) -> int:
    """Writes a table's tensors; its exit status."""
    from governance import tables  # noqa: PLC0415  numpy
    from governance.features.tables import run, save  # noqa: PLC0415  numpy

    loaded = _loaded(args.plan)
    if loaded is None:
        return NOT_JUDGED
    try:
        tensors = run(loaded, tables.read(args.input))
        save(loaded, tensors, args.output)
    except DataError as error:
        say(f"tidegate: {error}")
        return NOT_JUDGED
    shapes = {name: list(array.shape) for name, array in tensors.items()}
    if args.format == "json":
        emit_json({"tensors": shapes})
    else:
        for name, shape in shapes.items():
            emit(f"{name}: {shape[0]} rows of {shape[1]}")
    return HOLDS


def show(args: argparse.Namespace) -> int:
    """Says what a plan does; its exit status."""
    from governance.features import picture  # noqa: PLC0415  numpy

    loaded = _loaded(args.plan)
    if loaded is None:
        return NOT_JUDGED
    if args.svg is not None:
        try:
            args.svg.write_text(picture.svg(loaded), encoding="utf-8")
        except OSError as error:
            say(f"tidegate: {args.svg}: {error.strerror or error}")
            return NOT_JUDGED
    if args.format == "json":
        emit_json(picture.document(loaded))
    else:
        for line in picture.lines(loaded):
            emit(line)
    return HOLDS
