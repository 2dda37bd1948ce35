"""Logs of tests lie in memory where they can: each is synced a hundred times, and a disk would be what is tested."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

_MEMORY = "/dev/shm"


def _folder():
    return Path(tempfile.mkdtemp(prefix="tidegate-audit-", dir=_MEMORY if os.access(_MEMORY, os.W_OK) else None))


@pytest.fixture
def tmp_path():
    folder = _folder()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def session_path():
    folder = _folder()
    yield folder
    shutil.rmtree(folder)
