from typing import final

from governance.ports import Body
from kernels.hashing._hmac_c import HmacSha256

@final
class Form:
    def __init__(self, pieces: tuple[bytes, bytes, bytes, bytes, bytes, bytes], mac: HmacSha256) -> None: ...
    def entry(
        self, request_id: str, latency_us: int, time_ns: int, inputs: Body | None, outputs: Body | None
    ) -> bytes | None: ...
