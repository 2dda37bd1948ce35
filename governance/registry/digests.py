r"""Digests of what a version is bound to.

`tree` is the SHA-256 of what `sha256sum` prints for every file below a folder, in the order of the bytes of their
paths. So that it can be found again without this program:

    cd FOLDER && find . -name __pycache__ -prune -o -type f -printf '%P\0' | LC_ALL=C sort -z |
      xargs -0 sha256sum | sha256sum

`__pycache__` does not count: Python writes it when a model server loads the model. What lies in it can be run, so
nobody but the model server may be able to write there.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from governance.errors import RegistryInputError

_CHUNK = 1 << 20
_NOT_COUNTED = b"__pycache__"


def file_digest(path: Path) -> str:
    """SHA-256, in hex, of a file's bytes. Raises RegistryInputError."""
    hashed = hashlib.sha256()
    try:
        with path.open("rb", buffering=0) as stream:
            while chunk := stream.read(_CHUNK):
                hashed.update(chunk)
    except OSError as error:
        raise RegistryInputError(f"{path}: cannot be read ({error.strerror}): check the path and its rights") from None
    return hashed.hexdigest()


def tree(folder: Path) -> str:
    """The digest of a folder, as above.

    Raises:
        RegistryInputError: it cannot be read, has no files, or one that is a link, a device, or of a name that
            `sha256sum` does not print as it is.
    """
    names = sorted(_names(folder, b""))
    if not names:
        raise RegistryInputError(f"{folder}: has no files: name the folder of the version, such as MODEL/1")
    listing = hashlib.sha256()
    for name in names:
        listing.update(file_digest(folder / os.fsdecode(name)).encode() + b"  " + name + b"\n")
    return listing.hexdigest()


def _names(folder: Path, below: bytes) -> Iterator[bytes]:
    """Paths of the files below a folder, relative to the one that was asked for."""
    try:
        found = list(os.scandir(os.fsencode(folder)))
    except OSError as error:
        raise RegistryInputError(
            f"{folder}: cannot be read ({error.strerror}): name the folder of the version, such as MODEL/1"
        ) from None
    for one in found:
        if one.name == _NOT_COUNTED:
            continue
        name = below + one.name
        path = folder / os.fsdecode(one.name)
        mode = one.stat(follow_symlinks=False).st_mode
        if b"\n" in one.name or b"\\" in one.name or b"\r" in one.name:
            raise RegistryInputError(f"{folder}: holds a file with a line end or backslash in its name: rename it")
        if stat.S_ISDIR(mode):
            yield from _names(path, name + b"/")
        elif stat.S_ISREG(mode):
            yield name
        else:
            raise RegistryInputError(f"{path}: a link or device, whose content lies elsewhere: put the file here")
