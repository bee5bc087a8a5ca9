"""ONNX's operator Attention of NumPy arrays: its arguments as those of libmha (docs/numerics.md has the table)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mha import _context, _mha, _threads
from mha._options import options

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

_PRECISIONS = {1: "FLOAT", 10: "FLOAT16", 11: "DOUBLE", 16: "BFLOAT16"}  # as TensorProto.DataType numbers them


def attention(
    q: Array,
    k: Array,
    v: Array,
    attn_mask: Array | None = None,
    past_key: Array | None = None,
    past_value: Array | None = None,
    nonpad_kv_seqlen: Array | None = None,
    *,
    with_scores: bool,
    threads: int | None,
    context: _context.Context | None,
    scale: float | None = None,
    softcap: float = 0.0,
    is_causal: int = 0,
    left_window_size: int = -1,
    right_window_size: int = -1,
    q_num_heads: int | None = None,
    kv_num_heads: int | None = None,
    qk_matmul_output_mode: int = 0,
    softmax_precision: int = 1,
) -> list[Array | None]:
    """Outputs of the operator: Y, present_key, present_value, qk_matmul_output."""
    if softmax_precision not in _PRECISIONS:
        raise ValueError(f"softmax_precision is {softmax_precision}, expected one of {_PRECISIONS}")
    heads_of_q = _split_heads("Q", q, "q_num_heads", q_num_heads)
    k, v = (_split_heads(name, x, "kv_num_heads", kv_num_heads) for name, x in (("K", k), ("V", v)))
    past = _past_len(past_key, past_value, nonpad_kv_seqlen)
    if past_key is not None and past_value is not None:
        k, v = np.concatenate((past_key, k), axis=2), np.concatenate((past_value, v), axis=2)
    batch, heads, q_len, _ = heads_of_q.shape
    shape = (batch, heads, q_len, v.shape[3]) if q.ndim == 4 else (batch, q_len, heads * v.shape[3])
    y = np.empty(shape, q.dtype)
    result = _mha.attention(
        _context.resolve(context),
        heads_of_q,
        k,
        v,
        options(
            None if attn_mask is None else _whole_mask(attn_mask, k.shape[2]),
            bool(is_causal),
            past if nonpad_kv_seqlen is None else nonpad_kv_seqlen - q_len,
            (left_window_size, right_window_size),
            scale,
            softcap,
            nonpad_kv_seqlen,
        ),
        False,
        qk_matmul_output_mode if with_scores else None,
        False,
        _split_heads("Y", y, "q_num_heads", heads),
        _threads.resolve(threads),
    )
    return [y, k, v, result[1].astype(q.dtype) if with_scores else None]


def _split_heads(name: str, array: Array, attribute: str, heads: int | None) -> Array:
    """[batch, heads, tokens, dim] of that, or of [batch, tokens, heads * dim]: a view wherever rows are contiguous."""
    if array.ndim not in (3, 4):
        raise ValueError(f"{name} has {array.ndim} dimensions, expected 3 or 4")
    if array.ndim == 3:
        batch, tokens, width = array.shape
        if heads is None or heads < 1 or width % heads != 0:
            raise ValueError(f"{attribute} is {heads}, expected to divide the {width} columns of {name}")
        array = array.reshape(batch, tokens, heads, width // heads).transpose(0, 2, 1, 3)
    elif heads not in (None, array.shape[1]):
        raise ValueError(f"{attribute} is {heads}, expected the {array.shape[1]} heads of {name}")
    is_row_contiguous = array.shape[3] <= 1 or array.strides[3] == array.itemsize
    return array if is_row_contiguous else np.ascontiguousarray(array)


def _past_len(past_key: Array | None, past_value: Array | None, nonpad: Array | None) -> int:
    if (past_key is None) != (past_value is None):
        raise ValueError("only one of past_key and past_value is given, expected both or neither")
    if past_key is None:
        return 0
    if nonpad is not None:
        raise ValueError("past_key and nonpad_kv_seqlen are both given, expected one of them")
    if past_key.ndim != 4:
        raise ValueError(f"past_key has {past_key.ndim} dimensions, expected 4")
    return int(past_key.shape[2])


def _whole_mask(mask: Array, keys: int) -> Array:
    """A mask of all keys: what a shorter one lacks is excluded."""
    if mask.dtype.kind in "iu" or mask.dtype == np.float64:
        mask = mask.astype(np.float32)
    missing = keys - (mask.shape[-1] if mask.ndim > 0 else keys)
    if missing <= 0:
        return mask
    excluded = False if mask.dtype == np.bool_ else -np.inf
    return np.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(0, missing)], constant_values=excluded)
