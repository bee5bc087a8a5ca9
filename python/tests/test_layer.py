"""Layer against a reference in double, on each instruction set of this machine."""

from __future__ import annotations

import mha
import numpy as np
import pytest
import reference
from conftest import assert_close
from layers import HEAD_DIM, KV_DIM, KV_HEADS, OUT_DIM, Q_DIM, Q_HEADS, V_HEAD_DIM, make_layer, make_weights, stack

OPTIONS = {
    "plain": {},
    "causal": {"causal": True, "q_offset": 5},
    "an offset each": {"causal": True, "q_offset": [0, 5, -2]},
    "window, scale": {"window": (4, 3), "scale": 0.2},
    "lengths": {"kv_lens": [19, 3, 0]},
    "mask": {"mask": np.random.default_rng(0).random((14, 19)) < 0.6},
}


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_cross_attention(rng, inputs, options, biases, context):
    weights = make_weights(rng, biases=biases)
    out, attended = make_layer(weights, context=context)(*inputs, **options, return_weights=True)
    expected = reference.layer(*inputs, weights, Q_HEADS, KV_HEADS, **options)
    assert_close(out, expected[0])
    assert_close(attended, expected[1])


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("stacked", [True, False])
def test_self_attention(rng, inputs, stacked, biases, context):
    x = inputs[0]
    weights = make_weights(rng, kv_dim=Q_DIM, biases=biases)
    out = make_layer(stack(weights) if stacked else weights, context=context)(x, causal=True)
    assert_close(out, reference.layer(x, x, weights, Q_HEADS, KV_HEADS, causal=True)[0])


def test_strided_weights_and_inputs(rng, inputs):
    weights = make_weights(rng)
    expected = make_layer(weights)(*inputs)
    wide = {n: np.concatenate([w, w], 1)[:, : w.shape[1]] if w.ndim == 2 else w for n, w in weights.items()}
    assert not wide["wq"].flags.c_contiguous
    swapped = [x.swapaxes(0, 1).copy().swapaxes(0, 1) for x in inputs]
    np.testing.assert_array_equal(make_layer(wide)(*swapped), expected)


def test_out(rng, inputs):
    layer = make_layer(make_weights(rng))
    buffer = np.full((14, 3, 50), 7, np.float32)
    out = buffer.swapaxes(0, 1)[:, :, 4:45]
    assert layer(*inputs, out=out) is out
    np.testing.assert_array_equal(out, layer(*inputs))
    assert (buffer[..., :4] == 7).all() and (buffer[..., 45:] == 7).all()


@pytest.mark.parametrize("threads", [2, 5])
def test_threads(rng, inputs, threads, context):
    layer = make_layer(make_weights(rng), context=context)
    np.testing.assert_array_equal(layer(*inputs, threads=threads), layer(*inputs, threads=1))


def test_padding_does_not_change_bits(rng, inputs):
    layer = make_layer(make_weights(rng))
    x, kv = inputs
    alone = layer(x[:1], kv[:1, :8])
    np.testing.assert_array_equal(layer(x, kv, kv_lens=[8, 19, 1])[:1], alone)


def test_empty(rng):
    layer = make_layer(make_weights(rng))
    assert layer(np.ones((0, 4, Q_DIM), np.float32), np.ones((0, 4, KV_DIM), np.float32)).shape == (0, 4, OUT_DIM)
    assert layer(np.ones((2, 0, Q_DIM), np.float32), np.ones((2, 4, KV_DIM), np.float32)).shape == (2, 0, OUT_DIM)


def test_sizes_and_lifetime(rng, inputs):
    weights = make_weights(rng)
    expected = make_layer(weights)(*inputs)
    layer = make_layer(weights, context=mha.Context())  # nothing else holds the context
    weights.clear()  # nor the weights
    sizes = (layer.q_heads, layer.kv_heads, layer.head_dim, layer.v_head_dim, layer.q_dim, layer.kv_dim, layer.out_dim)
    assert sizes == (Q_HEADS, KV_HEADS, HEAD_DIM, V_HEAD_DIM, Q_DIM, KV_DIM, OUT_DIM)
    np.testing.assert_array_equal(layer(*inputs), expected)


def test_packed_file(rng, inputs, tmp_path, context):
    layer = make_layer(make_weights(rng), context=context)
    expected = layer(*inputs)
    np.save(tmp_path / "layer.npy", layer.packed)
    del layer
    mapped = mha.Layer.from_packed(np.load(tmp_path / "layer.npy", mmap_mode="r"), context=context)
    assert isinstance(mapped.packed, np.memmap)
    np.testing.assert_array_equal(mapped(*inputs), expected)


def test_packed_is_not_copied(rng):
    packed = make_layer(make_weights(rng)).packed
    assert mha.Layer.from_packed(packed).packed is packed
    assert not packed.flags.writeable


def test_packed_is_read_only(rng):
    layer = make_layer(make_weights(rng))
    with pytest.raises(AttributeError):
        layer.packed = layer.packed


def aligned(data):
    buffer = np.empty(len(data) + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    buffer[start : start + len(data)] = data
    return buffer[start : start + len(data)]


def test_damaged_packed(rng):
    packed = make_layer(make_weights(rng)).packed
    good = aligned(packed)
    mha.Layer.from_packed(good)
    for bad in (good[:-1], good[:64], good[:0], good[1:], aligned(np.zeros_like(packed))):
        with pytest.raises((ValueError, TypeError), match="packed"):
            mha.Layer.from_packed(bad)
    with pytest.raises(ValueError, match="packed"):
        mha.Layer.from_packed(np.ones((2, 64), np.uint8))
    with pytest.raises(TypeError, match="packed is of type str"):
        mha.Layer.from_packed("layer.npy")


def test_packed_for_other_kernels(rng):
    packed = make_layer(make_weights(rng), context=mha.Context(isa="scalar")).packed
    if mha.cpu_info()["isa"] == "scalar":
        pytest.skip("this machine has no other kernels")
    with pytest.raises((ValueError, TypeError), match="scalar"):
        mha.Layer.from_packed(packed)


def without(weights, *names):
    return {name: weight for name, weight in weights.items() if name not in names}


def apart(weight, stride):
    """The weight's last row as the first one, and others that far from each other; to be looked at only."""
    return np.lib.stride_tricks.as_strided(weight[-1], weight.shape, (4 * stride, 4))


def test_bad_weights(rng):
    weights = make_weights(rng)
    for name, bad, error, sentence in [
        ("wq", None, TypeError, "wq is missing"),
        ("wo", None, TypeError, "wo is missing"),
        ("bqkv", weights["bq"], TypeError, "bqkv is given although wqkv is not given"),
        ("wqkv", weights["wq"], TypeError, "wq is given although wqkv is given"),
        ("wq", weights["wq"].astype(np.float64), TypeError, "wq has dtype float64"),
        ("wk", weights["wk"][:-1], ValueError, r"wk has shape \(21, 35\), expected \(22, \*\)"),
        ("wv", weights["wv"][:, :-1], ValueError, r"wv has shape \(18, 34\), expected \(18, 35\)"),
        ("wo", weights["wo"][:, :-1], ValueError, r"wo has shape \(41, 53\), expected"),
        ("wq", weights["wq"].T.copy().T, ValueError, "wq has stride"),
        ("wq", apart(weights["wq"], 0), ValueError, "wq has stride 0 in its first dimension, expected at least 50"),
        ("wk", apart(weights["wk"], -35), ValueError, "wk has stride -35 in its first dimension, expected at least 35"),
        ("wo", apart(weights["wo"], 53), ValueError, "wo has stride 53 in its first dimension, expected at least 54"),
        ("wo", weights["wo"][:0], ValueError, r"wo has shape \(0, 54\), expected at least one element in each"),
        ("wv", weights["wv"][:, :0], ValueError, r"wv has shape \(18, 0\), expected at least one element in each"),
        ("wo", weights["wo"].astype(">f4"), TypeError, "wo has dtype >f4, expected float32"),
        ("bq", weights["bq"][:-1], ValueError, r"bq has shape \(65,\), expected \(66,\)"),
        ("bo", weights["bo"].astype(np.float64), TypeError, "bo has dtype float64"),
        ("wk", weights["wk"].astype(np.uint16), TypeError, "wk has dtype uint16, expected float32, float16 or bf"),
    ]:
        with pytest.raises(error, match=sentence):
            make_layer(weights | {name: bad})
    for wqkv in (apart(weights["wq"], 0), weights["wq"][:, :0]):
        with pytest.raises(ValueError, match="wqkv has"):
            mha.Layer(wo=weights["wo"], wqkv=wqkv, q_heads=2)


def test_bad_heads(rng):
    weights = make_weights(rng)
    for heads, error, sentence in [
        ({"q_heads": 0}, ValueError, "q_heads is 0, expected 1 to"),
        ({"q_heads": -4}, ValueError, "q_heads is -4, expected 1 to"),
        ({"q_heads": 2**70}, ValueError, f"q_heads is {2**70}, expected 1 to"),
        ({"q_heads": 6.0}, TypeError, "q_heads is of type float, expected an integer"),
        ({"q_heads": 55}, ValueError, r"wo has shape \(41, 54\), expected \(\*, 55\)"),
        ({"q_heads": 6, "kv_heads": 0}, ValueError, "kv_heads is 0, expected 1 to"),
        ({"q_heads": 6, "kv_heads": -1}, ValueError, "kv_heads is -1, expected 1 to"),
        ({"q_heads": 6, "kv_heads": 4}, ValueError, r"wk has shape \(22, 35\), expected \(44, \*\)"),
    ]:
        with pytest.raises(error, match=sentence):
            mha.Layer(**weights, **heads)


def test_bad_calls(rng, inputs):
    layer = make_layer(make_weights(rng))
    x, kv = inputs
    for arguments, error, sentence in [
        ((x[..., :-1], kv), ValueError, r"q has shape \(3, 14, 49\), expected \(\*, \*, 50\)"),
        ((x, kv[..., :-1]), ValueError, r"kv has shape \(3, 19, 34\), expected \(3, \*, 35\)"),
        ((x, kv[:2]), ValueError, "kv has shape"),
        ((x[0], kv), ValueError, "q has shape"),
        ((x.tolist(), kv), TypeError, "q is of type list"),
        ((x.astype(np.float64), kv), TypeError, "q has dtype float64"),
        ((x, kv.astype(np.int16)), TypeError, "kv has dtype int16, expected float32, float16 or bfloat16"),
        ((x,), ValueError, "kv"),  # self-attention needs q_dim == kv_dim
    ]:
        with pytest.raises(error, match=sentence):
            layer(*arguments)
    with pytest.raises(ValueError, match=r"kv_lens\[2\] is 20"):
        layer(x, kv, kv_lens=[1, 2, 20])
    with pytest.raises(ValueError, match="out has shape"):
        layer(x, kv, out=np.empty((3, 14, 40), np.float32))
    with pytest.raises(TypeError, match="out has dtype float64, expected float32, float16 or bfloat16"):
        layer(x, kv, out=np.empty((3, 14, OUT_DIM)))
    with pytest.raises(ValueError, match="out .* intersects q"):
        layer(q=x, kv=kv, out=x[..., :41])  # sentences name arguments as one writes them
