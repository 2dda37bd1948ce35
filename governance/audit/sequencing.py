"""The thread that is the sequencer of a state directory, or waits to become it.

Contract: of all processes that have one, one is the sequencer, by a file lock; the others look each second whether
it still is. In a gateway that is the supervisor, whose thread no request waits for: a step is some 3 ms of Python and
7 us more a record, during which an event loop of the same process would get the interpreter only by turns of 5 ms. A
worker stands by: for what the supervisor cannot begin, it says so or takes its place.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from pathlib import Path

from governance.audit.files import replace
from governance.audit.layout import Layout
from governance.audit.secrets import publish_vkeys, signing_keys
from governance.audit.sequencer import Sequencer
from governance.errors import AuditBroken

_log = logging.getLogger("tidegate.audit")

INTERVAL_S = 1.0
"""Between two steps of the sequencer: each costs some ten fsyncs, and a record is to be public within 15 s."""
_HANDOVER_S = 2.0
"""How long a closing process waits for a sequencer that is closing too."""
_FIRST_S = 10.0


def sequencing_of(state_dir: Path, origin: str = "") -> Sequencing:
    """The sequencing of a state directory, begun: keys, vkey and a checkpoint are there. Blocks.

    Raises:
        AuditInputError: a key file cannot be used.
        AuditBroken: the log's files contradict each other.
        OSError: the folder cannot be written.
    """
    layout = Layout(state_dir)
    layout.make_private()
    signers = signing_keys(layout, origin)
    publish_vkeys(layout, signers)
    made = Sequencing(Sequencer(layout, signers), layout)
    made.start()
    return made


class Sequencing:
    """The thread that is the sequencer, or waits to become it.

    Args:
        sequencer: not the sequencer yet.
        layout: its files.
        standby: the parent process is the sequencer as long as it lives.
    """

    def __init__(self, sequencer: Sequencer, layout: Layout, *, standby: bool = False) -> None:
        self._sequencer = sequencer
        self._layout = layout
        self._parent = os.getppid() if standby else None
        self._closing = threading.Event()
        self.broken = ""
        """Why the log was stopped, by this process or another; empty: it was not."""
        self._trouble = ""
        self._thread = threading.Thread(target=self._run, name="audit-sequencer", daemon=True)

    def start(self) -> None:
        """Make sure that there is a checkpoint, then run on. Raises AuditBroken, OSError."""
        if self._sequencer.acquire():
            try:
                with contextlib.suppress(FileNotFoundError):
                    self._layout.broken.unlink()  # whoever starts has looked, or is told again at once
                self._sequencer.load()
            except BaseException:
                self._sequencer.release()
                raise
        else:
            end = time.monotonic() + _FIRST_S
            while not self._layout.checkpoint.exists():
                if time.monotonic() > end:
                    raise AuditBroken(f"{self._layout.checkpoint}: another process holds the log and makes none")
                time.sleep(0.02)
        self._thread.start()

    def close(self) -> None:
        """Make public what is written, unless another process will. Blocks."""
        self._closing.set()
        self._thread.join()
        # Without one nothing is equal to it: the first process of a container has a parent of number 0.
        end = time.monotonic() + (0.0 if self._parent == os.getppid() else _HANDOVER_S)
        while not self.broken and not self._step() and time.monotonic() < end:
            time.sleep(0.05)
        self._sequencer.release()

    def _run(self) -> None:
        while not self._closing.wait(INTERVAL_S):
            self._step()

    def _step(self) -> bool:
        """Integrate, if this is or can be the sequencer; whether it did."""
        try:
            if not self._sequencer.acquire():
                with contextlib.suppress(FileNotFoundError):
                    self.broken = self._layout.broken.read_text()
                return False
            if self.broken:
                return False
            self._sequencer.integrate()
            while self._sequencer.behind:
                self._sequencer.integrate()
        except AuditBroken as error:
            self._stop(str(error))
            return False
        except OSError as error:
            if self._trouble != str(error):
                _log.error("the audit log waits: %s", error)
            self._trouble = str(error)
            return False
        if self._trouble:
            _log.warning("the audit log goes on")
        self._trouble = ""
        return True

    def _stop(self, reason: str) -> None:
        _log.critical("the audit log is stopped: %s", reason)
        self.broken = reason
        with contextlib.suppress(OSError):  # the other processes then find it out when they hold the lock
            replace(self._layout.broken, reason.encode(), 0o600)
