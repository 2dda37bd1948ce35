"""A process that writes an audit log and dies at the Nth step that reaches the disk.

Every write, sync, rename, truncation and removal counts. `how`: `before` or `after` the step, or `torn`: half of a
write. What was acknowledged goes to a pipe, one id a line, by calls that are not counted.
"""

import os
import signal
import traceback

from audit_fixture import a_record, sequencer

from governance.audit.layout import Layout
from governance.audit.log import Pending, Scribe
from governance.audit.people import Named
from governance.audit.segments import Segment
from governance.audit.tiles import bundle

_write = os.write
GROUP = 70
"""Records in a group: the fourth fills a bundle, so that full tiles are made and partial ones removed."""


def count_steps(kill_at, how):
    steps = [0]

    def wrap(name):
        real = getattr(os, name)

        def step(*args, **kwargs):
            steps[0] += 1
            if steps[0] == kill_at:
                if how == "torn" and name == "write":
                    real(args[0], bytes(args[1])[: len(args[1]) // 2])
                elif how == "after":
                    real(*args, **kwargs)
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        setattr(os, name, step)

    for name in ("write", "fsync", "fdatasync", "rename", "unlink", "link", "mkdir", "ftruncate", "rmdir"):
        wrap(name)
    return steps


def write_log(state_dir, prefix, rounds, acknowledge):
    """A writer and a sequencer in turn; `acknowledge` is told the ids of each group that is on the disk."""
    made = sequencer(state_dir)
    scribe = Scribe(Named(bytes(32)))
    number = 0
    for _ in range(rounds):
        segment = Segment.create(Layout(state_dir).wal)
        for _ in range(2):
            ids = [f"{prefix}-{number + i}" for i in range(GROUP)]
            number += GROUP
            segment.append(bundle(scribe.entries([Pending(a_record(id=i), 0, None, None, 0, None) for i in ids])))
            segment.sync()
            acknowledge(ids)
            made.integrate()
        segment.seal()
        made.integrate()


def run(state_dir, prefix, rounds, kill_at=0, how="before"):
    """What the process acknowledged, and the steps that it took (None: it was killed)."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            steps = count_steps(kill_at, how)
            write_log(state_dir, prefix, rounds, lambda ids: _write(writer, "".join(i + "\n" for i in ids).encode()))
            _write(writer, f"steps {steps[0]}\n".encode())
        except BaseException:  # noqa: BLE001  it must not come back into the test
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        lines = stream.read().splitlines()
    _, status = os.waitpid(child, 0)
    if lines and lines[-1].startswith("steps "):
        return lines[:-1], int(lines[-1].split()[1])
    assert os.WIFSIGNALED(status), "it failed by itself"
    return lines, None
