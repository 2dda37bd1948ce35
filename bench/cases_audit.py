"""The audit log's part in a request, and a process that writes records as fast as it can.

    python -m bench.cases_audit STATE_DIR COUNT MODE

writes COUNT records into the log of STATE_DIR, as a worker would that does nothing else, and prints what it took.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, cast

from bench.counted import Suite
from bench.load import HTTP_BODY, MODEL, TENSOR
from governance.audit.log import AuditLog
from governance.audit.record import Record
from governance.errors import AuditUnavailable

NAMED, KEYED, SEALED = "names", "pseudonyms", "erasable pseudonyms"
_BODY = [HTTP_BODY]
_ANSWER = [b'{"model_name":"identity_fp32","model_version":"1"}', TENSOR]
_HASH = "9f" * 32
_AT_ONCE = 64
"""Records between two looks at the loop: as many requests come in one turn of it under load."""


def a_record() -> Record:
    """What the gateway hands over for the load of the suite."""
    return Record(
        kind="inference",
        outcome="served",
        action="infer",
        allowed=True,
        id="6f1ed002ab5595859014ebf0951522d9",
        latency_us=412,
        model=MODEL,
        object=f"model:{MODEL}",
        policy=_HASH,
        roles=[],
        rule=1000,
        snapshot=_HASH,
        status="200",
        subject="user:bench",
        tenant="acme",
        upstream="triton",
        variant="champion",
        version="1",
    )


def cost(folder: Path) -> Suite:
    """`record` on the caller's thread: its entry is made, with both digests, and queued."""

    def make(name: str, *, erasure: bool = False, pseudonyms: bool = False) -> Callable[[], Callable[[], object]]:
        def ready() -> Callable[[], object]:
            log = AuditLog(folder / name, mode="async", erasure=erasure, pseudonyms=pseudonyms, origin="bench")

            def call() -> None:
                log.record(a_record(), _BODY, _ANSWER)

            call()  # from here on the subject is at hand
            while not log.recorded:
                time.sleep(0.01)
            return call

        return ready

    return {
        NAMED: make("named"),
        KEYED: make("keyed", pseudonyms=True),
        SEALED: make("sealed", erasure=True),
    }


async def write(state_dir: Path, count: int, mode: Literal["async", "strict"]) -> dict[str, float]:
    """So many records, the log closed and everything public behind them: seconds, and CPU seconds."""
    log = await asyncio.to_thread(lambda: AuditLog(state_dir, mode=mode, origin="bench"))
    began, cpu = time.perf_counter(), time.process_time()
    done = 0
    while done < count:
        waits = []
        try:
            while done < count and len(waits) < _AT_ONCE:
                waits.append(log.record(a_record(), _BODY, _ANSWER))
                done += 1
        except AuditUnavailable:
            await asyncio.sleep(0.005)  # the queue is full
        strict = [wait for wait in waits if wait is not None]
        await (asyncio.gather(*strict) if strict else asyncio.sleep(0))
    await asyncio.to_thread(log.close)
    return {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}


if __name__ == "__main__":
    folder, number, chosen = sys.argv[1:]
    found = asyncio.run(write(Path(folder), int(number), cast('Literal["async", "strict"]', chosen)))
    print(json.dumps(found))
