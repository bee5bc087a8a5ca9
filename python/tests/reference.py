"""Attention in double precision, as its definition reads; shares nothing with the library."""

from __future__ import annotations

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


def attention(q, k, v, *, mask=None, scale=None, softcap=0.0, **visibility):
    """(out, lse, weights) of arrays [batch, heads, tokens, dim]."""
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
    total = exp.sum(-1, keepdims=True)
    weights = np.divide(exp, total, out=np.zeros_like(exp), where=total > 0)
    with np.errstate(divide="ignore"):
        lse = (np.log(total) + highest)[..., 0]
    return np.einsum("bhij,bhjd->bhid", weights, np.where(np.isfinite(v), v, 0)), lse, weights


def layer(x, kv, weights, q_heads, kv_heads, **options):
    """(out, weights) of a layer whose weights and biases are {"wq": ..., "bq": ..., ...}."""

    def project(inputs, name, heads):
        y = inputs.astype(np.float64) @ weights["w" + name].T.astype(np.float64) + weights.get("b" + name, 0.0)
        return y.reshape(*y.shape[:2], heads, -1).swapaxes(1, 2) if heads else y

    q, k, v = project(x, "q", q_heads), project(kv, "k", kv_heads), project(kv, "v", kv_heads)
    out, _, attended = attention(q, k, v, **options)
    return project(out.swapaxes(1, 2).reshape(*x.shape[:2], -1), "o", None), attended
