"""Digests of data that DVC keeps, from its `*.dvc` files and from `dvc.lock`.

Contract: reads what DVC 1 to 3 write (https://dvc.org/doc/user-guide/project-structure): `outs` and `deps` with `path`,
one of `md5`, `etag`, `checksum`, and `size` and `nfiles` where they are given; in `dvc.lock` by stage, from schema 2.0
on below `stages`. A digest that ends in `.dir` is that of a folder's list. What is of another form is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from governance.errors import RegistryInputError

_LARGEST = 16 << 20
_ALGORITHMS = ("md5", "etag", "checksum")


def datasets(path: Path) -> list[dict[str, Any]]:
    """What one file says of data. Raises RegistryInputError."""
    try:
        with path.open("rb") as stream:
            data = stream.read(_LARGEST + 1)
    except OSError as error:
        raise RegistryInputError(f"{path}: cannot be read ({error.strerror}): check the path and its rights") from None
    return datasets_of(data, str(path))


def datasets_of(data: bytes, path: str) -> list[dict[str, Any]]:
    """As `datasets`, of what was read already.

    Args:
        data: the file.
        path: its name in errors.

    Raises:
        RegistryInputError: it is no file of DVC.
    """
    try:
        document = yaml.safe_load(data) if len(data) <= _LARGEST else None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise RegistryInputError(f"{path}: no file of DVC: name a `*.dvc` file or a `dvc.lock`")
    found = list(_stages(path, document))
    if not found:
        raise RegistryInputError(f"{path}: says nothing of data: name a `*.dvc` file or a `dvc.lock`")
    return found


def _stages(path: str, document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "outs" in document or "deps" in document:
        yield from _stage(path, document, None)
        return
    stages = document.get("stages") if "schema" in document else document
    if not isinstance(stages, dict):
        return
    for name, stage in stages.items():
        if isinstance(stage, dict):
            yield from _stage(path, stage, str(name))


def _stage(path: str, stage: dict[str, Any], name: str | None) -> Iterator[dict[str, Any]]:
    for key, role in (("deps", "input"), ("outs", "output")):
        entries = stage.get(key) or []
        if not isinstance(entries, list):
            raise RegistryInputError(f"{path}: `{key}` is no list")
        for one in entries:
            algorithm = next((each for each in _ALGORITHMS if isinstance(one, dict) and each in one), None)
            if algorithm is None:
                continue  # a stage that has not run, or a file that git keeps
            if not isinstance(one.get("path"), str) or not isinstance(one[algorithm], str):
                raise RegistryInputError(f"{path}: `{key}` has an entry without a path or digest in text")
            found = {"name": one["path"], "digest": one[algorithm], "algorithm": algorithm, "role": role}
            found |= {each: one[each] for each in ("size", "nfiles") if isinstance(one.get(each), int)}
            if name is not None:
                found["stage"] = name
            yield {**found, "from": Path(path).name}
