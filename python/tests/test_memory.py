"""Layouts, strides, and that no array is copied."""

from __future__ import annotations

import tracemalloc

import mha
import numpy as np
import pytest
import reference
from conftest import assert_close


def test_bthd(qkv, context):
    swapped = [x.swapaxes(1, 2).copy() for x in qkv]
    out, lse, weights = mha.attention(
        *swapped, layout="bthd", causal=True, return_lse=True, return_weights=True, context=context
    )
    expected = mha.attention(*qkv, causal=True, return_lse=True, return_weights=True, context=context)
    np.testing.assert_array_equal(out, expected[0].swapaxes(1, 2))
    np.testing.assert_array_equal(lse, expected[1])
    np.testing.assert_array_equal(weights, expected[2])


def test_packed_qkv(rng):
    packed = rng.standard_normal((2, 11, 3, 4, 16), np.float32)
    q, k, v = (packed[:, :, i].swapaxes(1, 2) for i in range(3))
    assert_close(mha.attention(q, k, v), reference.attention(q, k, v)[0])


def test_odd_strides(rng, context):
    """Reversed, interleaved and broadcast axes; unaligned to anything but a float."""
    base = rng.standard_normal((2, 4, 40, 67), np.float32)
    q = base[::-1, :, ::-3, 3:27]
    k = base[:1, ::2, 1::2, 20:44]
    k = np.broadcast_to(k, (2, *k.shape[1:]))
    v = base[:, :1, :20, 41:66]
    v = np.broadcast_to(v, (2, 2, 20, 25))
    assert_close(mha.attention(q, k, v, context=context), reference.attention(q, k, v)[0])


def test_out_of_any_strides(qkv):
    expected = mha.attention(*qkv)
    buffer = np.full((13, 2, 4, 40), 7, np.float32)
    out = buffer.transpose(1, 2, 0, 3)[..., 5:22]
    assert mha.attention(*qkv, out=out) is out
    np.testing.assert_array_equal(out, expected)
    assert (buffer[..., :5] == 7).all() and (buffer[..., 22:] == 7).all()


def test_read_only_inputs(qkv):
    expected = mha.attention(*qkv)
    mask = np.ones((13, 37), bool)
    for array in (*qkv, mask):
        array.flags.writeable = False
    np.testing.assert_array_equal(mha.attention(*qkv, mask=mask), expected)


def allocated_by(call):
    """Peak of Python's and NumPy's memory during a call, in bytes."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_nothing_is_copied(rng):
    """Not even of strided operands: 8 MiB of them, and the call allocates some KiB at most."""
    base = rng.standard_normal((1, 512, 3, 8, 128), np.float32)
    q, k, v = (base[:, :, i] for i in range(3))
    mask = np.broadcast_to(np.ones((512, 512), np.float32), (1, 8, 512, 512))
    out = np.empty((1, 512, 8, 128), np.float32)
    used = allocated_by(lambda: mha.attention(q, k, v, mask=mask, layout="bthd", out=out))
    assert allocated_by(lambda: np.empty(out.size, np.float32)) > 2e6  # the measure sees arrays
    assert used < 16e3


def test_layer_copies_nothing(rng):
    weights = rng.standard_normal((4, 256, 256), np.float32)
    layer = mha.Layer(*weights, q_heads=4)
    x = rng.standard_normal((1024, 2, 256), np.float32).swapaxes(0, 1)
    out = np.empty((2, 1024, 256), np.float32)
    assert allocated_by(lambda: layer(x, out=out)) < 16e3


class OnlyDLPack:
    """An array of another library."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


@pytest.mark.parametrize("foreign", [OnlyDLPack, memoryview])
def test_arrays_of_other_libraries(qkv, foreign):
    out = np.empty((2, 4, 13, 17), np.float32)
    mha.attention(*map(foreign, qkv), out=foreign(out))
    np.testing.assert_array_equal(out, mha.attention(*qkv))
