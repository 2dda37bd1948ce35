"""`tidegate card check|export`: whether a model card says what it has to, and the forms that others read."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.commands.output import DOES_NOT_HOLD, HOLDS, NOT_JUDGED, add_format, emit, emit_json, not_judged, say
from governance.cards import annex_iv, cyclonedx, hugging_face, page, spdx
from governance.cards.card import read
from governance.cards.complete import missing
from governance.errors import CardError

_CHECK = """\
examples:
  tidegate card check model_repository/income/card.yaml
  tidegate card check card.yaml --format json

exit status: 0 complete, 1 something is missing, 2 the file is no card
"""
_EXPORT = """\
examples:
  tidegate card export card.yaml --to hf > README.md                 for the Hugging Face Hub
  tidegate card export card.yaml --to cyclonedx > model.cdx.json     an ML-BOM, CycloneDX 1.7
  tidegate card export card.yaml --to spdx > model.spdx.json         SPDX 3.0.1 with the AI profile
  tidegate card export card.yaml --to html > card.html               one page to read and print
  tidegate card export card.yaml --to annex-iv                       EU AI Act, Annex IV, with what is missing

What the card does not say is left out, never invented. An incomplete card is exported too.
exit status: 0 written, 2 the file is no card
"""
_TEXTS = {"hf": hugging_face.write, "html": page.write, "annex-iv": annex_iv.write}
_JSONS: dict[str, Callable[[Any], Any]] = {
    "cyclonedx": cyclonedx.write,
    "spdx": spdx.write,
    "annex-iv": lambda card: {"points": annex_iv.points(card)},
}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the commands."""
    card = subparsers.add_parser("card", help="check and export model cards")
    commands = card.add_subparsers(title="commands", metavar="COMMAND", required=True)
    form = argparse.RawDescriptionHelpFormatter
    check = commands.add_parser("check", help="say what is missing", epilog=_CHECK, formatter_class=form)
    check.add_argument("file", type=Path, metavar="FILE", help="the card, YAML")
    add_format(check)
    check.set_defaults(run=lambda args: _guarded(_check, args))
    export = commands.add_parser("export", help="write another form", epilog=_EXPORT, formatter_class=form)
    export.add_argument("file", type=Path, metavar="FILE", help="the card, YAML")
    export.add_argument("--to", required=True, choices=sorted(_TEXTS | _JSONS), help="the form")
    export.add_argument("--format", choices=("text", "json"), help="of annex-iv (default: text, as Markdown)")
    export.set_defaults(run=lambda args: _guarded(_export, args))


def _guarded(run: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    try:
        return run(args)
    except CardError as error:
        return not_judged(error.findings)


def _check(args: argparse.Namespace) -> int:
    paths = missing(read(args.file))
    if args.format == "json":
        emit_json({"complete": not paths, "missing": paths})
    else:
        for path in paths:
            emit(f"missing: {path}")
        emit(f"{args.file}: {f'{len(paths)} missing' if paths else 'complete'}")
    return DOES_NOT_HOLD if paths else HOLDS


def _export(args: argparse.Namespace) -> int:
    wanted = args.format or ("text" if args.to in _TEXTS else "json")
    writer = (_TEXTS if wanted == "text" else _JSONS).get(args.to)
    if writer is None:
        say(f"tidegate card export: there is no {args.to} as {wanted}; leave --format out")
        return NOT_JUDGED
    found = writer(read(args.file))
    if isinstance(found, str):
        sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]  # whatever the terminal's language is
        sys.stdout.write(found)
    else:
        emit(json.dumps(found, indent=1))
    return HOLDS
