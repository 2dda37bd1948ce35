"""Builds the Cython extensions; everything else about the distribution is said in pyproject.toml.

Extensions are named one by one: a source that is missing or does not compile fails the build, and none is
picked up by accident. In a checkout: `python setup.py build_ext --inplace`.
"""

from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

# Fused multiply-adds would round other than NumPy does, on machines that have them.
COMMON = ["-O3", "-g0", "-Wall", "-Wextra", "-Wno-unused-parameter", "-ffp-contract=off"]
C17 = ["-std=c17"]
CXX17 = ["-std=c++17"]  # std::from_chars and std::to_chars for floats need gcc 11


def extension(name: str, language: str = "c", also: str = "") -> Extension:
    """The extension module `name`, whose source is the .pyx of that name.

    `language` is c or c++; `also`: another folder whose headers it includes.
    """
    folder = name.rpartition(".")[0].replace(".", "/")
    return Extension(
        name,
        [name.replace(".", "/") + ".pyx"],
        language=language,
        include_dirs=[folder, also] if also else [folder],
        # Else a changed header builds nothing.
        depends=sorted(
            str(path)
            for place in (folder, also or folder)
            for suffix in ("h", "hpp", "pxd")
            for path in Path(place).glob(f"*.{suffix}")
        ),
        extra_compile_args=[*COMMON, *(CXX17 if language == "c++" else C17)],
    )


EXTENSIONS = [
    extension("gateway._driven_c"),
    extension("gateway.admission._window_c"),
    extension("gateway.wire._nghttp2_c"),
    extension("gateway.wire._http2_c"),
    extension("gateway.wire._by_heart_c"),
    extension("gateway.wire._infer_c"),
    extension("gateway.wire._infer_write_c"),
    extension("gateway.doors._fast_grpc_c"),
    extension("governance.audit._entry_c", language="c++", also="kernels/hashing"),
    extension("gateway.doors._reading_c"),
    extension("governance.audit._writer_c"),
    extension("gateway.upstream._counts_c"),
    extension("gateway.upstream._grpc_client_c"),
    extension("gateway.upstream._line_c"),
    extension("gateway.upstream._straight_c"),
    extension("kernels.counters._counters_c"),
    extension("kernels.drift._drift_c"),
    extension("kernels.features._features_c", language="c++"),
    extension("kernels.groups._groups_c"),
    extension("kernels.hashing._hmac_c", language="c++"),
    extension("kernels.tensors._format_c", language="c++"),
    extension("kernels.tensors._parse_c", language="c++"),
    extension("kernels.tensors._scan_c", language="c++"),
]

# The generated C stays out of the packages, and so out of the wheel.
setup(ext_modules=cythonize(EXTENSIONS, language_level=3, build_dir="build/cython"))
