"""A verifier of tlog-tiles logs, written from the specifications alone: it shares no line with what it judges.

C2SP signed-note, tlog-checkpoint, tlog-tiles; RFC 6962, section 2.1. Also a program: `independent.py DIR VKEY-FILE`.
"""

import base64
import hashlib
import struct
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def sha256(data):
    return hashlib.sha256(data).digest()


def mth(leaves):
    """RFC 6962, section 2.1, bottom up: an odd last node goes up as it is."""
    row = list(leaves)
    if not row:
        return sha256(b"")
    while len(row) > 1:
        row = [
            sha256(b"\x01" + b"".join(row[i : i + 2])) if i + 1 < len(row) else row[i] for i in range(0, len(row), 2)
        ]
    return row[0]


def checkpoint(note, vkey):
    """Origin, size and root of a note that the key has signed."""
    name, key_hex, key64 = vkey.strip().split("+", 2)
    kind_and_key = base64.b64decode(key64)
    assert kind_and_key[0] == 1
    assert sha256(name.encode() + b"\n" + kind_and_key)[:4].hex() == key_hex
    text, _, signatures = note.decode().rpartition("\n\n")
    text += "\n"
    signed = False
    for line in signatures.splitlines():
        dash, signer, data64 = line.split(" ")
        data = base64.b64decode(data64)
        assert dash == "\u2014"
        if signer == name and data[:4].hex() == key_hex:
            Ed25519PublicKey.from_public_bytes(kind_and_key[1:]).verify(data[4:], text.encode())
            signed = True
    assert signed, "no signature of the key"
    origin, size, root = text.splitlines()[:3]
    assert str(int(size)) == size
    return origin, int(size), base64.b64decode(root)


def cosigned_at(note, vkey):
    """When the witness of that key cosigned a note (C2SP tlog-cosignature, Ed25519); AssertionError: it did not."""
    name, key_hex, key64 = vkey.strip().split("+", 2)
    kind_and_key = base64.b64decode(key64)
    assert kind_and_key[0] == 4
    assert sha256(name.encode() + b"\n" + kind_and_key)[:4].hex() == key_hex
    text, _, signatures = note.decode().rpartition("\n\n")
    for line in signatures.splitlines():
        _, signer, data64 = line.split(" ")
        data = base64.b64decode(data64)
        if signer == name and data[:4].hex() == key_hex:
            (when,) = struct.unpack(">Q", data[4:12])
            message = f"cosignature/v1\ntime {when}\n{text}\n".encode()
            Ed25519PublicKey.from_public_bytes(kind_and_key[1:]).verify(data[12:], message)
            return when
    raise AssertionError("not cosigned")


def path_of(n):
    text = f"{n % 1000:03d}"
    while n >= 1000:
        n //= 1000
        text = f"x{n % 1000:03d}/{text}"
    return text


def from_folder(folder):
    """Reads paths below a folder; None: there is no such file."""

    def read(path):
        file = Path(folder) / path
        return file.read_bytes() if file.exists() else None

    return read


def tile(read, kind, n, width):
    full = f"tile/{kind}/{path_of(n)}"
    found = read(f"{full}.p/{width}") if width < 256 else None
    if found is None:
        found = read(full)
    assert found is not None, full
    return found


def read_log(folder, vkey):
    """Every entry of the log in a folder, all of its tiles checked; AssertionError where something does not hold."""
    return read_with(from_folder(folder), vkey)


def read_with(read, vkey):
    """The same, of a log that is read by the paths of its files."""
    origin, size, root = checkpoint(read("checkpoint"), vkey)
    assert origin == vkey.split("+")[0]
    entries = []
    for n in range((size + 255) // 256):
        width = min(256, size - 256 * n)
        data, found = tile(read, "entries", n, width), []
        while data:
            (length,) = struct.unpack(">H", data[:2])
            assert len(data) >= 2 + length
            found.append(data[2 : 2 + length])
            data = data[2 + length :]
        assert len(found) >= width
        entries += found[:width]
    level, row = 0, [sha256(b"\x00" + entry) for entry in entries]
    assert mth(row) == root, "the entries are not those of the root"
    while row:
        for n in range((len(row) + 255) // 256):
            part = row[256 * n : 256 * (n + 1)]
            assert tile(read, str(level), n, len(part))[: 32 * len(part)] == b"".join(part), (level, n)
        row = [mth(row[i : i + 256]) for i in range(0, len(row) - 255, 256)]
        level += 1
    return entries


if __name__ == "__main__":
    print(len(read_log(sys.argv[1], Path(sys.argv[2]).read_text())))
