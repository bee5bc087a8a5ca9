"""attention() against a reference in double, on each instruction set of this machine."""

from __future__ import annotations

import mha
import numpy as np
import pytest
import reference
from conftest import assert_close

OPTIONS = {
    "plain": {},
    "causal": {"causal": True},
    "causal, offset": {"causal": True, "q_offset": 24},
    "causal, an offset each": {"causal": True, "q_offset": [24, -5]},
    "window": {"window": (3, 5), "q_offset": 12},
    "left window": {"window": (4, -1), "q_offset": 20},
    "right window": {"window": (-1, 2)},
    "scale": {"scale": -0.3},
    "lengths": {"kv_lens": [37, 9]},
    "no key": {"kv_lens": [0, 37]},
    "everything": {"causal": True, "q_offset": [30, 4], "window": (11, -1), "kv_lens": [33, 12], "scale": 0.4},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_against_reference(qkv, options, context):
    out, lse, weights = mha.attention(*qkv, **options, return_lse=True, return_weights=True, context=context)
    for actual, expected in zip((out, lse, weights), reference.attention(*qkv, **options)):
        assert_close(actual, expected)


@pytest.mark.parametrize("exp", ["sleef", "fused"])
def test_exp(qkv, exp):
    out = mha.attention(*qkv, context=mha.Context(exp=exp))
    assert_close(out, reference.attention(*qkv)[0])


MASK_SHAPES = [(2, 4, 13, 37), (1, 4, 13, 37), (2, 1, 1, 37), (13, 37), (37,), (4, 1, 1), (2, 4, 13, 1), (1,), ()]


@pytest.mark.parametrize("shape", MASK_SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["bool", "float"])
def test_mask_broadcasts_as_in_numpy(qkv, rng, shape, kind, context):
    seen = rng.random(shape) < 0.7
    mask = np.array(seen if kind == "bool" else np.where(seen, rng.standard_normal(shape), -np.inf).astype(np.float32))
    assert_close(mha.attention(*qkv, mask=mask, context=context), reference.attention(*qkv, mask=mask)[0])


def test_mask_of_any_strides(qkv, rng):
    mask = rng.random((37, 13, 1, 2)).T[:, :, :, ::-1] < 0.7
    assert_close(mha.attention(*qkv, mask=mask), reference.attention(*qkv, mask=mask)[0])


def test_bool_and_float_masks_agree(qkv, rng):
    mask = rng.random((13, 37)) < 0.5
    additive = np.where(mask, 0, -np.inf).astype(np.float32)
    assert_close(mha.attention(*qkv, mask=mask), mha.attention(*qkv, mask=additive))


def test_excluded_keys_do_not_reach_the_result(qkv, context):
    q, k, v = qkv
    expected = mha.attention(q, k, v, kv_lens=[20, 20], context=context)
    k[:, :, 20:], v[:, :, 20:] = np.nan, np.inf
    np.testing.assert_array_equal(mha.attention(q, k, v, kv_lens=[20, 20], context=context), expected)


def test_visible_nan_propagates(qkv, context):
    q, k, v = qkv
    v[0, 0, 5, 3] = np.nan
    out = mha.attention(q, k, v, context=context)
    assert np.isnan(out[0, :2, :, 3]).all() and np.isfinite(out[0, 2:]).all() and np.isfinite(out[1]).all()


def test_rows_without_a_key_are_zero(qkv, context):
    out, lse, weights = mha.attention(
        *qkv, causal=True, q_offset=-3, return_lse=True, return_weights=True, context=context
    )
    assert (out[:, :, :3] == 0).all() and (weights[:, :, :3] == 0).all() and (lse[:, :, :3] == -np.inf).all()
    assert np.isfinite(lse[:, :, 3:]).all()


@pytest.mark.parametrize("zero", ["batch", "q_len", "kv_len"])
def test_sizes_of_zero(zero, context):
    size = {"batch": 2, "q_len": 3, "kv_len": 5, zero: 0}
    q = np.ones((size["batch"], 4, size["q_len"], 8), np.float32)
    k = np.ones((size["batch"], 2, size["kv_len"], 8), np.float32)
    out, lse, weights = mha.attention(q, k, k, return_lse=True, return_weights=True, context=context)
    assert out.shape == q.shape and (out == 0).all()
    assert lse.shape == q.shape[:3] and (lse == -np.inf).all()
    assert weights.shape == (*q.shape[:3], size["kv_len"])


@pytest.mark.parametrize(
    "q_len, kv_len, head_dim", [(1, 1, 1), (1, 4097, 128), (2, 700, 3), (300, 1, 64), (65, 130, 576)]
)
def test_sizes(rng, q_len, kv_len, head_dim, context):
    q = rng.standard_normal((1, 2, q_len, head_dim), np.float32)
    k, v = rng.standard_normal((2, 1, 1, kv_len, head_dim), np.float32)
    assert_close(mha.attention(q, k, v, context=context), reference.attention(q, k, v)[0])


def test_what_is_returned(qkv):
    out = mha.attention(*qkv)
    assert isinstance(out, np.ndarray) and out.shape == (2, 4, 13, 17)
    for lse in (False, True):
        for weights in (False, True):
            result = mha.attention(*qkv, return_lse=lse, return_weights=weights)
            shapes = [(2, 4, 13, 17)] + lse * [(2, 4, 13)] + weights * [(2, 4, 13, 37)]
            assert [r.shape for r in (result if lse or weights else [result])] == shapes
