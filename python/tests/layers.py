"""A layer to test: sizes that fill no vector, weights and biases of order 1."""

from __future__ import annotations

import mha
import numpy as np

Q_HEADS, KV_HEADS, HEAD_DIM, V_HEAD_DIM, Q_DIM, KV_DIM, OUT_DIM = 6, 2, 11, 9, 50, 35, 41


def make_weights(rng, q_dim=Q_DIM, kv_dim=KV_DIM, biases=True):
    shapes = {
        "q": (Q_HEADS * HEAD_DIM, q_dim),
        "k": (KV_HEADS * HEAD_DIM, kv_dim),
        "v": (KV_HEADS * V_HEAD_DIM, kv_dim),
        "o": (OUT_DIM, Q_HEADS * V_HEAD_DIM),
    }
    weights = {f"w{n}": rng.standard_normal(s, np.float32) / np.float32(np.sqrt(s[1])) for n, s in shapes.items()}
    if biases:
        weights |= {f"b{n}": rng.standard_normal(s[0], np.float32) for n, s in shapes.items()}
    return weights


def make_layer(weights, **options):
    return mha.Layer(**weights, q_heads=Q_HEADS, kv_heads=KV_HEADS, **options)


def stack(weights):
    """The same, with wq, wk and wv as wqkv, and biases too."""
    stacked = {name: weight for name, weight in weights.items() if name[1] == "o"}
    for kind in {name[0] for name in weights}:
        stacked[f"{kind}qkv"] = np.concatenate([weights[kind + name] for name in "qkv"])
    return stacked
