"""Powers of ten in 128 bits, which the C++ twins multiply by.

10^k = g * 2^(floor(log2(10^k)) - 127) with 2^127 <= g < 2^128; what the paper of each use asks for is g rounded
up or down to whole bits. Made when first imported (0.6 ms), so that no table is copied from anywhere.
"""

from typing import Final

LEAST: Final = -342
GREATEST: Final = 324
"""10^LEAST times 2^64 underflows a double; 10^GREATEST is what shortest subnormals are multiplied by."""


def _significand(k: int) -> tuple[int, bool]:
    """The significand of 10^k rounded down, and whether that is exact."""
    power = 5 ** abs(k)
    bits = power.bit_length()
    if k >= 0:
        return (power << (128 - bits), True) if bits <= 128 else (power >> (bits - 128), False)
    # A power of five is never one of two but for 5^0, so the quotient has 128 bits and a remainder.
    return (1 << (bits + 127)) // power, False


def table(*, up: bool) -> bytes:
    """The significands from LEAST to GREATEST as pairs of little-endian uint64, low half first, then rounded `up`."""
    found = []
    for k in range(LEAST, GREATEST + 1):
        significand, exact = _significand(k)
        found.append((significand + (up and not exact)).to_bytes(16, "little"))
    return b"".join(found)
