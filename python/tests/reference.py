"""Attention in double precision, as its definition reads; shares nothing with the library."""

from __future__ import annotations

import ml_dtypes
import numpy as np


def visible(scores_shape, mask=None, causal=False, q_offset=0, window=(-1, -1), kv_lens=None):
    """Which key a query sees: booleans [batch, q_heads, q_len, kv_len]."""
    batch, _, q_len, kv_len = scores_shape
    offsets = np.broadcast_to(np.asarray(q_offset), (batch,))
    position = (np.arange(q_len)[None, :] + offsets[:, None])[:, None, :, None]
    key = np.arange(kv_len)
    seen = np.ones(scores_shape, bool)
    if causal:
        seen &= key <= position
    if window[0] != -1:
        seen &= key >= position - window[0]
    if window[1] != -1:
        seen &= key <= position + window[1]
    if kv_lens is not None:
        seen &= key < np.asarray(kv_lens)[:, None, None, None]
    if mask is not None:
        seen &= mask if mask.dtype == bool else mask != -np.inf
    return seen


def attention(q, k, v, *, mask=None, scale=None, softcap=0.0, round_weights=None, **visibility):
    """(out, lse, weights) of arrays [batch, heads, tokens, dim].

    `round_weights`, if given: what becomes of the exponentials that are summed and multiplied by v, weights are not.
    """
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    share = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, share, axis=1), np.repeat(v, share, axis=1)
    scores = np.einsum("bhid,bhjd->bhij", q, k) * (1 / np.sqrt(q.shape[-1]) if scale is None else scale)
    if softcap:
        scores = softcap * np.tanh(scores / softcap)
    if mask is not None and mask.dtype != bool:
        scores = scores + mask.astype(np.float64)
    scores = np.where(visible(scores.shape, mask, **visibility), scores, -np.inf)
    highest = scores.max(-1, keepdims=True, initial=-np.inf)
    exp = np.exp(scores - np.where(np.isfinite(highest), highest, 0))
    summed = exp if round_weights is None else round_weights(exp)
    total = summed.sum(-1, keepdims=True)
    weights, multiplied = (np.divide(x, total, out=np.zeros_like(x), where=total > 0) for x in (exp, summed))
    with np.errstate(divide="ignore"):
        lse = (np.log(total) + highest)[..., 0]
    return np.einsum("bhij,bhjd->bhid", multiplied, np.where(np.isfinite(v), v, 0)), lse, weights


def project(inputs, weights, name, heads=1):
    """[batch, heads, tokens, dim] of inputs [batch, tokens, width]."""
    y = inputs.astype(np.float64) @ weights["w" + name].T.astype(np.float64)
    if "b" + name in weights:
        y = y + weights["b" + name].astype(np.float64)
    return y.reshape(*y.shape[:2], heads, -1).swapaxes(1, 2)


def join(heads):
    """[batch, tokens, heads * dim] of [batch, heads, tokens, dim]."""
    return heads.swapaxes(1, 2).reshape(heads.shape[0], heads.shape[2], -1)


def project_inputs(x, kv, weights, q_heads, kv_heads):
    """(q, k, v) of a layer."""
    return project(x, weights, "q", q_heads), project(kv, weights, "k", kv_heads), project(kv, weights, "v", kv_heads)


def bfloat16(x):
    """Rounded to bf16, to nearest, ties to even."""
    return x.astype(np.float32).astype(ml_dtypes.bfloat16).astype(np.float64)


def attention_error(v, attended, of_exponents, u_v=0.0):
    """How far (out, weights) of `attention` may be off because exponents are by so much, and v by u_v, relatively.

    `attended` are the exact weights, of as many heads as v has; all exponents' errors are of any sign.
    """
    w = attended * np.expm1(of_exponents)
    total = w.sum(-1, keepdims=True)
    of_out = ((w + u_v * (w + attended)) @ abs(v) + abs(attended @ v) * total) / (1 - total)
    return of_out, (w + attended * total) / (1 - total)


def layer(x, kv, weights, q_heads, kv_heads, *, rounded=False, products_of_bf16=False, **options):
    """(out, weights) of a layer whose weights and biases are {"wq": ..., "bq": ..., ...}.

    `rounded`: Q and heads to x's dtype, K and V to kv's; where attention multiplies bf16, the weights of softmax too.
    """
    q_dtype, kv_dtype = (x.dtype, kv.dtype) if rounded else (np.float64, np.float64)
    q, k, v = project_inputs(x, kv, weights, q_heads, kv_heads)
    options["round_weights"] = bfloat16 if rounded and products_of_bf16 else None
    heads, _, attended = attention(q.astype(q_dtype), k.astype(kv_dtype), v.astype(kv_dtype), **options)
    return project(join(heads.astype(q_dtype)), weights, "o")[:, 0], attended


def layer_error(x, kv, weights, attended, u_q, u_kv, scale=None, of_exponents=0.0):
    """How far (out, weights) of `layer` may be off because Q and heads are rounded by u_q, K and V by u_kv, relatively.

    As docs/numerics.md has it for a layer, of these roundings alone and, in `of_exponents`, of the weights of softmax;
    `attended` are the exact weights.
    """
    q_heads = attended.shape[1]
    kv_heads = weights["wk"].shape[0] * q_heads // weights["wq"].shape[0]
    q, k, v = project_inputs(x, kv, weights, q_heads, kv_heads)
    k, v = (np.repeat(y, q_heads // kv_heads, axis=1) for y in (k, v))
    scale = 1 / np.sqrt(q.shape[-1]) if scale is None else abs(scale)
    of_scores = (u_q + u_kv + u_q * u_kv) * scale * abs(q) @ abs(k).swapaxes(2, 3)
    of_heads, of_weights = attention_error(v, attended, of_scores + of_exponents, u_kv)
    of_heads += u_q * (abs(attended @ v) + of_heads)
    return join(of_heads) @ abs(weights["wo"].T.astype(np.float64)), of_weights
