"""Takes OTLP/HTTP exports and throws them away, so that traces really leave the governed gateway."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """An empty success, whatever came."""
        self.rfile.read(int(self.headers.get("content-length", "0")))
        self.server.exports += 1  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Silence."""


@contextmanager
def otlp_sink() -> Iterator[ThreadingHTTPServer]:
    """A listening sink; `server_port`, and `exports` counts what came."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.exports = 0  # type: ignore[attr-defined]
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
