"""Random calls against PyTorch in float64, every element within the bound of docs/numerics.md."""

from __future__ import annotations

import math
import os
import random

import bound
import mha
import mha.torch
import products
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

BLOCKS, CALLS = 4 if os.environ.get("MHA_TEST_QUICK") else 40, 50
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def configuration(rng):
    """What to call, with sizes that fill no vector, some that do, and now and then more keys than a block has."""
    kv_heads = rng.choice((1, 1, 2))
    kv_len = rng.choice((1, *(rng.randint(1, most) for most in (20, 20, 80, 150, 150, 700))))
    q_len = rng.choice((1, rng.randint(1, 8), rng.randint(1, 40)))
    return {
        "batch": rng.randint(1, 3),
        "kv_heads": kv_heads,
        "q_heads": kv_heads * rng.choice((1, 1, 2, 4)),
        "q_len": q_len,
        "kv_len": kv_len,
        "head_dim": rng.choice((rng.randint(1, 90), 16, 64, 128)),
        "v_head_dim": rng.choice((None, rng.randint(1, 90))),
        "dtype": rng.choice(DTYPES),
        "strides": [rng.choice(tuple(STRIDES)) for _ in range(3)],
        "mask": rng.choice((None, None, "bool", *DTYPES)),
        "mask_axes": [rng.random() < 0.6 for _ in range(4)],
        "mask_rank": rng.randint(1, 4),
        "scale": rng.choice((None, None, rng.uniform(-0.5, 0.5))),
        "threads": rng.choice((1, 2)),
        **rng.choice((drop_in, extended))(rng, q_len, kv_len),
    }


def drop_in(rng, q_len, kv_len):
    """Options of PyTorch's own function."""
    return {"function": "scaled_dot_product_attention", "causal": rng.random() < 0.4}


def extended(rng, q_len, kv_len):
    return {
        "function": "attention",
        "causal": rng.random() < 0.5,
        "q_offset": rng.choice((0, kv_len - q_len, rng.randint(-5, 50))),
        "offset_each": rng.random() < 0.3,
        "window": rng.choice((None, (rng.randint(0, 40), None), (rng.randint(0, 40), rng.randint(0, 9)))),
        "softcap": rng.choice((0.0, rng.uniform(0.3, 30))),
        "kv_lens": rng.random() < 0.3,
        "layout": rng.choice(("bhtd", "bthd")),
    }


# Tensors [batch, heads, tokens, dim] of different strides.
def contiguous(b, h, t, d, dtype):
    return torch.randn(b, h, t, d, dtype=dtype)


def tokens_first(b, h, t, d, dtype):
    return torch.randn(b, t, h, d, dtype=dtype).transpose(1, 2)


def packed(b, h, t, d, dtype):
    return torch.randn(b, t, 3, h, d, dtype=dtype)[:, :, 1].transpose(1, 2)


def stepped(b, h, t, d, dtype):
    return torch.randn(b, h, 2 * t, d + 3, dtype=dtype)[:, :, ::2, 2 : d + 2]


def broadcast(b, h, t, d, dtype):
    return torch.randn(1, h, t, d, dtype=dtype).expand(b, h, t, d)


def dim_not_contiguous(b, h, t, d, dtype):
    return torch.randn(b, h, d, t, dtype=dtype).mT


STRIDES = {f.__name__: f for f in (contiguous, tokens_first, packed, stepped, broadcast, dim_not_contiguous)}


def tensors(c):
    """Query, key, value and mask."""
    b, d = c["batch"], c["head_dim"]
    shapes = (
        (b, c["q_heads"], c["q_len"], d),
        (b, c["kv_heads"], c["kv_len"], d),
        (b, c["kv_heads"], c["kv_len"], c["v_head_dim"] or d),
    )
    qkv = [STRIDES[name](*shape, c["dtype"]) for name, shape in zip(c["strides"], shapes, strict=True)]
    return *qkv, mask_of(c)


def mask_of(c):
    if c["mask"] is None or (c["function"] == "scaled_dot_product_attention" and c["causal"]):
        return None
    full = (c["batch"], c["q_heads"], c["q_len"], c["kv_len"])
    shape = [n if kept else 1 for n, kept in zip(full, c["mask_axes"], strict=True)][4 - c["mask_rank"] :]
    if c["mask"] == "bool":
        return torch.rand(shape) < 0.7
    return torch.randn(shape).masked_fill(torch.rand(shape) < 0.2, -math.inf).to(c["mask"])


def visible_keys(c, q_offset, kv_lens):
    """[batch, 1, q_len, kv_len]"""
    key = torch.arange(c["kv_len"])
    position = (torch.arange(c["q_len"])[None] + torch.as_tensor(q_offset).reshape(-1, 1))[:, None, :, None]
    seen = torch.ones(c["batch"], 1, c["q_len"], c["kv_len"], dtype=torch.bool)
    left, right = c.get("window") or (None, None)
    if c["causal"]:
        seen &= key <= position
    if left is not None:
        seen &= key >= position - left
    if right is not None:
        seen &= key <= position + right
    if kv_lens is not None:
        seen &= key < kv_lens[:, None, None, None]
    return seen


def exact(c, q, k, v, mask, seen):
    """The result in float64, and how far from it ours may be."""
    q, k, v = (x.double() for x in (q, k, v))
    share = c["q_heads"] // c["kv_heads"]
    k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)
    scale = 1 / math.sqrt(c["head_dim"]) if c["scale"] is None else c["scale"]
    softcap = c.get("softcap", 0.0)
    raw = scale * (q @ k.mT)
    capped = softcap * torch.tanh(raw / softcap) if softcap else raw
    bias = mask.double() if mask is not None and mask.dtype != torch.bool else None
    if mask is not None:
        seen = seen & (mask if mask.dtype == torch.bool else mask != -math.inf)
    visible = seen.expand(raw.shape)
    scores = (capped if bias is None else capped + bias).masked_fill(~visible, -math.inf)
    weights = torch.nan_to_num(scores.softmax(-1))  # a query that sees no key
    if softcap:
        out = weights @ v
    else:
        added = torch.zeros_like(scores) if bias is None else bias.expand(scores.shape)
        out = scaled_dot_product_attention(q, k, v, added.masked_fill(~visible, -math.inf), scale=scale)
    parts = products.parts(mha.cpu_info()["isa"], c["q_len"], c["dtype"])
    dscore = bound.of_scores(q, k, raw, capped, bias, scale, softcap, parts)
    return out, bound.of_out(scores, visible, dscore, weights, v, out, c["dtype"], parts)


def run(c, q, k, v, mask):
    """Our result as [batch, heads, tokens, dim], and which keys were visible but for the mask."""
    if c["function"] == "scaled_dot_product_attention":
        out = mha.torch.scaled_dot_product_attention(
            q, k, v, mask, is_causal=c["causal"], scale=c["scale"], enable_gqa=True
        )
        return out, visible_keys(c, 0, None)
    q_offset = c["q_offset"]
    if c["offset_each"]:
        q_offset = q_offset + torch.arange(c["batch"])
    kv_lens = torch.randint(c["kv_len"] + 1, (c["batch"],)) if c["kv_lens"] else None
    bthd = c["layout"] == "bthd"
    options = {name: c[name] for name in ("causal", "window", "scale", "softcap", "layout", "threads")}
    qkv = [x.transpose(1, 2) for x in (q, k, v)] if bthd else (q, k, v)
    out = mha.torch.attention(*qkv, mask=mask, q_offset=q_offset, kv_lens=kv_lens, **options)
    return out.transpose(1, 2) if bthd else out, visible_keys(c, q_offset, kv_lens)


@pytest.mark.parametrize("block", range(BLOCKS))
@torch.inference_mode()
def test_random(block):
    for seed in range(block * CALLS, (block + 1) * CALLS):
        torch.manual_seed(seed)
        c = configuration(random.Random(seed))
        q, k, v, mask = tensors(c)
        out, seen = run(c, q, k, v, mask)
        expected, allowed = exact(c, q, k, v, mask, seen)
        assert out.dtype == c["dtype"] and out.shape == expected.shape, f"seed {seed}: {c}"
        excess = ((out.double() - expected).abs() / allowed).max().item()
        assert excess <= 1, f"seed {seed}: error of {excess:.3g} times the bound in {c}"
