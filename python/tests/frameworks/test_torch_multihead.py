"""mha.torch.MultiheadAttention against torch.nn.MultiheadAttention."""

from __future__ import annotations

import mha.torch
import pytest
import torch
from torch import nn

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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half(dtype):
    """Computed in float32: as near to the exact result as its rounding allows."""
    module, _ = make()
    ours = mha.torch.MultiheadAttention.from_torch(module.to(dtype))
    x = torch.randn(Q_LEN, BATCH, EMBED, dtype=dtype)
    out, weights = ours(x, x, x)
    assert out.dtype == weights.dtype == dtype
    module.double()
    exact = module(x.double(), x.double(), x.double())
    torch.testing.assert_close(out.double(), exact[0], rtol=torch.finfo(dtype).eps / 2, atol=1e-5)


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
