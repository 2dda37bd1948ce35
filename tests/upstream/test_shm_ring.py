"""The memory that workers share with model servers: pieces never overlap, come back, and outlive nobody."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from gateway.upstream import shm_ring
from gateway.upstream.shm_ring import PREFIX, Ring, sweep

PAGE = 4096
SIZE = 4 * 1024 * 1024
OTHER = (
    "import sys, pathlib; from gateway.upstream.shm_ring import Ring;"
    " ring = Ring(1 << 20, pathlib.Path(sys.argv[1])); view = ring.lease(5000);"
    " print(ring.name, flush=True); sys.stdin.read()"
)


@pytest.fixture(autouse=True)
def _room(monkeypatch):
    """These rings lie on whatever disk the tests have, full or not."""
    monkeypatch.setattr(shm_ring, "_KEPT_FREE", 1 << 30)


def files(place: Path) -> list[str]:
    return sorted(path.name for path in place.glob(PREFIX + "*"))


class Leases(RuleBasedStateMachine):
    """Leases of every size, held by themselves or by a view of them, against what was written into them."""

    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.ring = Ring(SIZE, Path(self.folder.name))
        self.written: dict[int, tuple[memoryview, int, int]] = {}  # by number: view, pages of its lease, its byte
        self.count = 0

    def teardown(self) -> None:
        self.ring.close()
        assert files(Path(self.folder.name)) == []
        self.folder.cleanup()

    @rule()
    def trim(self) -> None:
        self.ring.trim()
        blocks = (Path(self.folder.name) / self.ring.name).stat().st_blocks * 512
        assert blocks <= self.ring.allocated + PAGE  # the pages are gone, and none of them is leased

    @rule(target=held, size=st.integers(1, SIZE // 3) | st.integers(1, 5 * PAGE))
    def lease(self, size: int) -> int:
        view = self.ring.lease(size)
        if view is None:
            assert self.written, "nothing is leased, and there is no room"
            return -1
        assert len(view) == size
        offset = self.ring.offset_of(view)
        assert offset is not None
        assert offset % PAGE == 0
        self.count += 1
        view[:] = bytes([self.count % 251]) * size
        self.written[self.count] = (view, -(-size // PAGE) * PAGE, self.count % 251)
        return self.count

    @rule(number=consumes(held))
    def give_back(self, number: int) -> None:
        self.written.pop(number, None)

    @rule(number=held, at=st.floats(0, 0.9))
    def keep_a_part(self, number: int, at: float) -> None:
        """Whoever sends a part of it keeps all of it."""
        if number in self.written:
            view, pages, byte = self.written[number]
            start = int(len(view) * at)
            part = view[start:]
            assert self.ring.offset_of(part) == self.ring.offset_of(view) + start
            self.written[number] = (part, pages, byte)

    @invariant()
    def nothing_was_written_over(self) -> None:
        for view, _, byte in self.written.values():
            assert view.tobytes() == bytes([byte]) * len(view)

    @invariant()
    def what_is_leased_is_what_is_held(self) -> None:
        assert self.ring.leased == sum(pages for _, pages, _ in self.written.values())
        assert self.ring.leased <= self.ring.allocated <= self.ring.size


Leases.TestCase.settings = settings(max_examples=20, stateful_step_count=40, deadline=None)
TestLeases = Leases.TestCase


@pytest.fixture
def ring(tmp_path):
    made = Ring(SIZE, tmp_path)
    yield made
    made.close()


def test_when_all_is_given_back_all_can_be_leased_at_once(ring):
    views = [ring.lease(SIZE // 16) for _ in range(16)]
    assert all(view is not None for view in views)
    assert ring.lease(1) is None
    del views[1::2]
    assert ring.lease(SIZE // 4) is None  # it is in pieces
    views.clear()
    assert ring.lease(SIZE) is not None


def test_of_other_memory_there_is_no_offset(ring):
    assert ring.offset_of(b"x" * 100) is None
    assert ring.offset_of(memoryview(bytearray(100))) is None
    assert ring.offset_of(memoryview(b"")) is None


def test_pages_are_taken_as_they_are_needed(ring, tmp_path):
    assert ring.allocated == 0
    ring.lease(100)
    assert 0 < ring.allocated < SIZE
    assert (tmp_path / ring.name).stat().st_blocks * 512 >= ring.allocated


def test_views_outlive_the_file(tmp_path):
    ring = Ring(SIZE, tmp_path)
    view = ring.lease(10)
    view[:] = b"0123456789"
    ring.close()
    ring.close()
    assert ring.lease(10) is None
    assert files(tmp_path) == []
    gc.collect()
    assert bytes(view) == b"0123456789"


def test_a_full_file_system_is_no_error(tmp_path, monkeypatch):
    ring = Ring(SIZE, tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("os.posix_fallocate", full)
        assert ring.lease(1) is None
    assert ring.lease(1) is not None
    ring.close()


def test_what_a_killed_worker_left_is_removed_and_what_others_use_is_not(tmp_path):
    others = [
        subprocess.Popen([sys.executable, "-c", OTHER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    killed, lives = (other.stdout.readline().decode().strip() for other in others)
    own = Ring(SIZE, tmp_path)
    assert files(tmp_path) == sorted([killed, lives, own.name])
    others[0].send_signal(signal.SIGKILL)
    others[0].communicate()
    (tmp_path / (PREFIX + "folder")).mkdir()  # nothing of ours: it cannot even be opened
    sweep(tmp_path)
    assert files(tmp_path) == sorted([lives, own.name, PREFIX + "folder"])
    others[1].communicate()
    own.close()
