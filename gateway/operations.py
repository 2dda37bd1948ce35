"""Every operation of the protocol: its pages, its gRPC method, and what a caller needs for it.

Contract: one table, read by both doors, so that no rule is written twice. `parse_path` turns a request line
into an operation without I/O. Who may do what is asked of the policy with the `object` and `action` here.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, Literal
from urllib.parse import unquote_to_bytes

import msgspec

from gateway.errors import BadRequest, MethodNotAllowed, NotFound, TidegateError, Unsupported
from gateway.wire.types import OWN_REGIONS

Needs = Literal["nothing", "identity", "model", "upstream_model", "server", "visible"]
"""What a caller needs: nothing (health), an accepted identity, `action` on `model:NAME` (NAME as the client
asked: a route), the same on the upstream's own name, `action` on `server`, or an identity that then sees
only the models that it may `read`."""


class Operation(msgspec.Struct, frozen=True):
    """One row of the table."""

    name: str
    grpc: str
    needs: Needs
    action: str = ""

    def object_of(self, model: str) -> str | None:
        """What the policy is asked about, for a page of `model`; None: it is not asked."""
        if self.needs in ("model", "upstream_model"):
            return "model:" + model
        return "server" if self.needs == "server" else None


OPERATIONS: Final = {
    op.name: op
    for op in (
        Operation("server_live", "ServerLive", "nothing"),
        Operation("server_ready", "ServerReady", "nothing"),
        Operation("server_metadata", "ServerMetadata", "identity"),
        Operation("model_ready", "ModelReady", "model", "read"),
        Operation("model_metadata", "ModelMetadata", "model", "read"),
        Operation("model_config", "ModelConfig", "model", "read"),
        Operation("model_stats", "ModelStatistics", "model", "read"),
        Operation("all_stats", "ModelStatistics", "visible", "read"),
        Operation("infer", "ModelInfer", "model", "infer"),
        Operation("generate", "", "model", "infer"),
        Operation("generate_stream", "", "model", "infer"),
        Operation("stream", "ModelStreamInfer", "model", "infer"),
        Operation("index", "RepositoryIndex", "visible", "read"),
        Operation("load", "RepositoryModelLoad", "upstream_model", "load"),
        Operation("unload", "RepositoryModelUnload", "upstream_model", "unload"),
        Operation("system_shm_status", "SystemSharedMemoryStatus", "server", "configure"),
        Operation("system_shm_register", "SystemSharedMemoryRegister", "server", "configure"),
        Operation("system_shm_unregister", "SystemSharedMemoryUnregister", "server", "configure"),
        Operation("cuda_shm_status", "CudaSharedMemoryStatus", "server", "configure"),
        Operation("cuda_shm_register", "CudaSharedMemoryRegister", "server", "configure"),
        Operation("cuda_shm_unregister", "CudaSharedMemoryUnregister", "server", "configure"),
        Operation("trace_setting", "TraceSetting", "server", "configure"),
        Operation("log_settings", "LogSettings", "server", "configure"),
    )
}


class Address(msgspec.Struct, frozen=True):
    """Which operation a request line names, and on what."""

    operation: Operation
    model: str = ""
    version: str = ""


_MODEL_PAGES: Final = {
    "": ("model_metadata", "GET"),
    "ready": ("model_ready", "GET"),
    "config": ("model_config", "GET"),
    "stats": ("model_stats", "GET"),
    "infer": ("infer", "POST"),
    "generate": ("generate", "POST"),
    "generate_stream": ("generate_stream", "POST"),
}
_FIXED_PAGES: Final = {
    (): ("server_metadata", "GET"),
    ("health", "live"): ("server_live", "GET"),
    ("health", "ready"): ("server_ready", "GET"),
    ("models", "stats"): ("all_stats", "GET"),
    ("repository", "index"): ("index", "POST"),
    ("trace", "setting"): ("trace_setting", "GET, POST"),
    ("logging",): ("log_settings", "GET, POST"),
}
_VERSION: Final = re.compile(r"[0-9]+")


# Clients ask for the same few pages over and over; what a hostile one asks for pushes out nothing worth much.
@lru_cache(maxsize=4096)
def parse_path(method: str, raw_path: bytes) -> Address:
    """The operation that `METHOD PATH` names.

    Args:
        method: the HTTP method in upper case.
        raw_path: the path as sent, still percent-encoded, without the query; it starts with `/v2`.

    Raises:
        NotFound: there is no such page.
        MethodNotAllowed: there is, but not with this method.
        BadRequest: a segment is not UTF-8 once decoded.
        Unsupported: a repository of a given name, as Triton says.
    """
    if raw_path != b"/v2" and not raw_path.startswith(b"/v2/"):
        raise NotFound("Not Found")
    try:
        segments = [unquote_to_bytes(s).decode() for s in raw_path[4:].split(b"/")] if len(raw_path) > 3 else []
    except UnicodeDecodeError:
        raise BadRequest("the path is not UTF-8") from None
    name, allow, model, version = _page(segments)
    if method not in allow.split(", "):
        raise MethodNotAllowed(allow)
    return Address(OPERATIONS[name], model, version)


def _page(segments: list[str]) -> tuple[str, str, str, str]:
    """(operation, allowed methods, model, version) of a path below `/v2`."""
    fixed = _FIXED_PAGES.get(tuple(segments))
    if fixed is not None:
        return *fixed, "", ""
    match segments:
        case ["models", model, *rest] if model:
            return _model_page(model, rest)
        case ["repository", *rest]:
            return _repository_page(rest)
        case [("systemsharedmemory" | "cudasharedmemory") as family, *rest]:
            return _shared_memory_page(family.removesuffix("sharedmemory"), rest)
    raise NotFound("Not Found")


def _model_page(model: str, rest: list[str]) -> tuple[str, str, str, str]:
    version = ""
    match rest:
        case ["trace", "setting"]:
            return "trace_setting", "GET, POST", model, ""
        case ["versions", number, *more] if _VERSION.fullmatch(number):
            version, rest = number, more
    # An empty segment (a slash at the end) is no page, though no segment is one.
    found = _MODEL_PAGES.get(rest[0] if rest else "") if len(rest) <= 1 and rest != [""] else None
    if found is None:
        raise NotFound("Not Found")
    return *found, model, version


def _repository_page(rest: list[str]) -> tuple[str, str, str, str]:
    match rest:
        case [name, "index"] if name:  # Triton takes any name here and looks at none
            return "index", "POST", "", ""
        case ["models", model, ("load" | "unload") as verb] if model:
            return verb, "POST", model, ""
        case [name, "models", model, "load" | "unload"] if name and model:
            raise Unsupported("'repository_name' specification is not supported")
    raise NotFound("Not Found")


def _shared_memory_page(family: str, rest: list[str]) -> tuple[str, str, str, str]:
    match rest:
        case [("status" | "register" | "unregister") as verb]:
            pass
        case ["region", region, ("status" | "register" | "unregister") as verb] if region:
            pass
        case _:
            raise NotFound("Not Found")
    return f"{family}_shm_{verb}", "GET" if verb == "status" else "POST", "", ""


def check_region_name(name: str) -> None:
    """The gateway's own regions of shared memory are nobody's business. Triton's words, of one that is not there."""
    if name.startswith(OWN_REGIONS):
        raise NotFound(f"Unable to find system shared memory region: '{name}'")


def gave_up_all(error: TidegateError) -> bool:
    """Whether a server refused to unregister regions, but only the gateway's own, which calls use just now.

    Many clients begin with unregistering all. Those of the gateway are registered again when they are missed.
    """
    said, _, names = error.message.partition(" regions: ")
    listed = [name for name in names.split(" ,") if name]
    return (
        said.startswith("Failed to unregister the following system shared memory")
        and bool(listed)
        and all(name.startswith(OWN_REGIONS) for name in listed)
    )


def check_repository_name(name: str) -> None:
    """Refuse what no model can be called: blank names and ways out of the repository.

    Triton 2.51 lets these through; later versions refuse them.
    """
    if not name.strip():
        raise BadRequest("the model name must not be blank")
    if "/" in name or "\\" in name or "\0" in name or name in {".", ".."}:
        raise BadRequest("the model name must not contain path elements")


def check_load_parameters(names: list[str]) -> None:
    """Refuse `file:` overrides of a load request that would be written outside of the model's folder."""
    for name in names:
        if name.startswith("file:"):
            path = name.removeprefix("file:")
            if not path or path.startswith("/") or ".." in path.split("/") or "\0" in path or "\\" in path:
                raise BadRequest("a `file:` parameter of a load must name a path inside the model's folder")
