"""Layers in half precision against a reference in double, on each instruction set of this machine."""

from __future__ import annotations

import mha
import numpy as np
import products
import pytest
import reference
from conftest import DTYPES, HALVES, ROUNDING, assert_rounded
from layers import KV_HEADS, OUT_DIM, Q_DIM, Q_HEADS, make_layer, make_weights, stack


def parts(isa, x, kv):
    """Of attention of Q in the dtype of x, K and V in that of kv."""
    return products.parts(isa, x.shape[1], x.dtype, kv.dtype)


def assert_layer(isa, actual, x, kv, weights, dtype, **options):
    """(out, weights) as exact as a layer is that rounds to the dtypes of its inputs, and `out` to `dtype`."""
    exact = reference.layer(x, kv, weights, Q_HEADS, KV_HEADS, **options)
    of_exponents = products.weight_error(parts(isa, x, kv))  # beside rounding Q and K their parts do not count
    roundings = ROUNDING[x.dtype], ROUNDING[kv.dtype]
    error = reference.layer_error(x, kv, weights, exact[1], *roundings, of_exponents=of_exponents)
    assert_rounded(actual[0], exact[0], dtype, error[0])
    assert_rounded(actual[1], exact[1], np.float32, error[1])


@pytest.mark.parametrize("kv_dtype", DTYPES)
@pytest.mark.parametrize("q_dtype", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(rng, inputs, dtype, q_dtype, kv_dtype, context):
    weights = {name: weight.astype(dtype) for name, weight in make_weights(rng).items()}
    x, kv = inputs[0].astype(q_dtype), inputs[1].astype(kv_dtype)
    options = {"causal": True, "q_offset": 5, "kv_lens": [19, 3, 0]}
    actual = make_layer(weights, context=context)(x, kv, **options, return_weights=True)
    assert_layer(context.isa, actual, x, kv, weights, q_dtype, **options)


@pytest.mark.parametrize("first", range(3))
def test_each_weight_and_bias_has_a_dtype_of_its_own(rng, inputs, first, context):
    dtypes = (DTYPES * 4)[first:]
    weights = {n: w.astype(t) for (n, w), t in zip(make_weights(rng).items(), dtypes, strict=False)}
    actual = make_layer(weights, context=context)(*inputs, return_weights=True)
    assert_layer(context.isa, actual, *inputs, weights, np.float32)


@pytest.mark.parametrize("bias_dtype", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_of_self_attention(rng, inputs, dtype, bias_dtype, context):
    weights = make_weights(rng, kv_dim=Q_DIM)
    weights = {name: weight.astype(dtype if name[0] == "w" else bias_dtype) for name, weight in weights.items()}
    x = inputs[0].astype(dtype)
    actual = make_layer(stack(weights), context=context)(x, return_weights=True)
    assert_layer(context.isa, actual, x, x, weights, dtype)


def rms(x):
    return np.sqrt((x * x).mean())


PAIRS = [(a, b) for a in DTYPES for b in DTYPES if (a, b) != (np.float32, np.float32)]


@pytest.mark.parametrize("q_dtype, kv_dtype", PAIRS)
def test_what_is_rounded(rng, inputs, q_dtype, kv_dtype, context):
    """Q, heads, K and V, of products of bf16 the weights of softmax too, and nothing else: results are far nearer to a
    reference that rounds these than to the exact."""
    x, kv, weights = inputs[0].astype(q_dtype), inputs[1].astype(kv_dtype), make_weights(rng)
    out = np.empty((3, 14, OUT_DIM), np.float32)
    nearest = mha.Context(isa=context.isa, exp="sleef")  # AMX's own exponential does not round to nearest
    actual = make_layer(weights, context=nearest)(x, kv, out=out, return_weights=True)
    options = {"products_of_bf16": parts(context.isa, x, kv) == 1}
    rounded, exact = (
        reference.layer(x, kv, weights, Q_HEADS, KV_HEADS, rounded=rounded, **options) for rounded in (True, False)
    )
    for result, near, far in zip(actual, rounded, exact, strict=True):
        assert rms(result - near) < rms(result - far) / 5


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtype_of_out(rng, inputs, dtype, context):
    weights = make_weights(rng)
    out = np.empty((3, 14, OUT_DIM), dtype)
    actual = make_layer(weights, context=context)(*inputs, out=out, return_weights=True)
    assert actual[0] is out
    assert_layer(context.isa, actual, *inputs, weights, dtype)


@pytest.mark.parametrize("dtype", HALVES)
def test_packed_weights_keep_their_dtype(rng, inputs, dtype, context):
    weights = make_weights(rng, biases=False)
    layer = make_layer({name: weight.astype(dtype) for name, weight in weights.items()}, context=context)
    again = mha.Layer.from_packed(layer.packed, context=context)
    np.testing.assert_array_equal(again(*inputs), layer(*inputs))


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_packs_into_half(rng, dtype, context):
    """But for a header, at a width that no instruction set pads (AMX pads inputs to multiples of 32), and unless it is
    packed in two parts."""
    weights = rng.standard_normal((4, 96, 96), np.float32)
    halves, full = (mha.Layer(*w, q_heads=4, context=context) for w in (weights.astype(dtype), weights))
    if products.parts(context.isa, 5, dtype) == 2:
        assert len(halves.packed) == len(full.packed)
    else:
        assert len(halves.packed) < 0.502 * len(full.packed)
