"""What is left on a disk when the power fails: a model of what fsync(2) promises, fed by the calls of a real run.

A file's content is durable as of its last sync; a name in a folder as of the last sync of that folder. All the
rest may be lost, or not: two extremes are told after each call, one in which nothing that was not synced is left, and
one in which every name is there and the contents are not.
"""

import contextlib
import os
from pathlib import Path

_NAMES = ("open", "write", "fsync", "fdatasync", "rename", "unlink", "link", "mkdir", "ftruncate", "rmdir")
FOLDER = object()


def _parent(path):
    return path.rpartition("/")[0]


class _File:
    def __init__(self) -> None:
        self.data = self.durable = b""


class Disk:
    """Below one folder. `snapshots` has, after each call, both extremes as `{path: content}`."""

    def __init__(self, root) -> None:
        self.root = str(root)
        self.names, self.durable = {}, {}
        self.files = {}  # by descriptor
        self.snapshots = []

    def _inside(self, path, dir_fd=None):
        path = os.fspath(path)
        if dir_fd is not None:
            path = f"{Path(f'/proc/self/fd/{dir_fd}').readlink()}/{path}"
        return path if path.startswith(self.root) else None

    def _told(self):
        extremes = []
        for names in (self.durable, self.names):
            seen = {}
            for path, file in names.items():
                parent = _parent(path)
                if parent == self.root or names.get(parent) is FOLDER:
                    seen[path] = None if file is FOLDER else file.durable
            extremes.append(seen)
        self.snapshots.append(extremes)

    def open(self, fd, path, flags=0, mode=0, dir_fd=None):
        path = self._inside(path, dir_fd)
        if path is None:
            return
        if Path(path).is_dir():
            self.files[fd] = path
            return
        file = self.names.get(path)
        if file is None:
            file = self.names[path] = _File()
        if flags & os.O_TRUNC:
            file.data = b""
        self.files[fd] = file

    def write(self, count, fd, data):
        if isinstance(self.files.get(fd), _File):
            self.files[fd].data += bytes(data)[:count]

    def ftruncate(self, _, fd, length):
        if isinstance(self.files.get(fd), _File):
            self.files[fd].data = self.files[fd].data[:length]

    def fsync(self, _, fd):
        at = self.files.get(fd)
        if isinstance(at, _File):
            at.durable = at.data
        elif at is not None:
            inside = {path: file for path, file in self.names.items() if _parent(path) == at}
            self.durable = {path: file for path, file in self.durable.items() if _parent(path) != at} | inside

    fdatasync = fsync

    def rename(self, _, source, target):
        self.names[self._inside(target)] = self.names.pop(self._inside(source))

    def link(self, _, source, target, **more):
        self.names[self._inside(target)] = self.names[self._inside(source)]

    def unlink(self, _, path, *, dir_fd=None):
        self.names.pop(self._inside(path, dir_fd), None)

    rmdir = unlink

    def mkdir(self, _, path, *more, **options):
        self.names[self._inside(path)] = FOLDER


@contextlib.contextmanager
def recorded(root):
    """Every call that reaches the disk, made and recorded."""
    disk = Disk(root)
    real = {name: getattr(os, name) for name in _NAMES}

    def wrap(name):
        def call(*args, **kwargs):
            result = real[name](*args, **kwargs)
            getattr(disk, name)(result, *args, **kwargs)
            if name != "open":
                disk._told()
            return result

        setattr(os, name, call)

    for name in _NAMES:
        wrap(name)
    try:
        yield disk
    finally:
        for name, function in real.items():
            setattr(os, name, function)


def restore(snapshot, old, new):
    """A snapshot as files below another folder."""
    for path, content in sorted(snapshot.items()):
        target = str(new) + path[len(str(old)) :]
        if content is None:
            Path(target).mkdir(0o700, parents=True, exist_ok=True)
        else:
            with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as stream:
                stream.write(content)
