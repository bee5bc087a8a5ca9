"""mha.torch follows PyTorch's float32 matmul precision."""

from __future__ import annotations

import mha
import mha.torch
import numpy as np
import products
import pytest
import torch
from mha.torch import _attention
from torch.nn.functional import scaled_dot_product_attention

PRECISIONS = ("highest", "high", "medium")
ISA = mha.cpu_info()["isa"]


@pytest.fixture(autouse=True)
def restored():
    torch.manual_seed(3)
    yield
    torch.set_float32_matmul_precision("highest")  # fp32_precision of each backend too


@pytest.fixture
def qkv():
    return torch.randn(2, 4, 13, 24), torch.randn(2, 4, 37, 24), torch.randn(2, 4, 37, 17)


@pytest.fixture
def handles(monkeypatch):
    """The context of each call that reaches the extension."""
    seen = []
    compute = _attention._mha.attention

    def recorded(handle, *arguments):
        seen.append(handle)
        return compute(handle, *arguments)

    monkeypatch.setattr(_attention._mha, "attention", recorded)
    return seen


def set_backend(name, value):
    getattr(torch.backends, name).matmul.fp32_precision = value


SETTINGS = {
    "none": (lambda: None, "highest"),
    **{name: (lambda name=name: torch.set_float32_matmul_precision(name), name) for name in PRECISIONS},
    "ieee on CPUs": (lambda: set_backend("mkldnn", "ieee"), "highest"),
    "tf32 on CPUs": (lambda: set_backend("mkldnn", "tf32"), "high"),
    "bf16 on CPUs": (lambda: set_backend("mkldnn", "bf16"), "medium"),
    "tf32 on GPUs": (lambda: set_backend("cuda", "tf32"), "highest"),
}


@pytest.mark.parametrize("setting, precision", SETTINGS.values(), ids=SETTINGS)
def test_it_reaches_the_library(qkv, handles, setting, precision):
    setting()
    mha.torch.scaled_dot_product_attention(*qkv)
    mha.torch.attention(*qkv, causal=True)
    assert len(handles) == 2
    contexts = [_attention._context(value) for value in ("none", "ieee", "tf32", "bf16")]
    assert [repr(context) for context in contexts if context._handle in handles] == [
        repr(mha.Context(precision=precision))
    ]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_results(qkv, precision):
    torch.set_float32_matmul_precision(precision)
    out = mha.torch.scaled_dot_product_attention(*qkv)
    expected = mha.attention(*(x.numpy() for x in qkv), context=mha.Context(precision=precision))
    np.testing.assert_array_equal(out.numpy(), expected)
    if products.parts(ISA, 13, "float32", precision=precision) == 0:
        torch.testing.assert_close(out, scaled_dot_product_attention(*qkv))


@torch.inference_mode()
def test_nothing_else_follows(qkv):
    layer = mha.torch.MultiheadAttention.from_torch(torch.nn.MultiheadAttention(24, 4).eval())
    x = torch.randn(13, 2, 24)

    def others():
        return mha.attention(*qkv), layer(x, x, x)[0]

    expected = others()
    torch.set_float32_matmul_precision("medium")
    torch.testing.assert_close(others(), expected, rtol=0, atol=0)
