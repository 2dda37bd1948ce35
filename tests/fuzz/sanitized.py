"""Everything compiled under AddressSanitizer and UndefinedBehaviorSanitizer: `make fuzz-asan [ARGS="-k json"]`.

The extensions are built with gcc's sanitizers into `build/asan`; what is installed stays as it is. Then the
extensions' own tests and the targets that reach them run in a process with the sanitizers' libraries preloaded and
Python's own allocator off, so that a read one byte beyond a `bytes` object is seen. The first fault ends the
process with the place in C and a status that is not 0.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILT = ROOT / "build" / "asan"
EXTENSIONS = (
    "gateway._driven_c",
    "gateway.admission._window_c",
    "gateway.doors._fast_grpc_c",
    "gateway.upstream._counts_c",
    "gateway.doors._reading_c",
    "gateway.upstream._grpc_client_c",
    "gateway.upstream._line_c",
    "gateway.upstream._straight_c",
    "gateway.wire._by_heart_c",
    "gateway.wire._http2_c",
    "gateway.wire._infer_c",
    "governance.audit._entry_c",
    "governance.audit._writer_c",
    "gateway.wire._infer_write_c",
    "gateway.wire._nghttp2_c",
    "kernels.counters._counters_c",
    "kernels.drift._drift_c",
    "kernels.features._features_c",
    "kernels.groups._groups_c",
    "kernels.hashing._hmac_c",
    "kernels.tensors._format_c",
    "kernels.tensors._parse_c",
    "kernels.tensors._scan_c",
)
# `recover` off: undefined behaviour ends the process as a bad access does.
FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g -O1"
# libstdc++ as well: its exceptions are intercepted only when it is there from the start.
PRELOADED = ("libasan.so", "libubsan.so", "libstdc++.so.6")
TARGETS = (
    "json_scan or json_array or raw_tensor or http_request or http_response or grpc_request or grpc_large or feature"
)


def build() -> None:
    """All extensions, into a folder of their own."""
    command = [sys.executable, "setup.py", "-q", "build_ext", "--force"]
    command += ["--build-lib", str(BUILT / "lib"), "--build-temp", str(BUILT / "temp")]
    environment = {**os.environ, "CC": "gcc", "CXX": "g++", "CFLAGS": FLAGS, "LDFLAGS": "-fsanitize=address,undefined"}
    subprocess.run(command, check=True, cwd=ROOT, env=environment)


def preload() -> str:
    """The value of LD_PRELOAD."""
    found = []
    for name in PRELOADED:
        said = subprocess.run(["gcc", f"-print-file-name={name}"], check=True, capture_output=True, text=True)
        path = said.stdout.strip()
        if "/" not in path:
            raise SystemExit(f"gcc has no {name}: install its sanitizers (Debian: libgcc-12-dev comes with gcc)")
        found.append(path)
    return " ".join(found)


def inside(arguments: list[str]) -> int:
    """In the process with the sanitizers: these modules in place of the installed ones, then pytest."""
    import pytest

    class Built(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name not in EXTENSIONS:
                return None
            (found,) = (BUILT / "lib").glob(f"{name.replace('.', '/')}.*.so")
            return importlib.util.spec_from_file_location(name, found)

    sys.path.insert(0, str(ROOT))
    sys.meta_path.insert(0, Built())
    from kernels import counters, features, tensors

    loaded = {importlib.import_module(one).__file__ for one in EXTENSIONS}
    assert all(str(path).startswith(str(BUILT)) for path in loaded), loaded
    assert features.Program.__module__ == "kernels.features._features_c"
    assert not counters.NO_EXTENSIONS
    assert not tensors.NO_EXTENSIONS
    folders = ("doors", "kernels", "wire", "fuzz")
    tests = [str(ROOT / "tests" / name) for name in folders]
    # Whole but for what starts processes: those would load the installed modules.
    whole = "doors or kernels or test_wire_infer"
    chosen = arguments or ["-k", f"({whole} or {TARGETS}) and not process and not concurrency_never"]
    # Several times slower than without: no test's own time limit holds.
    return int(pytest.main([*tests, "-q", "-p", "no:cacheprovider", "--timeout=0", *chosen]))


def main() -> int:
    """Build, then run the rest under the sanitizers; the status of the run."""
    if os.environ.get("TIDEGATE_SANITIZED"):
        return inside(sys.argv[1:])
    build()
    environment = {
        **os.environ,
        "TIDEGATE_SANITIZED": "1",
        "LD_PRELOAD": preload(),
        "PYTHONMALLOC": "malloc",
        # Python itself leaks what lives as long as the process.
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    environment.pop("TIDEGATE_NO_EXTENSIONS", None)
    return subprocess.run([sys.executable, __file__, *sys.argv[1:]], check=False, cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
