"""`tidegate registry import mlflow` and `push mlflow`: versions and their evidence from MLflow, their state back to it.

Contract: an import makes drafts and nothing else, by a person who may `edit`, as `register` does. What is in review or
further on is left as it is, evidence included, so that no change in MLflow voids an approval here.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from gateway.commands.output import DOES_NOT_HOLD, HOLDS, NOT_JUDGED, add_format, emit, emit_json, say
from gateway.commands.registry_desk import guarded, now_of, open_desk, versions_of, who_is
from gateway.settings import Settings
from governance.errors import RegistryInputError, RegistryRefused
from governance.mlflow import dvc, importing
from governance.mlflow.pushing import Origin, origin, point, push, tags
from governance.mlflow.rest import Tracking
from governance.registry.bound import Now
from governance.registry.desk import Desk, Person
from governance.registry.machine import Standing

_IMPORT = """\
examples:
  tidegate registry import mlflow --config tidegate.yaml --uri https://mlflow.bank.example
  tidegate registry import mlflow --config tidegate.yaml --uri https://mlflow.bank.example --model income \\
    --alias champion --files 'model_repository/{model}/{version}' --dvc data/loans.csv.dvc --dvc dvc.lock

Registers versions as drafts, each with evidence: `evaluation` (the metrics of its run or logged model), `lineage` (data
sets with their digests, from the run's inputs and from DVC's files; code; parameters), `mlflow` (run, tags, aliases).
Their files are downloaded, or lie where --files says, which is where the model servers read them. A card is begun
where there is none: what is missing in it people have to write. A tag `tidegate.risk` of the version becomes its
`risk.rating`. Versions that are in review or further on are left as they are.

MLflow is asked with MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, if they are set.
Who you are is proved by TIDEGATE_API_KEY, as for `register`.
exit status: 0 done, 1 a version was refused, 2 MLflow, a file or the store cannot be read, or no key
"""
_PUSH = """\
examples:
  tidegate registry push mlflow --config tidegate.yaml --uri https://mlflow.bank.example
  tidegate registry push mlflow --config tidegate.yaml --uri https://mlflow.bank.example --alias live

Writes the state of versions that were imported from that MLflow as its tags: `tidegate.state`, `tidegate.serves`,
`tidegate.binding`, `tidegate.risk_class`, `tidegate.approved_by`, `tidegate.expires`, `tidegate.review`,
`tidegate.sunset`; with --alias, that alias is put at the live version, or taken away while none is live.
exit status: 0 MLflow says what the registry says, 2 one of them cannot be read or written
"""


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares both."""
    for verb, text, epilog in (
        ("import", "drafts of the versions of another registry", _IMPORT),
        ("push", "the versions' state, to the registry that they came from", _PUSH),
    ):
        group = commands.add_parser(verb, help=text).add_subparsers(title="registries", metavar="KIND", required=True)
        parser = group.add_parser(
            "mlflow", help="MLflow's", epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="settings (tidegate.yaml)")
        add_format(parser)
        parser.add_argument("--uri", metavar="URI", help="of MLflow (default: MLFLOW_TRACKING_URI)")
        parser.add_argument("--model", metavar="NAME", help="this one alone")
        parser.add_argument("--alias", metavar="ALIAS", help="import: what it is at; push: put it at the live version")
        if verb == "import":
            _import_arguments(parser)
        parser.set_defaults(
            run=lambda args, run=_import if verb == "import" else _push: guarded(run, args), version=None
        )


def _import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--version", dest="only", metavar="VERSION", help="of --model, this one alone")
    parser.add_argument("--name", metavar="NAME", help="of --model on the model servers, where it is another")
    parser.add_argument(
        "--files", metavar="DIR", help="where the files of a version lie; {model} and {version} stand for its own"
    )
    parser.add_argument("--card", type=Path, metavar="FILE", help="of --model, its model card")
    parser.add_argument("--into", type=Path, metavar="DIR", help="for what is made (default: imported, beside FILE)")
    parser.add_argument(
        "--dvc", type=Path, action="append", default=[], metavar="FILE", help="a *.dvc file or dvc.lock"
    )
    parser.add_argument("--as", dest="who", metavar="user:NAME", help="who you are")
    parser.add_argument("--reason", default="", metavar="TEXT", help="why")


def _tracking(args: argparse.Namespace) -> Tracking:
    uri = args.uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        raise RegistryInputError("--uri: names no MLflow: write --uri http(s)://HOST:PORT, or set MLFLOW_TRACKING_URI")
    return Tracking(uri, os.environ)


def _import(settings: Settings, args: argparse.Namespace) -> int:
    for option in ("only", "name", "card", "alias", "dvc"):
        if getattr(args, option) and args.model is None:
            raise RegistryInputError(
                f"--{'version' if option == 'only' else option}: is of one model: add --model NAME"
            )
    if args.only and args.alias:
        raise RegistryInputError("--version and --alias both say which version: use one of them")
    data = [one for path in args.dvc for one in dvc.datasets(path)]
    tracking = _tracking(args)
    who = who_is(settings, args.who)
    if who is None:
        return NOT_JUDGED
    rows: list[dict[str, Any]] = []
    status = HOLDS
    with open_desk(settings, args.config) as desk:
        now = now_of(settings, args.config)
        for model, version in _wanted(tracking, args):
            name = args.name or model
            row: dict[str, Any] = {"model": name, "version": version}
            try:
                row |= _one(tracking, desk, now, who, args, (model, version, name), data)
            except (RegistryRefused, RegistryInputError) as error:
                refused = isinstance(error, RegistryRefused)
                row |= {"state": None, "imported": False, "why": str(error)}
                status = max(status, DOES_NOT_HOLD if refused else NOT_JUDGED)
            rows.append(row)
            if args.format == "text":
                _say(row)
    if args.format == "json":
        emit_json({"ok": status == HOLDS, "versions": rows})
    return status


def _say(row: dict[str, Any]) -> None:
    if row["state"] is None:
        say(f"tidegate: {row['model']} {row['version']}: {row['why']}")
    else:
        emit(f"{row['model']} {row['version']}: {row['state']}; {row['why']}")


def _wanted(tracking: Tracking, args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Models and versions, in MLflow's names, oldest first."""
    if args.only:
        yield args.model, args.only
        return
    if args.alias:
        pairs = tracking.model(args.model).get("aliases") or []
        at = next((str(one.get("version")) for one in pairs if one.get("alias") == args.alias), None)
        if at is None:
            raise RegistryInputError(f"{tracking.uri}: {args.model} has no alias `{args.alias}`")
        yield args.model, at
        return
    if args.model:
        tracking.model(args.model)  # or it says that there is none
    for model in [args.model] if args.model else [str(one.get("name")) for one in tracking.models()]:
        versions = [str(one.get("version")) for one in tracking.versions(model)]
        for version in sorted(versions, key=lambda text: (not text.isdigit(), len(text), text)):
            yield model, version


def _one(
    tracking: Tracking,
    desk: Desk,
    now: Now,
    who: Person,
    args: argparse.Namespace,
    named: tuple[str, str, str],
    data: list[dict[str, Any]],
) -> dict[str, Any]:
    """What became of one version. Raises RegistryRefused, RegistryInputError."""
    model, version, name = named
    folder = importing.folder_of(args.into or args.config.parent / "imported", name, version)
    found = importing.look(tracking, model, version)
    made = importing.documents(found, data)
    standing = desk.standing(name, version)
    if standing.state not in (None, "draft"):
        other = importing.differing(made, folder)
        why = f"left as it is; MLflow says otherwise now: {', '.join(other)}" if other else "left as it is"
        return {"state": standing.state, "imported": False, "why": why}
    files = None if args.files is None else Path(args.files.replace("{model}", name).replace("{version}", version))
    parts = importing.write(tracking, found, made, folder, name=name, files=files, own_card=args.card)
    bound = now.bound(now.sources(parts.files, parts.card, parts.evidence))
    if standing.binding is not None and _same(bound, standing):
        return {"state": standing.state, "imported": False, "why": "unchanged"}
    after = desk.register(name, version, who, parts.files, parts.card, parts.evidence, args.reason)
    return {"state": after.state, "imported": True, "why": f"imported into {folder}"}


def _same(bound: Any, standing: Standing) -> bool:
    then = standing.binding
    return then is not None and bound == msgspec.structs.replace(then, requirements="", policy="")


def _push(settings: Settings, args: argparse.Namespace) -> int:
    tracking = _tracking(args)
    now, base = dt.datetime.now(dt.UTC), args.config.absolute().parent
    rows: list[dict[str, Any]] = []
    live: dict[str, tuple[dt.datetime, str] | None] = {}
    for (model, version), standing in versions_of(settings, None).items():
        to = origin(standing, base)
        if args.model not in (None, model) or to is None or to.registry != tracking.uri:
            continue
        rows.append({"model": model, "version": version, "changed": push(tracking, to, tags(standing, now))})
        live.setdefault(to.model, None)
        _newest(live, to, standing)
    moved = []
    if args.alias:
        for name, at in live.items():
            if point(tracking, name, args.alias, None if at is None else at[1]):
                moved.append({"model": name, "alias": args.alias, "version": None if at is None else at[1]})
    if args.format == "json":
        emit_json({"versions": rows, "aliases": moved})
        return HOLDS
    for row in rows:
        emit(f"{row['model']} {row['version']}: {', '.join(row['changed']) or 'unchanged'}")
    for one in moved:
        emit(f"{one['model']}: {args.alias} is at {one['version'] or 'no version'}")
    return HOLDS


def _newest(live: dict[str, tuple[dt.datetime, str] | None], to: Origin, standing: Standing) -> None:
    """The version that serves where a route names none: the one that became live last."""
    if standing.state != "live" or standing.promoted is None:
        return
    before = live[to.model]
    if before is None or before[0] < standing.promoted:
        live[to.model] = (standing.promoted, to.version)
