"""mha.torch.MultiheadAttention against torch.nn.MultiheadAttention."""

from __future__ import annotations

import copy

import bound
import mha
import mha.torch
import products
import pytest
import reference
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

EMBED, HEADS, Q_LEN, KV_LEN, BATCH = 24, 4, 7, 9, 3


@pytest.fixture(autouse=True)
def seeded_inference():
    torch.manual_seed(3)
    with torch.inference_mode():
        yield


def make(**options):
    """A module with biases that are not zero, and its counterpart."""
    module = nn.MultiheadAttention(EMBED, HEADS, **options).eval()
    for parameter in module.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.3)
    return module, mha.torch.MultiheadAttention.from_torch(module)


def assert_same(actual, expected):
    torch.testing.assert_close(actual[0], expected[0])
    assert (actual[1] is None) == (expected[1] is None)
    if expected[1] is not None:
        torch.testing.assert_close(actual[1], expected[1])


MODULES = {
    "plain": {},
    "batch_first": {"batch_first": True},
    "without biases": {"bias": False},
    "another width of keys": {"kdim": 10, "vdim": 10},
    "another width, without biases": {"kdim": 10, "vdim": 10, "bias": False, "batch_first": True},
    "dropout": {"dropout": 0.5},
}


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("options", MODULES.values(), ids=MODULES)
def test_modules(options, batched):
    module, ours = make(**options)
    q, kv = torch.randn(Q_LEN, BATCH, EMBED), torch.randn(KV_LEN, BATCH, module.kdim)
    if module.batch_first:
        q, kv = q.transpose(0, 1), kv.transpose(0, 1)
    if not batched:
        q, kv = q[:, 0], kv[:, 0]
    assert_same(ours(q, kv, kv), module(q, kv, kv))
    if module.kdim == EMBED:
        assert_same(ours(q, q, q), module(q, q, q))


CAUSAL = nn.Transformer.generate_square_subsequent_mask(Q_LEN)
PADDING = torch.arange(KV_LEN) >= torch.tensor([[9], [4], [1]])
FIRST = torch.arange(KV_LEN) > 0  # a mask that leaves every query the first key, where it is added to
CALLS = {
    "no weights": {"need_weights": False},
    "weights of each head": {"average_attn_weights": False},
    "mask": {"attn_mask": (torch.rand(Q_LEN, KV_LEN) < 0.4) & FIRST},
    "mask of each head": {"attn_mask": (torch.rand(BATCH * HEADS, Q_LEN, KV_LEN) < 0.4) & FIRST},
    "mask of floats": {"attn_mask": torch.randn(Q_LEN, KV_LEN)},
    "padding": {"key_padding_mask": PADDING},
    "padding of floats": {"key_padding_mask": torch.randn(BATCH, KV_LEN)},
    "both": {"key_padding_mask": PADDING, "attn_mask": (torch.rand(Q_LEN, KV_LEN) < 0.4) & FIRST},
    "both of floats": {"key_padding_mask": torch.randn(BATCH, KV_LEN), "attn_mask": torch.randn(Q_LEN, KV_LEN)},
    "booleans and floats": {"key_padding_mask": PADDING, "attn_mask": torch.randn(BATCH * HEADS, Q_LEN, KV_LEN)},
}


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")
@pytest.mark.parametrize("options", CALLS.values(), ids=CALLS)
def test_calls(options):
    module, ours = make()
    q, kv = torch.randn(Q_LEN, BATCH, EMBED), torch.randn(KV_LEN, BATCH, EMBED)
    assert_same(ours(q, kv, kv, **options), module(q, kv, kv, **options))


@pytest.mark.parametrize("need_weights", [True, False])
def test_causal(need_weights):
    module, ours = make()
    x = torch.randn(Q_LEN, BATCH, EMBED)
    options = {"attn_mask": CAUSAL, "is_causal": True, "need_weights": need_weights}
    assert_same(ours(x, x, x, **options), module(x, x, x, **options))


def test_unbatched_masks():
    module, ours = make()
    q, kv = torch.randn(Q_LEN, EMBED), torch.randn(KV_LEN, EMBED)
    options = {"key_padding_mask": PADDING[1], "attn_mask": (torch.rand(HEADS, Q_LEN, KV_LEN) < 0.4) & FIRST}
    assert_same(ours(q, kv, kv, **options), module(q, kv, kv, **options))


def test_a_query_without_keys_yields_the_bias():
    module, ours = make()
    x = torch.randn(Q_LEN, EMBED)
    out, weights = ours(x, x, x, key_padding_mask=torch.ones(Q_LEN, dtype=torch.bool))
    torch.testing.assert_close(out, module.out_proj.bias.expand(Q_LEN, EMBED))
    assert (weights == 0).all()


HALVES = [torch.float16, torch.bfloat16]
DTYPES = [torch.float32, *HALVES]
TOLERANCE = 1e-5  # of computing in float32


def arrays_of(module):
    """Weights and biases as python/tests/reference.py takes them."""
    separate = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    projections = separate if module.in_proj_weight is None else module.in_proj_weight.chunk(3)
    weights = dict(zip(("wq", "wk", "wv", "wo"), (*projections, module.out_proj.weight), strict=True))
    if module.in_proj_bias is not None:
        biases = (*module.in_proj_bias.chunk(3), module.out_proj.bias)
        weights |= dict(zip(("bq", "bk", "bv", "bo"), biases, strict=True))
    return {name: weight.numpy() for name, weight in weights.items()}


def assert_rounded(actual, expected, dtype, error):
    relative, subnormal = bound.STORE[dtype]
    allowed = (TOLERANCE + torch.as_tensor(error)) * (1 + relative) + relative * expected.abs() + subnormal
    assert actual.dtype == dtype
    assert ((actual.double() - expected).abs() <= allowed).all()


def assert_exact(actual, module, q, kv, **options):
    """(out, weights) as near to the module's in float64 as roundings to the dtypes of q and kv allow."""
    q_rounding, kv_rounding = (bound.STORE[x.dtype][0] for x in (q, kv))
    parts = products.parts(mha.cpu_info()["isa"], Q_LEN, q.dtype, kv.dtype)
    of_exponents = products.weight_error(parts)  # beside rounding Q and K their parts do not count
    module, dtype = copy.deepcopy(module).double(), q.dtype
    q, kv, *masks = (x.double() if x.is_floating_point() else x for x in (q, kv, *options.values()))
    masks = dict(zip(options, masks, strict=True))
    out, attended = module(q, kv, kv, **masks, average_attn_weights=False)
    x, keys = (y.transpose(0, 1).numpy() for y in (q, kv))
    roundings = q_rounding, kv_rounding
    error = reference.layer_error(x, keys, arrays_of(module), attended.numpy(), *roundings, of_exponents=of_exponents)
    assert_rounded(actual[0], out, dtype, error[0].swapaxes(0, 1))
    assert_rounded(actual[1], attended.mean(1), dtype, error[1].mean(1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("q_dtype", DTYPES)
@pytest.mark.parametrize("kv_dtype", DTYPES)
def test_dtypes(dtype, q_dtype, kv_dtype):
    module = make()[0].to(dtype)
    ours = mha.torch.MultiheadAttention.from_torch(module)
    q, kv = torch.randn(Q_LEN, BATCH, EMBED, dtype=q_dtype), torch.randn(KV_LEN, BATCH, EMBED, dtype=kv_dtype)
    assert_exact(ours(q, kv, kv), module, q, kv)
    assert_exact(ours(q, q, q), module, q, q)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", ["mask", "mask of each head", "mask of floats", "padding", "both"])
def test_masks_in_half_precision(name, dtype):
    module = make()[0].to(dtype)
    masks = {which: mask.to(dtype) if mask.is_floating_point() else mask for which, mask in CALLS[name].items()}
    q, kv = torch.randn(Q_LEN, BATCH, EMBED, dtype=dtype), torch.randn(KV_LEN, BATCH, EMBED, dtype=dtype)
    actual = mha.torch.MultiheadAttention.from_torch(module)(q, kv, kv, **masks)
    assert [x.dtype for x in actual] == [x.dtype for x in module(q, kv, kv, **masks)]
    assert_exact(actual, module, q, kv, **masks)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"kdim": 10, "vdim": 10}], ids=str)
def test_weights_keep_their_dtype(options, dtype):
    module = make(**options)[0].to(dtype)
    ours = mha.torch.MultiheadAttention.from_torch(module)
    q, kv = torch.randn(Q_LEN, BATCH, EMBED), torch.randn(KV_LEN, BATCH, module.kdim)
    assert_exact(ours(q, kv, kv), module, q, kv)


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_packs_into_half(dtype):
    """At a width that no instruction set pads, and unless it is packed in two parts."""
    module = nn.MultiheadAttention(96, HEADS)
    full, half = (mha.torch.MultiheadAttention.from_torch(module.to(t))._layer.packed for t in (torch.float32, dtype))
    if products.parts(mha.cpu_info()["isa"], Q_LEN, dtype) == 2:
        assert len(half) == len(full)
    else:
        assert len(half) < 0.51 * len(full)


class Operators(TorchDispatchMode):
    """Names of PyTorch's operators that run."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_are_not_copied(dtype):
    _, ours = make()
    q, kv = torch.randn(Q_LEN, BATCH, EMBED, dtype=dtype), torch.randn(KV_LEN, BATCH, EMBED, dtype=dtype)
    with Operators() as operators:
        ours(q, kv, kv, need_weights=False)
    assert operators.names == {"empty_like", "transpose"}


def test_the_same_memory_in_another_dtype():
    _, ours = make()
    q = torch.randn(Q_LEN, BATCH, EMBED, dtype=torch.float16)
    kv = q.view(torch.bfloat16)
    copy_of_kv = kv.clone()
    torch.testing.assert_close(ours(q, kv, kv), ours(q, copy_of_kv, copy_of_kv), rtol=0, atol=0)
    with pytest.raises(ValueError, match="key and value are different tensors"):
        ours(q, kv, kv.view(torch.float16))


def test_it_owns_its_weights():
    module, ours = make()
    x = torch.randn(Q_LEN, BATCH, EMBED)
    expected = module(x, x, x)
    for parameter in module.parameters():
        parameter.zero_()
    assert_same(ours(x, x, x), expected)
    assert not list(ours.parameters())


@pytest.mark.parametrize("norm_first", [True, False])
def test_inside_transformers(norm_first):
    options = {"dim_feedforward": 20, "norm_first": norm_first, "batch_first": True}
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(EMBED, HEADS, **options), 2, enable_nested_tensor=False
    ).eval()
    decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(EMBED, HEADS, **options), 2).eval()
    source, target = torch.randn(BATCH, KV_LEN, EMBED), torch.randn(BATCH, Q_LEN, EMBED)

    def run():
        memory = encoder(source, src_key_padding_mask=PADDING)
        return decoder(target, memory, tgt_mask=CAUSAL, memory_key_padding_mask=PADDING, tgt_is_causal=True)

    expected = run()
    for layer in [*encoder.layers, *decoder.layers]:
        layer.self_attn = mha.torch.MultiheadAttention.from_torch(layer.self_attn)
    for layer in decoder.layers:
        layer.multihead_attn = mha.torch.MultiheadAttention.from_torch(layer.multihead_attn)
    torch.testing.assert_close(run(), expected)


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"add_bias_kv": True}, "module has add_bias_kv=True, expected False"),
        ({"add_zero_attn": True}, "module has add_zero_attn=True, expected False"),
        ({"kdim": 10, "vdim": 12}, "module has kdim=10 and vdim=12, expected equal ones"),
    ],
)
def test_modules_that_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(**options)


def test_double_is_refused():
    module, ours = make()
    x = torch.randn(Q_LEN, EMBED, dtype=torch.float64)
    with pytest.raises(TypeError, match="q has dtype float64, expected float32, float16 or bfloat16"):
        ours(x, x, x)
    with pytest.raises(TypeError, match="wo has dtype float64, expected float32, float16 or bfloat16"):
        mha.torch.MultiheadAttention.from_torch(module.double())


def test_calls_that_are_refused():
    _, ours = make()
    x = torch.randn(Q_LEN, BATCH, EMBED)
    for arguments, sentence in [
        ((x, x, x.clone()), "key and value are different tensors, expected the same one"),
        ((x[..., :-1], x, x), "q has shape"),
        ((x, x, x, None, True, None, True, True), "attn_mask is None, expected the causal mask"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            ours(*arguments)
    with torch.inference_mode(False), pytest.raises(RuntimeError, match="requires grad"):
        y = torch.ones(Q_LEN, EMBED, requires_grad=True)
        ours(y, y, y)
