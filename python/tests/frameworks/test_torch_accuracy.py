"""In half precision the error, against double precision, is not above that of PyTorch's own kernels."""

from __future__ import annotations

import mha.torch
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

MOST_RMS, MOST_LARGEST = 1.1, 1.5

# Query heads, KV heads, queries, keys, head_dim; standard deviation of the logits, mean of the values.
CASES = {
    "short": (12, 12, 32, 32, 64, 1, 0),
    "self-attention": (12, 12, 256, 256, 64, 1, 0),
    "values near 1": (12, 12, 256, 256, 64, 1, 1),
    "logits of 30": (12, 12, 256, 256, 64, 30, 0),
    "grouped": (8, 2, 256, 512, 128, 1, 0),
    "one query": (32, 8, 1, 2048, 128, 1, 0),
}


def errors(out, exact):
    difference = out.double() - exact
    return difference.square().mean().sqrt().item(), difference.abs().max().item()


@pytest.mark.parametrize("causal", [False, True], ids=["whole", "causal"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_half_precision_is_as_exact_as_pytorch(case, dtype, causal):
    q_heads, kv_heads, q_len, kv_len, head_dim, logits, mean = case
    if causal and q_len == 1:
        pytest.skip("the first query sees one key: its output is that key's value")
    torch.manual_seed(2017)
    q = (torch.randn(1, q_heads, q_len, head_dim) * logits).to(dtype)
    k = torch.randn(1, kv_heads, kv_len, head_dim).to(dtype)
    v = (torch.randn(1, kv_heads, kv_len, head_dim) + mean).to(dtype)
    options = {"is_causal": causal, "enable_gqa": q_heads != kv_heads}
    with torch.inference_mode():
        exact = scaled_dot_product_attention(q.double(), k.double(), v.double(), **options)
        rms, largest = errors(mha.torch.scaled_dot_product_attention(q, k, v, **options), exact)
        peer_rms, peer_largest = errors(scaled_dot_product_attention(q, k, v, **options), exact)
    assert rms <= MOST_RMS * peer_rms, f"RMS error {rms:.3g}, PyTorch's {peer_rms:.3g}"
    assert largest <= MOST_LARGEST * peer_largest, f"largest error {largest:.3g}, PyTorch's {peer_largest:.3g}"
