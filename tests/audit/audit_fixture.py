"""Small audit logs for tests."""

import asyncio
import json

from independent import read_log

from governance.audit.layout import Layout
from governance.audit.log import AuditLog
from governance.audit.record import Record
from governance.audit.secrets import publish_vkeys, signing_keys
from governance.audit.segments import Segment
from governance.audit.sequencer import Sequencer
from governance.audit.tiles import bundle


def a_record(number=0, **more):
    fields = {
        "kind": "inference",
        "outcome": "served",
        "action": "infer",
        "id": f"request-{number}",
        "model": "income",
        "object": "model:income",
        "subject": "user:alice",
        "tenant": "acme",
        "status": "200",
        "latency_us": 1234,
        **more,
    }
    return Record(**fields)


def sequencer(state_dir, origin="example.com/audit"):
    """One that holds the lock, with keys."""
    layout = Layout(state_dir)
    layout.make_private()
    signers = signing_keys(layout, origin)
    publish_vkeys(layout, signers)
    made = Sequencer(layout, signers)
    assert made.acquire()
    made.load()
    return made


def write_segment(state_dir, entries, seal=True):
    """What a writer leaves behind."""
    segment = Segment.create(Layout(state_dir).wal)
    segment.append(bundle(entries))
    segment.sync()
    segment.seal() if seal else segment.abandon()
    return segment.path


def a_log(state_dir, entries, steps=1, origin="example.com/audit"):
    """A log of these entries, taken in so many steps; its folder."""
    made = sequencer(state_dir, origin)
    size = max(1, -(-len(entries) // steps))
    for at in range(0, len(entries), size):
        write_segment(state_dir, entries[at : at + size])
        made.integrate()
    made.release()
    return Layout(state_dir).log


def entries_of(state_dir):
    """Every entry, as the independent verifier reads them."""
    layout = Layout(state_dir)
    return read_log(layout.log, layout.vkey.read_text())


def records_of(state_dir):
    return [json.loads(entry) for entry in entries_of(state_dir)]


def record_all(state_dir, records, mode="strict", bodies=None, **options):
    """Records written through the log that the gateway uses."""

    async def go():
        log = await asyncio.to_thread(lambda: AuditLog(state_dir, mode=mode, **options))
        try:
            waits = [log.record(record, *(bodies[number] if bodies else ())) for number, record in enumerate(records)]
            for wait in waits:
                if wait is not None:
                    await wait
        finally:
            await asyncio.to_thread(log.close)
        return log

    return asyncio.run(go())
