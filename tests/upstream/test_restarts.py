"""A server that is started again between two looks, and one that is only slow to answer one: they are told apart."""

from __future__ import annotations

import asyncio

import pytest
from raw_server import Peer, RawServer, serving

from gateway import settings
from gateway.upstream import Upstream

PAGES = {
    b"/v2": b'{"name":"%b","version":"2.51.0","extensions":[]}',
    b"/v2/repository/index": b'[{"name":"m","version":"1","state":"READY"}]',
}


class Server:
    """Answers looks; each connection ends when `ended` is set, as those of a process do."""

    def __init__(self, name: bytes = b"triton") -> None:
        self.name = name
        self.ended = asyncio.Event()
        self.late = 0.0
        self.breaks_at = b""
        """A page instead of which the connection ends."""
        self.broken = 0

    async def __call__(self, peer: Peer, _state: RawServer) -> None:
        answering = asyncio.create_task(self._answer(peer))
        ended = asyncio.create_task(self.ended.wait())
        await asyncio.wait({answering, ended}, return_when=asyncio.FIRST_COMPLETED)
        for task in (answering, ended):
            task.cancel()
        await asyncio.gather(answering, ended, return_exceptions=True)

    async def _answer(self, peer: Peer) -> None:
        while True:
            request = await peer.request()
            target = request.line.split(b" ")[1]
            if target == b"/v2/health/ready":
                await asyncio.sleep(self.late)
            if target == self.breaks_at:
                self.broken += 1
                return
            body = PAGES.get(target, b"")
            if target == b"/v2":
                body %= self.name
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    def restart(self) -> None:
        """Its connections end; it accepts new ones at once."""
        self.ended.set()
        self.ended = asyncio.Event()


async def until(condition) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - what is waited for sets no event
            await asyncio.sleep(0.005)


def test_one_that_goes_between_two_pages_of_a_look_is_looked_at_again(run, events, caplog):
    async def main() -> None:
        server, other = Server(), Server()
        async with serving(server) as first, serving(other) as second:
            up = Upstream(
                "up",
                settings.Upstream(
                    replicas=tuple(settings.ReplicaAddress(http=f"127.0.0.1:{one.port}") for one in (first, second)),
                    health=settings.Health(interval=0.05, timeout=5, warmup=0),
                ),
                counters=events,
            )
            await up.start()
            await until(lambda: all(replica.usable for replica in up.replicas))
            server.breaks_at = b"/v2/repository/index"
            await until(lambda: server.broken > 3)
            server.breaks_at = b""
            await until(lambda: all(replica.usable for replica in up.replicas))
            await up.close()

    run(main())
    assert "a defect" not in caplog.text


@pytest.mark.parametrize(("name", "falls"), [(b"triton", True), (b"other", False)])
def test_it_is_down_in_the_moment_its_process_ends(run, events, name, falls):
    """The next look is a minute away: what is there now must be checked before it gets a call."""

    async def main() -> None:
        server = Server(name)
        async with serving(server) as state:
            health = settings.Health(interval=60, timeout=5, warmup=0)
            up = Upstream("up", settings.Upstream(http=f"127.0.0.1:{state.port}", health=health), counters=events)
            restored: list[int] = []

            async def restore(replica) -> None:
                assert not replica.usable
                restored.append(replica.life)

            up.restore_with(restore)
            await up.start()
            (replica,) = up.replicas
            life, fell = replica.life, asyncio.Event()
            replica.listeners.append(lambda: replica.usable or fell.set())
            peers = len(state.peers)
            server.restart()
            await until(lambda: len(state.peers) > peers)
            await until(lambda: replica.usable)
            assert fell.is_set() == falls
            assert (replica.life != life) == falls
            assert restored == ([life, replica.life] if falls else [life])
            assert events["replica_down"] == falls
            await up.close()

    run(main())


def test_a_look_that_is_late_is_no_restart(run, events):
    """Its connection is closed by the gateway, and the next look opens one: the sequences there must not end."""

    async def main() -> None:
        server = Server()
        async with serving(server) as state:
            health = settings.Health(interval=0.05, timeout=0.3, unhealthy_after=50, warmup=0)
            up = Upstream("up", settings.Upstream(http=f"127.0.0.1:{state.port}", health=health), counters=events)
            await up.start()
            (replica,) = up.replicas
            life = replica.life
            for _ in range(2):
                failed = events["probe_failed"]
                server.late = 20.0
                await until(lambda failed=failed: events["probe_failed"] > failed)
                server.late = 0.0
                peers = len(state.peers)
                await until(lambda peers=peers: len(state.peers) > peers)
                await asyncio.sleep(0.2)
            assert replica.life == life
            assert events["replica_down"] == 0
            await up.close()

    run(main())
