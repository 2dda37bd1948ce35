"""A receiver of webhooks on a socket: it keeps what comes, verifies it with nothing but the secret, and answers."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

SECRET = base64.b64encode(b"a secret of twenty-nine bytes").decode()


@dataclass
class Got:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def type(self) -> str:
        return json.loads(self.body)["type"]

    @property
    def data(self) -> dict:
        return json.loads(self.body)["data"]

    def signed(self, secret: str) -> bool:
        """By `whsec_` and base64, or verified with `whpk_` and base64, as a receiver does it."""
        prefix, _, text = secret.partition("_")
        content = b".".join([self.id.encode(), self.headers["webhook-timestamp"].encode(), self.body])
        assert abs(int(self.headers["webhook-timestamp"]) - time.time()) < 300
        for one in self.headers["webhook-signature"].split():
            version, _, signature = one.partition(",")
            if prefix == "whsec" and version == "v1":
                wanted = hmac.new(base64.b64decode(text), content, hashlib.sha256).digest()
                if hmac.compare_digest(wanted, base64.b64decode(signature)):
                    return True
            if prefix == "whpk" and version == "v1a":
                Ed25519PublicKey.from_public_bytes(base64.b64decode(text)).verify(base64.b64decode(signature), content)
                return True
        return False


class Receiver:
    """`reply` says what a request is answered with: a status, or status and headers. It may block."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.got: list[Got] = []
        self.reply: Callable[[Got], int | tuple[int, dict[str, str]]] = lambda _got: 204
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                length = int(self.headers.get("content-length", 0))
                got = Got(
                    self.path, {name.lower(): value for name, value in self.headers.items()}, self.rfile.read(length)
                )
                receiver.got.append(got)
                said = receiver.reply(got)
                status, headers = said if isinstance(said, tuple) else (said, {})
                try:
                    self.send_response(status)
                    for name, value in {"content-length": "0", **headers}.items():
                        self.send_header(name, value)
                    self.end_headers()
                except OSError:
                    pass  # it has gone meanwhile

            def log_message(self, *_words):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_about):
                pass  # a client that does not like the certificate

        self._server = Server(("127.0.0.1", 0), Handler)
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def types(self) -> list[str]:
        return [one.type for one in self.got]
