"""Everything that talks to a model server: pooled HTTP for inference and pages, gRPC for streams.

Contract: callers see `Upstream` and the errors of `gateway.errors`, never a socket. Nothing here knows
routes, callers, policy or telemetry; what happens to connections is told to a `Counters`.
"""

from gateway.upstream.capabilities import Capabilities
from gateway.upstream.events import EVENTS, Counters
from gateway.upstream.fleet import Upstreams
from gateway.upstream.grpc_stream import Deliver, ModelStream, StreamCall
from gateway.upstream.http_response import Response
from gateway.upstream.http_stream import Stream
from gateway.upstream.pool import Pool
from gateway.upstream.replica import Replica
from gateway.upstream.targets import model_target
from gateway.upstream.upstream import Upstream

__all__ = [
    "EVENTS",
    "Capabilities",
    "Counters",
    "Deliver",
    "ModelStream",
    "Pool",
    "Replica",
    "Response",
    "Stream",
    "StreamCall",
    "Upstream",
    "Upstreams",
    "model_target",
]
