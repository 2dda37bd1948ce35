"""A model server made of bytes, in a thread: says it is ready and what `slow` takes, and does as told for the rest."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "upstream"))
from raw_server import Peer, RawServer, Request, serving

PAGES = {
    b"GET /v2/health/ready ": b"",
    b"GET /v2 ": b'{"name":"triton","version":"2.51.0","extensions":["binary_tensor_data"]}',
    b"GET /v2/models/slow ": b'{"name":"slow","versions":["1"],"platform":"python","inputs":'
    b'[{"name":"MILLISECONDS","datatype":"INT32","shape":[-1,1]}],"outputs":'
    b'[{"name":"SLEPT","datatype":"INT32","shape":[-1,1]}]}',
    b"GET /v2/models/slow/config ": b'{"name":"slow","max_batch_size":1}',
}

Rest = Callable[[Peer, Request, RawServer], Awaitable[None]]


@contextmanager
def raw_upstream(rest: Rest) -> Iterator[RawServer]:
    """Runs for the length of a with block; `rest` answers every request that is for none of `PAGES`."""

    async def script(peer: Peer, state: RawServer) -> None:
        while True:
            request = await peer.request()
            page = next((page for line, page in PAGES.items() if request.line.startswith(line)), None)
            if page is None:
                state.requests.append(request)
                await rest(peer, request, state)
            else:
                await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(page), page))

    started, loop, stop = threading.Event(), asyncio.new_event_loop(), asyncio.Event()
    servers: list[RawServer] = []

    async def serve() -> None:
        async with serving(script) as server:
            servers.append(server)
            started.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert started.wait(60)
    try:
        yield servers[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(60)
        loop.close()
