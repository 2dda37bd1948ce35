"""Attacks on the HTTP door: framing, floods, slowness, bodies."""

from __future__ import annotations

import contextlib
import gzip
import json
import ssl
import threading
import time
import zlib
from collections.abc import Callable

from hostile_site import BODY_LIMIT, CONNECTIONS, GOOD, PATH, TENSORS, Case, Site, pieces, read_all, sent, statuses

START = b"POST %b HTTP/1.1\r\n" % PATH.encode()
HOST = b"Host: gateway\r\n"
HEAD = START + HOST
CHUNKED = b"Transfer-Encoding: chunked\r\n"
END = b"0\r\n\r\n"
SMUGGLED = b"GET /v2/health/live HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n"
MIB = 1024 * 1024
GOOD_FIRST = b"GET /v2/health/live HTTP/1.1\r\nHost: g\r\n\r\n"


def head(*lines: bytes, body: bytes = b"") -> bytes:
    return HEAD + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


def framed(name: str, data: bytes, *expect: str) -> Case:
    return Case(name, sent(data), expect or ("400",))


# What comes behind the broken request must never be served: one answer, and the connection closes.
FRAMING = [
    framed(
        "Content-Length and Transfer-Encoding",
        head(b"Content-Length: 6", b"Transfer-Encoding: chunked", body=END + b"G" + SMUGGLED),
    ),
    framed(
        "Transfer-Encoding and Content-Length",
        head(b"Transfer-Encoding: chunked", b"Content-Length: 6", body=END + b"G" + SMUGGLED),
    ),
    framed("Transfer-Encoding: gzip, chunked", head(b"Transfer-Encoding: gzip, chunked", body=END + SMUGGLED)),
    framed("Transfer-Encoding: xchunked", head(b"Transfer-Encoding: xchunked", body=END + SMUGGLED)),
    framed("Transfer-Encoding: chunked, identity", head(b"Transfer-Encoding: chunked, identity", body=END + SMUGGLED)),
    framed(
        "Transfer-Encoding twice",
        head(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=END + SMUGGLED),
    ),
    framed("Transfer-Encoding: identity", head(b"Transfer-Encoding: identity", body=SMUGGLED)),
    framed("Transfer-Encoding, vertical tab", head(b"Transfer-Encoding: \x0bchunked", body=END + SMUGGLED)),
    framed("Transfer-Encoding in HTTP/1.0", START.replace(b"1.1", b"1.0") + CHUNKED + b"\r\n" + END + SMUGGLED),
    framed("Content-Length twice", head(b"Content-Length: 0", b"Content-Length: 0", body=SMUGGLED)),
    framed("Content-Length as a list", head(b"Content-Length: 0, 0", body=SMUGGLED)),
    framed("Content-Length with a sign", head(b"Content-Length: +0", body=SMUGGLED)),
    framed("Content-Length below zero", head(b"Content-Length: -1", body=SMUGGLED)),
    framed("Content-Length beyond 64 bits", head(b"Content-Length: 99999999999999999999999", body=SMUGGLED)),
    framed("header folded (obs-fold)", head(b"X-A: a", b" Content-Length: 5", body=SMUGGLED)),
    framed("blank before the colon", head(b"Content-Length : 0", body=SMUGGLED)),
    framed("line ends without CR", START + b"Host: g\nX: y\n\n" + SMUGGLED),
    framed("CR without LF", head(b"X: y\rContent-Length: 2", body=b"12" + SMUGGLED)),
    framed("NUL in a header", head(b"X: a\0b", body=SMUGGLED)),
    framed("header without a name", head(b": x", body=SMUGGLED)),
    framed("no Host", START + b"Content-Length: 0\r\n\r\n" + SMUGGLED),
    framed("two Hosts", HEAD + b"Host: other\r\nContent-Length: 0\r\n\r\n" + SMUGGLED),
    framed("Host with a path and a user", START + b"Host: a@b/c\r\nContent-Length: 0\r\n\r\n" + SMUGGLED),
    framed("chunk size not hexadecimal", head(CHUNKED[:-2], body=b"zz\r\n" + SMUGGLED)),
    framed("chunk size below zero", head(CHUNKED[:-2], body=b"-1\r\n" + SMUGGLED)),
    framed("chunk size with 0x", head(CHUNKED[:-2], body=b"0x1\r\na\r\n" + END + SMUGGLED)),
    framed("chunk size beyond 64 bits", head(CHUNKED[:-2], body=b"f" * 17 + b"\r\n" + SMUGGLED)),
    framed("chunk longer than it says", head(CHUNKED[:-2], body=b"1\r\nabc\r\n" + END + SMUGGLED)),
    framed("chunk line without CR", head(CHUNKED[:-2], body=b"1\na\n0\n\n" + SMUGGLED)),
    framed("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    framed("HTTP/0.9", b"GET /v2/health/live\r\n\r\n" + SMUGGLED),
    framed("HTTP/2.0 in a request line", b"GET /v2/health/live HTTP/2.0\r\nHost: g\r\n\r\n" + SMUGGLED),
    framed("CONNECT", b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n" + SMUGGLED, "400", "404", "405"),
    framed(
        "Upgrade with a body",
        head(b"Connection: upgrade", b"Upgrade: h2c", b"Content-Length: %d" % len(SMUGGLED), body=SMUGGLED),
    ),
    framed(
        "Upgrade, request behind",
        b"GET /v2/health/live HTTP/1.1\r\nHost: g\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n" + SMUGGLED,
        "200",
    ),
    framed("garbage", bytes(range(256)) * 16),
    framed("garbage behind a good request", GOOD_FIRST + b"\x16\x03", "200+400"),
    framed("two Hosts behind a good request", GOOD_FIRST + HEAD + HOST + b"\r\n" + SMUGGLED, "200+400"),
    framed("HEAD, request behind", b"HEAD /v2/health/live HTTP/1.1\r\nHost: g\r\n\r\n" + SMUGGLED, "405+200"),
    framed("chunk extension, line end without CR", head(CHUNKED[:-2], body=b"1;a\nb\r\na\r\n" + END + SMUGGLED)),
    framed("chunk extension with a NUL", head(CHUNKED[:-2], body=b"1;a=\0\r\na\r\n" + END + SMUGGLED)),
    framed("chunk size and a blank", head(CHUNKED[:-2], body=b"1 \r\na\r\n" + END + SMUGGLED)),
    framed("chunk size with a sign", head(CHUNKED[:-2], body=b"+1\r\na\r\n" + END + SMUGGLED)),
    framed("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(506)),
]


def flood(prefix: bytes, piece: bytes, most: int):
    """`prefix`, then `piece` until the gateway closes or `most` bytes are sent."""

    def run(site: Site) -> str:
        with site.connect() as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(prefix)
                for _ in range(most // len(piece)):
                    connection.sendall(piece)
            return statuses(read_all(connection))

    return run


FLOODS = [
    Case("100,000 headers", flood(HEAD, b"x: y\r\n" * 1000, 6 * 10**5), ("431", "closed")),
    Case("a header value of 64 MiB", flood(HEAD + b"X: ", b"y" * 65536, 64 * MIB), ("431", "closed")),
    Case("a header name of 64 MiB", flood(HEAD, b"y" * 65536, 64 * MIB), ("431", "closed")),
    Case("an address of 64 MiB", flood(b"GET /", b"y" * 65536, 64 * MIB), ("431", "400", "closed")),
    Case(
        "chunk extensions of 64 MiB", flood(head(CHUNKED[:-2], body=b"1;"), b"y" * 65536, 64 * MIB), ("400", "closed")
    ),
    Case(
        "trailers of 64 MiB",
        flood(head(CHUNKED[:-2], body=b"0\r\nX: "), b"y" * 65536, 64 * MIB),
        ("400", "closed", "400+400"),
    ),
    Case("a million chunks of one byte", flood(head(CHUNKED[:-2]), b"1\r\na\r\n" * 10000, 6 * MIB), ("400", "closed")),
    Case(
        "a body beyond the limit, declared",
        sent(head(b"Content-Length: %d" % (BODY_LIMIT + 1), b"Connection: close")),
        ("413",),
        15,
        waits=True,
    ),
    Case(
        "a body beyond the limit, in chunks",
        flood(head(CHUNKED[:-2]), b"10000\r\n" + b"a" * 65536 + b"\r\n", 64 * MIB),
        ("413", "closed"),
        15,
        waits=True,
    ),
]


def silent(site: Site) -> str:
    with site.connect() as connection:
        return statuses(read_all(connection))


def never_reads(site: Site) -> str:
    """Pipelined requests whose answers nobody takes, until the gateway cuts."""
    data = ", ".join(["1.0"] * 20000).encode()
    body = b'{"inputs":[{"name":"INPUT0","datatype":"FP32","shape":[1,20000],"data":[' + data + b"]}]}"
    request = head(b"Content-Length: %d" % len(body), body=body)
    with site.connect(receive=4096) as connection:
        connection.settimeout(0.5)
        until = time.monotonic() + 25
        while time.monotonic() < until:
            try:
                connection.send(request)
            except TimeoutError:
                continue
            except ConnectionError:
                return "closed"
    return "open"


def reads(nbytes: int, seconds: float) -> Callable[[Site], str]:
    """The same, of a client that takes so many bytes four times a second; whether it is cut within that time."""
    data = ", ".join(["1.0"] * 20000).encode()
    body = b'{"inputs":[{"name":"INPUT0","datatype":"FP32","shape":[1,20000],"data":[' + data + b"]}]}"
    requests = head(b"Content-Length: %d" % len(body), body=body) * 64

    def run(site: Site) -> str:
        with site.connect(receive=4096) as connection:
            connection.setblocking(False)
            until, sent = time.monotonic() + seconds, 0
            while time.monotonic() < until:
                try:
                    with contextlib.suppress(BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                        while sent < len(requests):
                            sent += connection.send(requests[sent : sent + 65536])
                    with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError):
                        wanted = nbytes
                        while wanted > 0:
                            taken = len(connection.recv(wanted))
                            if not taken:
                                return "closed"
                            wanted -= taken
                except ConnectionError:
                    return "closed"
                time.sleep(0.25)
        return "open"

    return run


def pipelined(count: int) -> Callable[[Site], str]:
    """So many requests without waiting for an answer; the answers are read."""
    data = SMUGGLED.replace(b"Connection: close\r\n", b"") * (count - 1) + SMUGGLED

    def run(site: Site) -> str:
        with site.connect() as connection:

            def send() -> None:
                with contextlib.suppress(ConnectionError):
                    connection.sendall(data)

            thread = threading.Thread(target=send)
            thread.start()
            answer = read_all(connection, 1 << 26)
            thread.join()
        return "200" if answer.count(b"HTTP/1.1 200") == count else f"{answer.count(b'HTTP/1.1 200')} answers"

    return run


def late_body(site: Site) -> str:
    """A page that reads no body has answered; a byte of the body comes, and no more."""
    with site.connect() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: g\r\nContent-Length: 1000\r\n\r\n")
        first = connection.recv(65536)
        connection.sendall(b"a")
        return statuses(first + read_all(connection))


def half_open(site: Site) -> str:
    """The client's half is closed in the middle of a body."""
    with site.connect() as connection:
        connection.sendall(head(b"Content-Length: 100", body=b"half"))
        connection.shutdown(1)
        return statuses(read_all(connection))


def many_idle(door: str):
    """More connections than there may be, all silent."""

    def run(site: Site) -> str:
        with contextlib.ExitStack() as held:
            for _ in range(CONNECTIONS - 20):
                held.enter_context(site.connect(door))
            time.sleep(0.5)
            more = [held.enter_context(site.connect(door)) for _ in range(60)]
            answers = {statuses(read_all(one)) for one in more[-5:]}
        time.sleep(0.3)
        return "/".join(sorted(answers))

    return run


SLOW = [
    Case("slow headers (a byte each 0.3 s)", pieces(HEAD, b"x", pause=0.3), ("408",), waits=True),
    Case("slow start line", pieces(b"G", b"E", pause=0.3), ("408", "400"), waits=True),
    Case("slow body", pieces(head(b"Content-Length: 1000", body=b"a"), b"a", pause=0.3), ("408",), waits=True),
    Case("slow chunks", pieces(head(CHUNKED[:-2]), b"1\r\na\r\n", pause=0.3), ("408",), waits=True),
    Case("slow trailers", pieces(head(CHUNKED[:-2], body=b"0\r\n"), b"x", pause=0.3), ("408", "400"), waits=True),
    Case("a body behind its answer, cut short", late_body, ("200",), waits=True),
    Case("half of a request, then nothing", sent(HEAD), ("408",), waits=True),
    Case("a connection that says nothing", silent, ("closed",), waits=True),
    Case("a client that never reads", never_reads, ("closed",), 25),
    Case("a client that reads 2 KiB a second", reads(512, 25), ("closed",), 30, waits=True),
    Case("a client that reads 64 KiB a second", reads(16 * 1024, 8), ("open",), 25, waits=True),
    Case("closed half in the middle of a body", half_open, ("closed", "408", "400")),
    Case("4,000 requests in one go", pipelined(4_000), ("200",), 60),
    Case("20,000 requests in one go", pipelined(20_000), ("200",), 60, slow=True),
    Case("more idle connections than allowed", many_idle("http"), ("503", "closed"), 20),
]


def post(
    name: str, body: bytes, *expect: str, extra: tuple[bytes, ...] = (), path: str = PATH, seconds: float = 30
) -> Case:
    start = b"POST %b HTTP/1.1\r\n" % path.encode() + HOST
    lines = (b"Content-Length: %d" % len(body), b"Connection: close", *extra)
    return Case(
        name, sent(start + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body), expect or ("400",), seconds
    )


def ihcl(value: bytes, *more: bytes) -> tuple[bytes, ...]:
    return tuple(b"Inference-Header-Content-Length: " + one for one in (value, *more))


def tensor(**fields: object) -> bytes:
    base = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]} | fields
    return json.dumps({"inputs": [{key: value for key, value in base.items() if value is not None}]}).encode()


def sized(size: object) -> bytes:
    return tensor(data=None, parameters={"binary_data_size": size}) + bytes(8)


BINARY = tensor(data=None, parameters={"binary_data_size": 8})
BODIES = [
    *(
        post(f"IHCL {name}", BINARY + bytes(8), extra=ihcl(*values))
        for name, *values in (
            ("below zero", b"-1"),
            ("beyond the body", b"100000"),
            ("with a sign", b"+%d" % len(BINARY)),
            ("twice", b"%d" % len(BINARY), b"%d" % len(BINARY)),
            ("of 5,000 digits", b"1" * 5000),
            ("hexadecimal", b"0x10"),
            ("inside of the JSON", b"10"),
        )
    ),
    *(
        post(f"binary_data_size {size}", sized(size), extra=ihcl(b"%d" % (len(sized(size)) - 8)))
        for size in (-8, 7, 9, 2**31, 2**63, 2**64, 8.0, True, "8")
    ),
    post("IHCL that counts compressed bytes", gzip.compress(GOOD), extra=(*ihcl(b"100000"), b"Content-Encoding: gzip")),
    post("JSON nested 10,000 deep", b'{"inputs":' + b"[" * 10_000 + b"]" * 10_000 + b"}"),
    post("data nested 1,000,000 deep", GOOD.replace(b"[1.0, 2.0]", b"[" * 10**6 + b"]" * 10**6)),
    post(
        "a parameter nested 10,000 deep",
        GOOD[:-1] + b',"parameters":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b"}",
    ),
    post("a number of 10^6 digits", GOOD.replace(b"1.0", b"1" * 10**6)),
    post("a dimension of 10^6 digits", GOOD.replace(b"[1, 2]", b"[" + b"1" * 10**6 + b"]")),
    post("an exponent of 10^6 digits", GOOD.replace(b"1.0", b"1e" + b"1" * 10**6)),
    post("the same key twice", GOOD.replace(b'"shape"', b'"shape":[1,2],"shape"')),
    post("the same key twice, escaped", GOOD.replace(b'"shape"', b'"sh\\u0061pe":[1,2],"shape"')),
    post("lone surrogate in a name", GOOD.replace(b"INPUT0", b"\\ud800")),
    post("invalid UTF-8 in a name", GOOD.replace(b"INPUT0", b"\xff\xfe")),
    post("overlong UTF-8 in a name", GOOD.replace(b"INPUT0", b"\xc0\xaf")),
    post("NUL in a name", GOOD.replace(b"INPUT0", b"a\\u0000b")),
    post("JSON cut off", GOOD[:-5]),
    post("JSON and more", GOOD + b"{}"),
    post("a shape beyond 2^63", tensor(shape=[2**40, 2**40])),
    post("a shape of 2^64 + 2", tensor(shape=[2**64 + 2])),
    post("a dimension below zero", tensor(shape=[-1, -2])),
    post("a shape of 1,000,000 dimensions", tensor(shape=[1] * 10**6)),
    post("a 0 beside a huge dimension", tensor(shape=[0, 2**63])),
    post("an input without data", tensor(data=None)),
    post("data twice over", tensor(parameters={"binary_data_size": 8})),
    post(f"{TENSORS + 1} inputs", json.dumps({"inputs": [json.loads(GOOD)["inputs"][0]] * (TENSORS + 1)}).encode()),
    post(
        "50,000 inputs",
        b'{"inputs":[' + b",".join([b'{"name":"a","datatype":"FP32","shape":[1],"data":[1]}'] * 50_000) + b"]}",
    ),
    post(
        "50,000 inputs without data",
        b'{"inputs":[' + b",".join([b'{"name":"a","datatype":"FP32","shape":[]}'] * 50_000) + b"]}",
    ),
    post("50,000 outputs", GOOD[:-1] + b',"outputs":[' + b",".join([b'{"name":"OUTPUT0"}'] * 50_000) + b"]}"),
    post("gzip bomb (64 MiB)", gzip.compress(bytes(1 << 26), 9), "413", extra=(b"Content-Encoding: gzip",)),
    post("deflate bomb", zlib.compress(bytes(1 << 26), 9), "413", extra=(b"Content-Encoding: deflate",)),
    post("gzip of 40,000 empty members", gzip.compress(b"") * 40_000, extra=(b"Content-Encoding: gzip",)),
    post("gzip and trailing bytes", gzip.compress(GOOD) + b"x", extra=(b"Content-Encoding: gzip",)),
    post("gzip cut off", gzip.compress(GOOD)[:-4], extra=(b"Content-Encoding: gzip",)),
    post("gzip that is none", GOOD, extra=(b"Content-Encoding: gzip",)),
    post("codings on codings", GOOD, "501", extra=(b"Content-Encoding: gzip, gzip, gzip",)),
    post(
        "generate nested 10,000 deep",
        b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        path="/v2/models/identity_fp32/generate",
    ),
    post("repository body nested deep", b"[" * 10**5, "400", "404", path="/v2/repository/models/identity_fp32/load"),
    post("%-escapes for the way out", b"", "404", "400", path="/v2/models/..%2f..%2fetc/infer"),
    post("NUL in the path", b"", "404", "400", path="/v2/models/a%00b/infer"),
]
CASES = [*FRAMING, *FLOODS, *SLOW, *BODIES]
