"""Dtypes: half precision in and out, by NumPy and by DLPack; softcap; what kind of array results are."""

from __future__ import annotations

import mha
import ml_dtypes
import numpy as np
import products
import pytest
import reference
from conftest import HALVES, assert_close, assert_rounded


@pytest.mark.parametrize("softcap", [0.4, 3.0, 50.0])
@pytest.mark.parametrize("mask", [None, "bool", "float"])
def test_softcap(qkv, rng, softcap, mask, context):
    given = {None: None, "bool": rng.random((13, 37)) < 0.7, "float": rng.standard_normal((13, 37), np.float32)}[mask]
    out, lse, weights = mha.attention(
        *qkv, softcap=softcap, mask=given, return_lse=True, return_weights=True, context=context
    )
    expected = reference.attention(*qkv, softcap=softcap, mask=given)
    for actual, exact in zip((out, lse, weights), expected, strict=True):
        assert_close(actual, exact)


@pytest.mark.parametrize("value, error", [(-1.0, ValueError), (float("nan"), ValueError), ("3", TypeError)])
def test_bad_softcap(qkv, value, error):
    with pytest.raises(error, match="softcap is "):
        mha.attention(*qkv, softcap=value)


@pytest.mark.parametrize("dtype", HALVES)
def test_half(qkv, dtype, context):
    halves = [x.astype(dtype) for x in qkv]
    out, lse, weights = mha.attention(*halves, return_lse=True, return_weights=True, context=context)
    expected = reference.attention(*halves)
    errors = products.errors(context.isa, *halves, expected[2])
    assert_rounded(out, expected[0], dtype, errors[0])
    assert_rounded(lse, expected[1], np.float32, errors[1])
    assert_rounded(weights, expected[2], np.float32, errors[2])


def assert_attention(out, q, k, v, dtype):
    """By the default context."""
    exact, _, weights = reference.attention(q, k, v)
    assert_rounded(out, exact, dtype, products.errors(mha.cpu_info()["isa"], q, k, v, weights)[0])


@pytest.mark.parametrize("q_dtype", [*HALVES, np.float32])
@pytest.mark.parametrize("kv_dtype", [*HALVES, np.float32])
@pytest.mark.parametrize("out_dtype", [None, *HALVES, np.float32])
def test_operands_of_different_dtypes(qkv, q_dtype, kv_dtype, out_dtype):
    q, k, v = qkv[0].astype(q_dtype), qkv[1].astype(kv_dtype), qkv[2].astype(kv_dtype)
    out = None if out_dtype is None else np.empty((2, 4, 13, 17), out_dtype)
    actual = mha.attention(q, k, v, out=out)
    assert out is None or actual is out
    assert_attention(actual, q, k, v, out_dtype or q_dtype)


def test_medium_precision(qkv, context):
    """Where bf16 is multiplied, operands are what rounding to it makes of them; elsewhere the option changes nothing."""
    medium = mha.Context(isa=context.isa, precision="medium")
    read = [x.astype(ml_dtypes.bfloat16) for x in qkv] if context.isa in products.ISAS else qkv
    expected = mha.attention(*read, out=np.empty((2, 4, 13, 17), np.float32), context=context)
    np.testing.assert_array_equal(mha.attention(*qkv, context=medium), expected)


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_other_precisions(qkv, precision, context):
    out = mha.attention(*qkv, context=mha.Context(isa=context.isa, precision=precision))
    exact, _, weights = reference.attention(*qkv)
    assert_rounded(out, exact, np.float32, products.errors(context.isa, *qkv, weights, precision)[0])


@pytest.mark.parametrize("dtype", HALVES)
def test_mask(qkv, rng, dtype):
    mask = rng.standard_normal((4, 1, 37)).astype(dtype)
    mask[0, 0, 5:9] = -np.inf
    assert_close(mha.attention(*qkv, mask=mask), reference.attention(*qkv, mask=mask)[0])


@pytest.mark.parametrize("dtype", HALVES)
def test_strides(rng, dtype):
    """Slices of one packed buffer, backwards and read-only."""
    packed = rng.standard_normal((2, 11, 3, 4, 16), np.float32).astype(dtype)
    packed.flags.writeable = False
    q, k, v = (packed[:, ::-1, i].swapaxes(1, 2) for i in range(3))
    assert_attention(mha.attention(q, k, v), q, k, v, dtype)
    with pytest.raises(ValueError, match="out is read-only"):
        mha.attention(q, k, v, out=np.broadcast_to(np.zeros((), dtype), q.shape))


class Foreign:
    """An array of a library that speaks DLPack's Python protocol only, as this module's `from_dlpack` makes it."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class Standard(Foreign):
    """One that conforms to the array API standard, whose namespace says how such arrays are made."""

    def __array_namespace__(self):
        class Namespace:
            @staticmethod
            def from_dlpack(array):
                return Standard(np.from_dlpack(array))

        return Namespace


def from_dlpack(array):
    return Foreign(np.from_dlpack(array))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("kind", [Foreign, Standard])
def test_results_are_of_the_kind_of_q(qkv, kind, dtype):
    arrays = [x.astype(dtype) for x in qkv]
    expected = mha.attention(*arrays, return_lse=True, return_weights=True)
    results = mha.attention(kind(arrays[0]), *arrays[1:], return_lse=True, return_weights=True)
    for actual, exact in zip(results, expected, strict=True):
        assert type(actual) is kind
        assert actual.array.dtype == exact.dtype
        np.testing.assert_array_equal(actual.array, exact)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("kind", [Foreign, Standard])
def test_layers_of_any_kind_of_array(rng, kind, dtype):
    weights, x = rng.standard_normal((4, 24, 24), np.float32).astype(dtype), rng.random((2, 5, 24)).astype(dtype)
    expected = mha.Layer(*weights, q_heads=3)(x, return_weights=True)
    results = mha.Layer(*map(kind, weights), q_heads=3)(kind(x), return_weights=True)
    for actual, exact in zip(results, expected, strict=True):
        assert type(actual) is kind
        assert actual.array.dtype == exact.dtype
        np.testing.assert_array_equal(actual.array, exact)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_library_that_makes_no_arrays_gets_numpys(qkv, dtype):
    q, k, v = (x.astype(dtype) for x in qkv)
    out = mha.attention(memoryview(q), k, v)
    assert type(out) is np.ndarray and out.dtype == dtype
    np.testing.assert_array_equal(out, mha.attention(q, k, v))


def test_foreign_out(qkv):
    out = Foreign(np.empty((2, 4, 13, 17), np.float32))
    assert mha.attention(*qkv, out=out) is out
    np.testing.assert_array_equal(out.array, mha.attention(*qkv))


def test_too_many_dimensions(qkv):
    for q in (np.ones((1,) * 9, np.float32), Foreign(np.ones((1,) * 9, np.float32))):
        with pytest.raises(ValueError, match="q has 9 dimensions, expected at most 8"):
            mha.attention(q, *qkv[1:])
