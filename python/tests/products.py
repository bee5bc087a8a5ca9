"""Where attention multiplies bf16, and what that adds to its bound: docs/numerics.md, "Products of bf16"."""

from __future__ import annotations

import numpy as np
import reference

ISAS = {"avx512bf16", "amx", "neonbf16"}
SPLIT_ISAS = {"amx"}  # that multiply f16, and f32 at precision high, in two parts of bf16
DECODE_MAX_Q_LEN = 4  # so few queries are computed in f32
WEIGHT = 2.0**-7.5  # that a weight of softmax is off, relatively: as far as AMX's are; rounding alone is 2^-8


PART = 2.0**-18  # what two parts leave of a number, relatively, and of a product their least product, which is left out


def parts(isa, q_len, *dtypes, precision="highest"):
    """In how many parts of bf16 attention multiplies operands of these dtypes, of whatever library; 0: in f32."""
    names = {str(dtype).removeprefix("torch.") if "torch" in str(dtype) else str(np.dtype(dtype)) for dtype in dtypes}
    if isa not in ISAS or q_len <= DECODE_MAX_Q_LEN:
        return 0
    if precision == "medium" or names == {"bfloat16"}:
        return 1
    return 2 if isa in SPLIT_ISAS and (precision == "high" or "float32" not in names) else 0


def weight_error(n, largest_score=0.0):
    """How far a weight of softmax may be off because of products of n parts, relatively; the error of V is counted in.

    `largest_score` is of the absolute values of q and k: in two parts they err too.
    """
    return {0: 0.0, 1: WEIGHT, 2: 3 * PART * (1 + largest_score)}[n]


def largest_score(q, k):
    """For `weight_error`, at the default scale."""
    q, k = (np.abs(x.astype(np.float64)) for x in (q, k))
    return (q @ np.repeat(k, q.shape[1] // k.shape[1], axis=1).swapaxes(2, 3)).max() / np.sqrt(q.shape[3])


def errors(isa, q, k, v, attended, precision="highest"):
    """How far (out, lse, weights) may be off because of products of bf16; `attended` are the exact weights."""
    n = parts(isa, q.shape[2], q.dtype, k.dtype, v.dtype, precision=precision)
    if n == 0:
        return 0.0, 0.0, 0.0
    error = weight_error(n, largest_score(q, k))
    v = np.repeat(v.astype(np.float64), q.shape[1] // v.shape[1], axis=1)
    of_out, of_weights = reference.attention_error(v, attended, error)
    return of_out, error, of_weights
