"""The bound of docs/numerics.md for every element of an output, in PyTorch."""

from __future__ import annotations

import torch

U, TINY = 2.0**-24, 2.0**-126
# Products of bf16, by the number of parts: of rounding a weight of softmax; of two parts, of q and k together and of v.
WEIGHT = {0: 0.0, 1: 2.0**-8, 2: 1.5 * 2.0**-18}
SCORE = {0: 0.0, 1: 0.0, 2: 3 * 2.0**-18}
VALUE = {0: 0.0, 1: 0.0, 2: 1.5 * 2.0**-18}

# Of rounding to each dtype on store: relative, and half of the least subnormal.
STORE = {torch.float32: (0.0, 0.0), torch.float16: (2.0**-11, 2.0**-25), torch.bfloat16: (2.0**-8, 2.0**-134)}


def g(n, parts=0):
    """Of a sum, or of a sum of products of bf16, whose u is 2^-23; two parts make three products."""
    n = 3 * n if parts == 2 else n
    return n * U / (1 - n * U) * (2 if parts else 1)


def of_scores(q, k, raw, capped, bias, scale, softcap, parts):
    """dscore of float64 tensors [..., q_len, kv_len]; in how many parts of bf16 they are multiplied (0: f32)."""
    head_dim = q.shape[-1]
    condition = abs(scale) * (q.abs() @ k.abs().mT)
    magnitude = head_dim + q.abs().sum(-1, keepdim=True) + k.abs().sum(-1).unsqueeze(-2)
    error = (g(head_dim + 6, parts) + SCORE[parts]) * condition + TINY * (1 + abs(scale) * magnitude)
    if softcap:
        error = error + 4 * U * capped.abs() + TINY * softcap
    if bias is not None:
        total = capped + bias
        error = error + torch.where(total == bias, 0.0, 2 * U * (total.abs() + bias.abs()))
    return error


def of_out(scores, visible, dscore, weights, v, out, dtype, parts):
    """What |out - exact| may be at most; `scores` and `weights` are exact, those of excluded keys -inf and 0."""
    keys = scores.shape[-1]
    highest = scores.amax(-1, keepdim=True)
    distance = torch.where(visible, (scores - highest).abs(), 0.0)
    x = dscore + WEIGHT[parts] + 2 * U * distance + 2.2 * U * (1 + -(-keys // 32))
    w = torch.where(visible, weights * torch.expm1(x), 0.0)
    total = w.sum(-1, keepdim=True)
    n = min(keys, 512) + -(-keys // 16) + 8
    flushed = TINY * keys * (1 + v.abs().amax(-2, keepdim=True))
    error = (w @ v.abs() + out.abs() * total) / (1 - total)
    of_sums = 2 * g(n, parts) + 4 * U + VALUE[parts]
    error = error + of_sums * (1 + total) / (1 - total) * (weights @ v.abs()) + flushed
    error = torch.where(total <= 0.5, error, 2 * v.abs().amax(-2, keepdim=True) + flushed)
    relative, subnormal = STORE[dtype]
    return error + relative * (out.abs() + error) + subnormal
