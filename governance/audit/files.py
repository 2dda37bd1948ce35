"""Files that are there after a crash, whole or not at all.

Contract: `replace` returns when the new content would survive a loss of power: the file was written aside,
synced, renamed over the old one, and the folder synced. What a crash leaves aside ends in `.tmp` and means
nothing. Files of the log are for owner and group (a record may name a person); private ones are 0600 and refused
when others may read them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from governance.errors import AuditInputError

ASIDE = ".tmp"


def sync_folder(path: Path) -> None:
    """Make what was created, renamed or removed in a folder durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path, mode: int = 0o750) -> None:
    """Create a folder and those above it, durably. Raises OSError."""
    if path.is_dir():
        return
    make_folder(path.parent, mode)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode)
    sync_folder(path.parent)


def write_all(descriptor: int, content: bytes | memoryview) -> None:
    """Write every byte: write(2) may take fewer, on a disk that is nearly full. Raises OSError."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _write_aside(aside: str, content: bytes, mode: int) -> int:
    """Write the content beside `path`; the descriptor, not synced yet. Raises OSError."""
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        write_all(descriptor, content)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _aside(path: Path) -> str:
    return f"{path}{ASIDE}"


def replace(path: Path, content: bytes, mode: int = 0o640, *, alone: bool = True) -> None:
    """Put the content at `path`, durably; not `alone`: other processes may do the same now. Raises OSError."""
    aside = _aside(path) if alone else f"{path}.{os.getpid()}{ASIDE}"
    descriptor = _write_aside(aside, content, mode)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(aside, path)  # noqa: PTH104  as everywhere here: one call that tests can count
    sync_folder(path.parent)


def replace_many(contents: Iterable[tuple[Path, bytes]]) -> None:
    """Like `replace` for each, in an order of which nothing is promised until it returns. Raises OSError."""
    with contextlib.ExitStack() as stack:
        written = []
        for path, content in contents:
            make_folder(path.parent)
            descriptor = _write_aside(_aside(path), content, 0o640)
            stack.callback(os.close, descriptor)
            written.append((path, descriptor))
        # All are written before the first is synced: the file system then commits them together.
        for _, descriptor in written:
            os.fsync(descriptor)
        for path, _ in written:
            os.rename(_aside(path), path)  # noqa: PTH104
    for folder in {path.parent: None for path, _ in written}:
        sync_folder(folder)


def create_private(path: Path, content: bytes) -> bool:
    """Create a file that only its owner may read, durably; False when there is one already. Raises OSError."""
    aside = path.with_name(f"{path.name}.{os.getpid()}{ASIDE}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        write_all(descriptor, content)
        os.fsync(descriptor)
        path.hardlink_to(aside)  # unlike a rename it never replaces
    except FileExistsError:
        return False
    finally:
        os.close(descriptor)
        aside.unlink()
    sync_folder(path.parent)
    return True


def read_private(path: Path, *, public: bool = False) -> bytes:
    """The content of a file that holds a secret.

    Args:
        path: the file.
        public: it holds none, so that anyone may read it.

    Raises:
        AuditInputError: it cannot be read, or others may read it.
    """
    try:
        with path.open("rb") as stream:
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            content = stream.read()
    except OSError as error:
        raise AuditInputError(f"{path}: cannot be read ({error.strerror}): check the path and its rights") from None
    if mode & 0o077 and not public:
        raise AuditInputError(f"{path}: others may read it (mode {mode:04o}): `chmod 600 {path}`")
    return content


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of `path` (flock(2)), and wait until nobody else does. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def try_lock(path: Path) -> int | None:
    """The descriptor that holds the lock of `path` (flock(2)) until it is closed; None: another process does.

    Raises:
        OSError: the file cannot be opened.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
