"""writer: text_input [1] BYTES -> text_output [1] BYTES, the continuation.

Options, each [1]: `max_tokens` INT32 (32; 0 writes nothing, at most 512), `temperature` FP32 (0.8; 0 takes
the likeliest piece), `seed` UINT64 (the same seed, the same text; absent: another each time), `stream` BOOL
(false: one response with the whole text; true: one a piece). Every request gets at least one response, and
the last carries the final flag, so that `generate`, which wants exactly one, works as well as
`generate_stream`.
"""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

MOST_TOKENS = 512
FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
WRITERS = 8  # texts written at the same time; onnxruntime leaves Python's lock while it computes


class TritonPythonModel:
    """Writes each request's text in a thread of its own, so that a long text does not hold up a short one."""

    def initialize(self, args):
        folder = Path(args["model_repository"], args["model_version"])
        self._session = open_session(folder / "model.onnx", args)
        self._context = self._session.get_inputs()[0].shape[1]
        self._pieces = json.loads((folder / "pieces.json").read_text("utf-8"))
        self._index = {piece: i for i, piece in enumerate(self._pieces)}
        longest_first = sorted(self._pieces[1:], key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)))
        self._pool = ThreadPoolExecutor(WRITERS)

    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            try:
                options = read_options(request)
            except ValueError as error:
                sender.send(failure(str(error), pb_utils.TritonError.INVALID_ARG), flags=FINAL)
                continue
            self._pool.submit(self._answer, sender, *options)

    def finalize(self):
        self._pool.shutdown()

    def _answer(self, sender, text, count, temperature, random, stream):
        # A thread's exception would be lost and the client would wait for ever: whatever happens is sent.
        try:
            self._send(sender, self._write(text, count, temperature, random), stream)
        except Exception as error:  # noqa: BLE001 - reason above
            sender.send(failure(f"{error.__class__.__name__}: {error}", pb_utils.TritonError.INTERNAL), flags=FINAL)

    def _send(self, sender, pieces, stream):
        written = next(pieces, "")
        for piece in pieces:
            if sender.is_cancelled():
                break
            if stream:  # one behind, so that the last one is known when it is sent
                sender.send(response(written))
                written = piece
            else:
                written += piece
        sender.send(response(written), flags=FINAL)

    def _write(self, text, count, temperature, random):
        """Yield `count` pieces that follow `text`."""
        known = [self._index[piece] for piece in self._pattern.findall(text)][-self._context :]
        context = np.array([[0] * (self._context - len(known)) + known], np.int64)
        for _ in range(count):
            (scores,) = self._session.run(["scores"], {"context": context})
            scores = scores[0].astype(np.float64)
            scores[0] = -np.inf  # the empty piece that stands before a text
            if temperature == 0:
                chosen = int(scores.argmax())
            else:
                share = np.exp((scores - scores.max()) / temperature)
                chosen = int(random.choice(len(share), p=share / share.sum()))
            context = np.append(context[:, 1:], [[chosen]], axis=1)
            yield self._pieces[chosen]


def read_options(request):
    """(text, number of pieces, temperature, random generator, stream) of a request, checked."""
    given = {}
    for name, default in (("max_tokens", 32), ("temperature", 0.8), ("seed", None), ("stream", False)):
        tensor = pb_utils.get_input_tensor_by_name(request, name)
        given[name] = default if tensor is None else tensor.as_numpy().reshape(-1)[0].item()
    if not 0 <= given["max_tokens"] <= MOST_TOKENS:
        raise ValueError(f"max_tokens is {given['max_tokens']}: give 0 to {MOST_TOKENS}")
    # Below a hundredth the likeliest piece is all that is left, and the division would overflow.
    if not (given["temperature"] == 0 or 0.01 <= given["temperature"] <= 100):
        raise ValueError(f"temperature is {given['temperature']:g}: give 0, or 0.01 to 100")
    text = pb_utils.get_input_tensor_by_name(request, "text_input").as_numpy().reshape(-1)[0]
    random = np.random.default_rng(given["seed"])
    return text.decode("utf-8", "replace"), given["max_tokens"], given["temperature"], random, given["stream"]


def response(text):
    return pb_utils.InferenceResponse([pb_utils.Tensor("text_output", np.array([text.encode()], np.object_))])


def failure(message, code):
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))


def open_session(path, args):
    """A session on the GPU of this instance if there is one that onnxruntime can use, else on the CPU."""
    providers = ["CPUExecutionProvider"]
    if args["model_instance_kind"] == "GPU" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": int(args["model_instance_device_id"])}))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # small models: threads would only wait for each other
    return onnxruntime.InferenceSession(path, options, providers=providers)
