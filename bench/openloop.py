"""Open-loop load: requests are sent when their time has come, whether or not earlier ones were answered.

`python -m bench.openloop HOST:PORT RATE SECONDS [SEED]` asks the model `slow` at Poisson times and prints one
JSON array a request: its planned time in seconds, its latency in milliseconds from that time on, its status (0:
no answer). Latency counts from the plan, so a client that is late does not hide what its requests waited.
"""

import asyncio
import json
import random
import sys
import time
from typing import Self

MILLISECONDS = 20
"""What each request sleeps; the test model has two instances, so 100 a second are the most."""
PATH = "/v2/models/slow/infer"
PATIENCE = 20.0
"""Seconds after which a request counts as not answered."""


def request(host: str, headers: str = "") -> bytes:
    """The whole request as bytes; `headers` are whole lines."""
    body = b'{"inputs":[{"name":"MILLISECONDS","shape":[1,1],"datatype":"INT32","data":[%d]}]}' % MILLISECONDS
    head = f"POST {PATH} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


class Client:
    """Kept-alive connections, as many as requests are under way."""

    def __init__(self, address: str, message: bytes) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._message = message
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._open: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close every connection and see it closed, before the event loop ends."""
        writers, self._open = self._open, set()
        for writer in writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)

    async def ask(self) -> int:
        """One request; its status."""
        if self._idle:
            reader, writer = self._idle.pop()
        else:
            reader, writer = await asyncio.open_connection(self._host, self._port)
            self._open.add(writer)
        try:
            writer.write(self._message)
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(length)
        except BaseException:
            writer.close()
            raise
        self._idle.append((reader, writer))
        return int(head.split(b" ", 2)[1])


async def closed(address: str, clients: int, seconds: float) -> float:
    """Answers a second when so many clients each wait for theirs."""
    answers = 0
    until = time.perf_counter() + seconds

    async def one(client: Client) -> None:
        nonlocal answers
        while time.perf_counter() < until:
            status = await client.ask()  # not within the sum: `answers` would be read before the wait
            answers += status == 200

    async with Client(address, request(address)) as client:
        await asyncio.gather(*(one(client) for _ in range(clients)))
    return answers / seconds


async def run(address: str, rate: float, seconds: float, seed: int = 1, headers: str = "") -> list[list[float]]:
    """`[planned, milliseconds, status]` of each request; `rate` a second."""
    rng = random.Random(seed)  # noqa: S311 - arrival times
    began = time.perf_counter()
    found: list[list[float]] = []

    async def one(planned: float) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                status = await client.ask()
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            status = 0
        found.append([round(planned, 4), round((time.perf_counter() - began - planned) * 1000, 3), status])

    planned = rng.expovariate(rate)
    async with Client(address, request(address, headers)) as client, asyncio.TaskGroup() as tasks:
        while planned < seconds:
            await asyncio.sleep(began + planned - time.perf_counter())
            tasks.create_task(one(planned))
            planned += rng.expovariate(rate)
    return sorted(found)


def main() -> int:
    """As the module says."""
    address, rate, seconds, *seed = sys.argv[1:]
    found = asyncio.run(run(address, float(rate), float(seconds), int(seed[0]) if seed else 1))
    json.dump(found, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
