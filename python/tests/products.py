"""Where attention multiplies bf16, and what that adds to its bound: docs/numerics.md, "Products of bf16"."""

from __future__ import annotations

import numpy as np
import reference

ISAS = {"avx512bf16", "amx", "neonbf16"}
DECODE_MAX_Q_LEN = 4  # so few queries are computed in f32
WEIGHT = 2.0**-8  # of rounding a weight of softmax, relatively


def are_bf16(isa, q_len, *dtypes):
    """Whether attention of operands of these dtypes, of whatever library, multiplies bf16."""
    return isa in ISAS and q_len > DECODE_MAX_Q_LEN and all(str(dtype).endswith("bfloat16") for dtype in dtypes)


def errors(isa, q, k, v, attended):
    """How far (out, lse, weights) may be off because weights are rounded; `attended` are the exact ones."""
    if not are_bf16(isa, q.shape[2], q.dtype, k.dtype, v.dtype):
        return 0.0, 0.0, 0.0
    v = np.repeat(v.astype(np.float64), q.shape[1] // v.shape[1], axis=1)
    of_out, of_weights = reference.attention_error(v, attended, WEIGHT)
    return of_out, WEIGHT, of_weights
