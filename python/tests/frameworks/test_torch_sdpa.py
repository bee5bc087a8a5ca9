"""mha.torch.scaled_dot_product_attention does what PyTorch's own function does, or says why not."""

from __future__ import annotations

import math

import mha
import mha.torch
import products
import pytest
import reference
import torch
from torch.autograd import forward_ad
from torch.nn.functional import scaled_dot_product_attention

ours = mha.torch.scaled_dot_product_attention


@pytest.fixture(autouse=True)
def seeded_inference():
    torch.manual_seed(3)
    with torch.inference_mode():
        yield


def randn(*shape):
    return torch.randn(shape)


# Shapes of query, key, value; options.
SHAPES = {
    "two dimensions": ((5, 8), (7, 8), (7, 6), {}),
    "three": ((4, 5, 8), (4, 7, 8), (4, 7, 6), {}),
    "four": ((2, 4, 5, 8), (2, 4, 7, 8), (2, 4, 7, 6), {}),
    "six": ((3, 1, 2, 4, 5, 8), (3, 1, 2, 4, 7, 8), (3, 1, 2, 4, 7, 6), {}),
    "grouped": ((2, 4, 5, 8), (2, 2, 7, 8), (2, 2, 7, 6), {"enable_gqa": True}),
    "grouped, three dimensions": ((4, 5, 8), (2, 7, 8), (2, 7, 6), {"enable_gqa": True}),
    "grouped, five dimensions": ((3, 2, 4, 5, 8), (3, 2, 1, 7, 8), (3, 2, 1, 7, 6), {"enable_gqa": True}),
    "more value heads": ((2, 12, 5, 8), (2, 2, 7, 8), (2, 4, 7, 6), {"enable_gqa": True}),
    "more key heads": ((2, 12, 5, 8), (2, 6, 7, 8), (2, 4, 7, 6), {"enable_gqa": True}),
    "one key head": ((2, 4, 5, 8), (2, 1, 7, 8), (2, 1, 7, 6), {}),
    "one query head": ((2, 1, 5, 8), (2, 4, 7, 8), (2, 4, 7, 6), {}),
    "keys of one batch item": ((3, 4, 5, 8), (1, 4, 7, 8), (1, 4, 7, 6), {}),
    "queries of one batch item": ((1, 4, 5, 8), (3, 4, 7, 8), (3, 4, 7, 6), {}),
    "keys of fewer dimensions": ((3, 4, 5, 8), (7, 8), (7, 6), {}),
    "queries of fewer dimensions": ((5, 8), (3, 4, 7, 8), (3, 4, 7, 6), {}),
    "causal, more keys": ((2, 4, 5, 8), (2, 4, 7, 8), (2, 4, 7, 6), {"is_causal": True}),
    "causal, fewer keys": ((2, 4, 9, 8), (2, 4, 7, 8), (2, 4, 7, 6), {"is_causal": True}),
    "scale": ((2, 4, 5, 8), (2, 4, 7, 8), (2, 4, 7, 6), {"scale": 0.7}),
    "no queries": ((2, 4, 0, 8), (2, 4, 7, 8), (2, 4, 7, 6), {}),
    "no keys": ((2, 4, 5, 8), (2, 4, 0, 8), (2, 4, 0, 6), {}),
    "no batch": ((0, 4, 5, 8), (0, 4, 7, 8), (0, 4, 7, 6), {}),
}


@pytest.mark.parametrize("q, k, v, options", SHAPES.values(), ids=SHAPES)
def test_shapes(q, k, v, options):
    tensors = randn(*q), randn(*k), randn(*v)
    torch.testing.assert_close(ours(*tensors, **options), scaled_dot_product_attention(*tensors, **options))


MASKS = {
    "one row": ((2, 4, 5, 8), (1, 7)),
    "two": ((2, 4, 5, 8), (5, 7)),
    "three": ((2, 4, 5, 8), (4, 1, 7)),
    "four": ((2, 4, 5, 8), (2, 1, 5, 7)),
    "of five": ((3, 2, 4, 5, 8), (3, 1, 1, 5, 7)),
    "of five, fewer": ((3, 2, 4, 5, 8), (2, 4, 1, 7)),
    "of three": ((4, 5, 8), (4, 5, 1)),
    "of two": ((5, 8), (5, 7)),
}


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
@pytest.mark.parametrize("q, mask", MASKS.values(), ids=MASKS)
def test_masks(q, mask, dtype):
    query, key = randn(*q), randn(*q[:-2], 7, 8)
    mask = torch.rand(mask) < 0.7 if dtype is torch.bool else randn(*mask)
    expected = scaled_dot_product_attention(query, key, key, attn_mask=mask)
    torch.testing.assert_close(ours(query, key, key, attn_mask=mask), expected)


@pytest.mark.parametrize("mask", [torch.zeros(5, 7, dtype=torch.bool), torch.full((5, 7), -math.inf)], ids=str)
def test_a_query_without_keys_yields_zeros(mask):
    key = randn(2, 4, 7, 8)
    assert (ours(randn(2, 4, 5, 8), key, key, attn_mask=mask) == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half(dtype):
    q, k, v = (randn(2, 4, 9, 16).to(dtype) for _ in range(3))
    out = ours(q, k, v)
    assert out.dtype == dtype
    q, k, v = (x.double().numpy() for x in (q, k, v))
    exact, _, weights = reference.attention(q, k, v)
    of_weights = products.weight_error(products.parts(mha.cpu_info()["isa"], 9, dtype), products.largest_score(q, k))
    error = reference.attention_error(v, weights, of_weights)[0]
    relative = torch.finfo(dtype).eps / 2
    allowed = (1e-6 + error) * (1 + relative) + relative * abs(exact)
    assert (abs(out.double().numpy() - exact) <= allowed).all()


@pytest.mark.parametrize("shape", [(2, 4, 5, 8), (4, 5, 8)], ids=str)
def test_joining_heads_copies_nothing(shape):
    """The result lies in memory as PyTorch's fused kernel leaves it: heads of a token beside each other."""
    q = randn(*shape)
    out = ours(q, q, q)
    joined = out.transpose(-2, -3).flatten(-2)
    assert joined.is_contiguous() and joined.data_ptr() == out.data_ptr()


def test_tensors_are_not_changed():
    q = randn(2, 4, 8, 5).mT
    before = q.clone()
    ours(q, q, q)
    assert torch.equal(q, before)


ERRORS = {
    "dropout": ({"dropout_p": 0.1}, ValueError, r"dropout_p is 0\.1, expected 0 .*functional"),
    "mask and causal": ({"attn_mask": torch.ones(5, 7), "is_causal": True}, ValueError, "attn_mask is given"),
    "heads": ({"key": torch.ones(2, 2, 7, 8), "value": torch.ones(2, 2, 7, 8)}, ValueError, "heads .*enable_gqa"),
    "batch": ({"key": torch.ones(3, 4, 7, 8), "value": torch.ones(3, 4, 7, 8)}, ValueError, "leading dimensions"),
    "head_dim": ({"key": torch.ones(2, 4, 7, 9)}, ValueError, "k has shape"),
    "kv_len": ({"value": torch.ones(2, 4, 6, 8)}, ValueError, "v has shape"),
    "one dimension": ({"query": torch.ones(8)}, ValueError, "query, key and value have 1, 4 and 4 dimensions"),
    "two dimensions, grouped": ({"query": torch.ones(5, 8), "enable_gqa": True}, ValueError, "3 with enable_gqa"),
    "double": ({"query": torch.ones(2, 4, 5, 8, dtype=torch.float64)}, TypeError, "q has dtype float64"),
    "mask of integers": ({"attn_mask": torch.ones(5, 7, dtype=torch.int64)}, TypeError, "mask has dtype int64"),
    "mask's shape": ({"attn_mask": torch.ones(5, 6)}, ValueError, "mask has shape"),
}


@pytest.mark.parametrize("changes, error, sentence", ERRORS.values(), ids=ERRORS)
def test_errors(changes, error, sentence):
    arguments = {"query": randn(2, 4, 5, 8), "key": randn(2, 4, 7, 8), "value": randn(2, 4, 7, 8)}
    with pytest.raises(error, match=sentence):
        ours(**arguments | changes)


@pytest.mark.parametrize("which", range(4))
def test_grad_is_refused(which):
    with torch.inference_mode(False):
        tensors = [torch.ones(1, 1, 4, 4) for _ in range(4)]
        tensors[which].requires_grad_()
        for function in (ours, lambda q, k, v, mask: mha.torch.attention(q, k, v, mask=mask)):
            with pytest.raises(RuntimeError, match="requires grad, expected inference: use torch.inference_mode"):
                function(*tensors)
            with torch.no_grad():
                assert not function(*tensors).requires_grad


@pytest.mark.parametrize("which", range(4))
def test_forward_mode_is_refused(which):
    """Derivatives that are carried along with numbers, which would get lost."""
    with torch.inference_mode(False), forward_ad.dual_level():
        tensors = [torch.ones(1, 1, 4, 4) for _ in range(4)]
        tensors[which] = forward_ad.make_dual(tensors[which], torch.ones(1, 1, 4, 4))
        with pytest.raises(RuntimeError, match="carries a tangent, expected inference"):
            ours(*tensors)


def test_jvp_is_refused():
    q = torch.ones(1, 1, 4, 4)
    with torch.inference_mode(False), pytest.raises(RuntimeError, match="carries a tangent, expected inference"):
        torch.func.jvp(lambda x: ours(x, x, x), (q,), (q,))
