"""The operator mha::attention among PyTorch's machinery."""

from __future__ import annotations

import mha
import mha.torch
import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

operator = torch.ops.mha.attention.default


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(3)


@pytest.fixture
def qkv():
    return torch.randn(2, 4, 13, 24), torch.randn(2, 2, 37, 24), torch.randn(2, 2, 37, 17)


CALLS = {
    "plain": {},
    "causal": {"causal": True, "q_offset": 5, "scale": 0.3, "threads": 1},
    "mask": {"mask": torch.rand(13, 37) < 0.7, "softcap": 3.0},
    "lengths": {"kv_lens": torch.tensor([3, 37]), "q_offsets": torch.tensor([0, 9]), "window_left": 4},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bthd", [False, True])
@pytest.mark.parametrize("options", CALLS.values(), ids=CALLS)
def test_registration(qkv, options, bthd, dtype):
    tensors = [(x.transpose(1, 2) if bthd else x).to(dtype) for x in qkv]
    torch.library.opcheck(operator, tensors, options | {"bthd": bthd})


def test_it_is_mha_attention(qkv):
    options = {"causal": True, "q_offset": 24, "window": (9, None), "scale": 0.4, "softcap": 2.0}
    expected = mha.attention(*(x.numpy() for x in qkv), kv_lens=[30, 37], **options)
    out = mha.torch.attention(*qkv, kv_lens=torch.tensor([30, 37]), **options)
    np.testing.assert_array_equal(out.numpy(), expected)
    swapped = mha.torch.attention(
        *(x.transpose(1, 2) for x in qkv), kv_lens=torch.tensor([30, 37]), layout="bthd", **options
    )
    np.testing.assert_array_equal(swapped.transpose(1, 2).numpy(), expected)


def test_bad_arguments(qkv):
    for options, error, sentence in [
        ({"layout": "thd"}, ValueError, "layout is 'thd', expected 'bhtd' or 'bthd'"),
        ({"window": 3}, TypeError, "window is 3, expected a pair"),
        ({"threads": 0}, ValueError, "threads is 0, expected 1 to"),
        ({"softcap": -1.0}, ValueError, "softcap is -1"),
        ({"kv_lens": torch.tensor([1, 38])}, ValueError, r"kv_lens\[1\] is 38"),
        ({"kv_lens": torch.tensor([1.0, 3.0])}, TypeError, "kv_lens has dtype float32, expected int64"),
        ({"q_offset": torch.tensor([1])}, ValueError, "q_offset has shape"),
    ]:
        with pytest.raises(error, match=sentence):
            mha.torch.attention(*qkv, **options)


def model(q, k, v):
    return mha.torch.scaled_dot_product_attention(q.relu(), k, v * 2, is_causal=True, enable_gqa=True) + 1


def expected_of_model(q, k, v):
    return scaled_dot_product_attention(q.relu(), k, v * 2, is_causal=True, enable_gqa=True) + 1


@pytest.mark.parametrize("dynamic", [False, True])
@torch.inference_mode()
def test_compile(qkv, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic)
    q, k, v = qkv
    for tokens in (13, 6):  # strides of views too
        tensors = q[:, :, :tokens], k.transpose(1, 2).contiguous().transpose(1, 2), v.mT.contiguous().mT
        torch.testing.assert_close(compiled(*tensors), expected_of_model(*tensors))


def test_export(qkv):
    class Module(torch.nn.Module):
        def forward(self, q, k, v):
            return model(q, k, v)

    tokens = torch.export.Dim("tokens")
    exported = torch.export.export(Module(), qkv, dynamic_shapes={"q": {2: tokens}, "k": None, "v": None})
    q, k, v = qkv
    torch.testing.assert_close(exported.module()(q[:, :, :6], k, v), expected_of_model(q[:, :, :6], k, v))


def test_lazy_negation(qkv):
    """A tensor whose bit says that its numbers are to be negated, which memory does not tell."""
    q, k, v = qkv
    negated = torch.complex(torch.zeros_like(q), q).conj().imag
    assert negated.is_neg()
    torch.testing.assert_close(mha.torch.attention(negated, k, v), mha.torch.attention(-q, k, v))


def test_other_devices_are_refused():
    q = torch.empty(1, 1, 1, 4, device="meta")
    assert mha.torch.attention(q, q, q).device.type == "meta"  # shapes only
    with pytest.raises(TypeError, match="q is of type .*Tensor, expected an array in CPU memory"):
        mha.attention(q, q, q)
