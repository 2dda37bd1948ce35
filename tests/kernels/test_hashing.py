"""HMAC-SHA-256: both twins against the standard library's."""

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels import hashing
from kernels.hashing import _hmac_c, _hmac_py

TWINS = [_hmac_py.HmacSha256] + ([_hmac_c.HmacSha256] if _hmac_c.available() else [])
each_twin = pytest.mark.parametrize("twin", TWINS, ids=["py", "c"][: len(TWINS)])


@each_twin
@given(key=st.binary(max_size=64), parts=st.lists(st.binary(max_size=200), max_size=5))
def test_it_is_the_standard_librarys(twin, key, parts):
    expected = hmac.new(key, b"".join(parts), hashlib.sha256)
    mac = twin(key)
    assert mac.digest(parts) == expected.digest()
    assert mac.hexdigest(part for part in parts) == expected.hexdigest()
    assert mac.hex(b"".join(parts)) == expected.hexdigest()


@each_twin
@pytest.mark.parametrize("size", [*range(130), 4095, 65535, 65536, 1_000_003])
def test_every_length_in_any_pieces(twin, size):
    data = bytes(number * 7 & 255 for number in range(256)) * (size // 256 + 1)
    whole = memoryview(data)[:size]
    expected = hmac.new(b"key", whole, hashlib.sha256).digest()
    mac = twin(b"key")
    for cut in (0, 1, 55, 56, 63, 64, 65, size // 2, size):
        assert mac.digest([whole[:cut], bytearray(whole[cut:])]) == expected


@each_twin
def test_rfc_4231(twin):
    assert twin(b"\x0b" * 20).hex(b"Hi There") == ("b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7")
    assert twin(b"Jefe").hex(b"what do ya want for nothing?") == (
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    )


@each_twin
def test_what_it_refuses(twin):
    with pytest.raises(ValueError, match="64 bytes"):
        twin(bytes(65))
    mac = twin(b"")
    with pytest.raises(TypeError):
        mac.digest(["text"])
    with pytest.raises(TypeError):
        mac.digest([1])
    with pytest.raises(TypeError):
        mac.digest(None)
    with pytest.raises(BufferError):
        mac.digest([memoryview(bytes(8))[::2]])
    assert mac.hex(b"") == hmac.new(b"", b"", hashlib.sha256).hexdigest(), "a failure leaves nothing behind"


def test_the_compiled_one_is_used_where_it_can_be():
    assert hashing.HmacSha256 is TWINS[-1]
