# Types of the C++ twin; the contract stands in `_scan_py`.

def scan_json(
    buf: bytes | memoryview, max_depth: int, tensors: bytes = b"", *, skim: bool = False
) -> list[tuple[int, int]]: ...
