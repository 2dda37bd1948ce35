"""A small OIP server over HTTP for the tests of bridging: JSON alone, no extension, nothing to install.

It echoes each input as `OUT_NAME` and remembers every inference request as it came. With `reads_binary` it
also reads OIP's binary extension, though it always answers in JSON, as KServe's SDK does; without, it answers
500 to it, as MLServer does. Models: `echo` (declares nothing), `typed` (X FP32 [-1,3]), `fails` (422), `odd`
(another framework's error page), `formal` (FastAPI's 422), `garbage` (200 and no JSON).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

NUMPY = {
    "BOOL": "?",
    "UINT8": "u1",
    "INT32": "<i4",
    "INT64": "<i8",
    "UINT64": "<u8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
TYPED = [{"name": "X", "datatype": "FP32", "shape": [-1, 3]}]
MODELS = {"echo": [], "typed": TYPED, "fails": [], "odd": [], "formal": [], "garbage": []}


class JsonOnly:
    """The running server: its address as HOST:PORT and what it was asked."""

    def __init__(self, *, reads_binary: bool) -> None:
        self.reads_binary = reads_binary
        self.asked: list[tuple[dict[str, str], dict]] = []
        """Headers and JSON of every inference request."""
        self.address = ""

    def infer(self, model: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        """Status and body of an answer."""
        length = headers.get("inference-header-content-length")
        if length is not None and not self.reads_binary:
            return 500, b'{"error": "JSONDecodeError: unexpected content after document"}'
        document = json.loads(body if length is None else body[: int(length)])
        self.asked.append((headers, document))
        if model == "fails":
            return 422, b'{"error": "asked to fail"}'
        if model == "odd":
            return 500, b"<html>Internal Server Error</html>"
        if model == "formal":
            return (
                422,
                b'{"detail": [{"type": "x", "loc": ["body", "id"], "msg": "Input should be a string", "input": 7}]}',
            )
        if model == "garbage":
            return 200, b"all is well"
        blob = b"" if length is None else body[int(length) :]
        outputs = []
        for tensor in document["inputs"]:
            size = tensor.get("parameters", {}).get("binary_data_size")
            data = tensor.get("data")
            if size is not None:
                data, blob = np.frombuffer(blob[:size], NUMPY[tensor["datatype"]]).tolist(), blob[size:]
            outputs.append({**tensor, "name": f"OUT_{tensor['name']}", "data": data, "parameters": None})
        assert not blob
        answer = {"model_name": model, "model_version": None, "id": "given-by-server", "outputs": outputs}
        return 200, json.dumps(answer).encode()


@contextmanager
def json_only(*, reads_binary: bool = False) -> Iterator[JsonOnly]:
    """Serves for the length of a with block."""
    served = JsonOnly(reads_binary=reads_binary)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            path = self.path.strip("/").split("/")
            if path == ["v2"]:
                self._answer(200, b'{"name": "jsononly", "version": "1", "extensions": []}')
            elif path[1] == "health":
                self._answer(200, b"{}")
            elif path[1] == "models" and path[2] in MODELS and path[3:] in ([], ["ready"]):
                inputs = MODELS[path[2]]
                outputs = [{**tensor, "name": f"OUT_{tensor['name']}"} for tensor in inputs]
                page = {"name": path[2], "versions": None, "platform": "", "inputs": inputs, "outputs": outputs}
                self._answer(200, json.dumps(page).encode())
            elif path[1] == "models" and path[2] in MODELS:
                self._answer(404, b'{"detail": "Not Found"}')
            else:
                self._answer(404, b'{"error": "Model nope not found"}')

        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            self._answer(*served.infer(self.path.split("/")[3], headers, body))

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    served.address = f"127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
