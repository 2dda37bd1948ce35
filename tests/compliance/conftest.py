"""Small audit logs are made as the tests of the log make them, and lie in memory where they can."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "audit"))
_MEMORY = "/dev/shm"


@pytest.fixture
def tmp_path():
    memory = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="tidegate-compliance-", dir=memory))
    yield folder
    shutil.rmtree(folder)
