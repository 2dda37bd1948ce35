"""Connections by door, as the kernel tells them: real sockets, and tables as other kernels print them."""

from __future__ import annotations

import socket

import pytest

from gateway.metrics.connections import connections

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
TAIL = "00000000:00000000 00:00000000 00000000  1000        0"


def row(own: str, state: str, inode: int) -> str:
    return f"   0: {own} 0100007F:C350 {state} {TAIL} {inode} 1 0000000000000000 20 4 30 10 -1\n"


@pytest.mark.parametrize(
    ("address", "own", "state", "inode", "count"),
    [
        ("127.0.0.1:8081", "0100007F:1F91", "01", 7, 1),
        ("127.0.0.1:8081", "0100007F:1F91", "08", 7, 1),  # the client has closed, we have not
        ("127.0.0.1:8081", "0100007F:1F91", "0A", 7, 0),  # listens
        ("127.0.0.1:8081", "0100007F:1F91", "01", 0, 0),  # waits to be accepted
        ("127.0.0.1:8081", "0100007F:1F91", "06", 0, 0),  # TIME_WAIT
        ("127.0.0.1:8081", "0100007F:1F90", "01", 7, 0),  # another port
        ("127.0.0.1:8081", "0200007F:1F91", "01", 7, 0),  # another address
        ("0.0.0.0:8081", "0200007F:1F91", "01", 7, 1),
        ("[::]:8081", "0000000000000000FFFF00000200007F:1F91", "01", 7, 1),
        ("127.0.0.1:8081", "0000000000000000FFFF00000100007F:1F91", "01", 7, 1),  # gRPC's listener
        ("[::1]:8081", "00000000000000000000000001000000:1F91", "01", 7, 1),
        ("[::1]:8081", "0000000000000000FFFF00000100007F:1F91", "01", 7, 0),
    ],
)
def test_rows(tmp_path, address, own, state, inode, count):
    table = tmp_path / "tcp"
    table.write_text(HEAD + row(own, state, inode))
    assert connections({"grpc": address}, (table, tmp_path / "tcp6")) == {"grpc": count}


def test_without_tables_nothing_is_claimed(tmp_path):
    assert connections({"http": "127.0.0.1:80"}, (tmp_path / "tcp",)) == {}


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_real_ones(host):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        try:
            listener.bind((host, 0))
        except OSError:
            pytest.skip(f"this machine has no {host}")
        listener.listen()
        port = listener.getsockname()[1]
        doors = {"http": f"[{host}]:{port}" if ":" in host else f"{host}:{port}"}
        with socket.create_connection((host, port)):
            assert connections(doors) == {"http": 0}  # nobody has accepted it
            accepted, _ = listener.accept()
            with accepted:
                assert connections(doors) == {"http": 1}
        assert connections(doors) == {"http": 0}
