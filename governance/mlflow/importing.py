"""One version of MLflow, as files that the registry can be bound to.

Contract: below `into/MODEL/VERSION`: `evaluation.json`, `lineage.json`, `mlflow.json`; `card.yaml` where none lies
there yet, since people go on with it; and `files/`, the version's artifacts, where they are not said to lie elsewhere.
Names that a server gives never lead out of the folder. Files are written aside and renamed, so that nothing half lies
there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from governance.audit.files import ASIDE, make_folder, replace
from governance.errors import RegistryInputError
from governance.mlflow.documents import Found, as_it_stands, card, encode, evaluation, lineage, model_id
from governance.mlflow.rest import NotThere, Tracking

_SCHEME = "mlflow-artifacts"
_MOST_FILES = 100_000
_DEEPEST = 32
EVIDENCE = ("evaluation", "lineage", "mlflow")


class Imported(msgspec.Struct, frozen=True):
    """Where the parts of a version lie."""

    files: Path
    card: Path
    evidence: dict[str, Path]


def folder_of(into: Path, name: str, version: str) -> Path:
    """Of a version. Raises RegistryInputError: a name that leads elsewhere."""
    for one in (name, version):
        if one in ("", ".", "..") or any(char in one for char in "/\\\0") or not one.isprintable():
            raise RegistryInputError(
                f"{one[:100]!r} is no name that a folder can have: import it under another, --name"
            )
    return into / name / version


def look(tracking: Tracking, model: str, version: str) -> Found:
    """All that MLflow says of a version. Raises RegistryInputError: it has no such version, or it is not ready."""
    found = tracking.version(model, version)
    if found.get("status", "READY") != "READY":
        raise RegistryInputError(f"{tracking.uri}: {model} {version} is not ready ({found.get('status')})")
    pairs = tracking.model(model).get("aliases") or []
    aliases = tuple(sorted(str(one["alias"]) for one in pairs if str(one.get("version")) == version))
    run, logged = None, None
    if found.get("run_id"):
        try:
            run = tracking.run(str(found["run_id"]))
        except NotThere:  # deleted for good
            run = None
    if model_id(found):
        logged = tracking.logged_model(model_id(found))
    return Found(tracking.uri, found, aliases, run, logged)


def documents(found: Found, dvc: list[dict[str, Any]]) -> dict[str, bytes]:
    """The evidence, by its name."""
    made = {"evaluation": evaluation(found), "lineage": lineage(found, dvc), "mlflow": as_it_stands(found)}
    return {name: encode(document) for name, document in made.items()}


def differing(made: Mapping[str, bytes], folder: Path) -> list[str]:
    """The evidence that MLflow would now give otherwise than it lies in the folder."""
    found = []
    for name in EVIDENCE:
        path = folder / f"{name}.json"
        if not path.exists() or path.read_bytes() != made[name]:
            found.append(name)
    return found


def write(
    tracking: Tracking,
    found: Found,
    made: Mapping[str, bytes],
    folder: Path,
    *,
    name: str,
    files: Path | None,
    own_card: Path | None,
) -> Imported:
    """Put all of it in place.

    Args:
        tracking: MLflow.
        found: what it said.
        made: the evidence.
        folder: of the version.
        name: of the model here.
        files: where its files lie; None: they are downloaded.
        own_card: where its card lies; None: one is begun.

    Raises:
        RegistryInputError: the artifacts cannot be had.
        OSError: the folder cannot be written.
    """
    make_folder(folder)
    if files is None:
        files = folder / "files"
        _download(tracking, found, files)
    for key, data in made.items():
        replace(folder / f"{key}.json", data)
    if own_card is None:
        own_card = folder / "card.yaml"
        if not own_card.exists():
            replace(own_card, card(found, name))
    return Imported(files, own_card, {key: folder / f"{key}.json" for key in EVIDENCE})


def _download(tracking: Tracking, found: Found, target: Path) -> None:
    model, version = str(found.version["name"]), str(found.version["version"])
    uri = tracking.artifact_uri(model, version)
    parts = urlsplit(uri)
    if parts.scheme != _SCHEME:
        where = f"{parts.scheme or 'file'}:"
        raise RegistryInputError(
            f"{tracking.uri}: does not serve the files of {model} {version} (they lie at {where}...): "
            "say where they are with --files"
        )
    aside = target.with_name(target.name + ASIDE)
    shutil.rmtree(aside, ignore_errors=True)
    todo, count = [(parts.path.strip("/"), aside, 0)], 0
    while todo:
        path, folder, depth = todo.pop()
        folder.mkdir(parents=True)
        for name, is_folder in tracking.artifacts(path):
            count += 1
            if count > _MOST_FILES or depth > _DEEPEST:
                raise RegistryInputError(f"{tracking.uri}: {model} {version} has too many files: use --files")
            _check(tracking, name)
            if is_folder:
                todo.append((f"{path}/{name}", folder / name, depth + 1))
            else:
                with (folder / name).open("xb") as stream:
                    tracking.download(f"{path}/{name}", stream)
                    stream.flush()
                    os.fsync(stream.fileno())
    shutil.rmtree(target, ignore_errors=True)
    aside.rename(target)


def _check(tracking: Tracking, name: str) -> None:
    if name in ("", ".", "..") or any(char in name for char in "/\\\0\r\n") or not name.isprintable():
        raise RegistryInputError(f"{tracking.uri}: names a file {name[:100]!r}, which cannot be written here")
