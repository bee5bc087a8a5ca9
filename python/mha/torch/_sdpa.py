"""torch.nn.functional.scaled_dot_product_attention on libmha."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from mha.torch._attention import operator, refuse_grad


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Compute what `torch.nn.functional.scaled_dot_product_attention` computes, for inference on a CPU.

    Tensors are of float32, float16 or bfloat16 and may have any strides; one whose last dimension is not contiguous is
    copied.

    Parameters
    ----------
    query : Tensor, shape (..., q_heads, q_len, head_dim) or (q_len, head_dim)
    key : Tensor, shape (..., kv_heads, kv_len, head_dim) or (kv_len, head_dim)
    value : Tensor, shape (..., kv_heads, kv_len, v_head_dim) or (kv_len, v_head_dim)
        The leading dimensions are broadcast.
    attn_mask : Tensor, broadcast to (..., q_heads, q_len, kv_len)
        Of bool: False excludes a key. Of floats: added to the scaled scores; -inf excludes.
    dropout_p : float
        Must be 0.
    is_causal : bool
        Query i sees keys 0 to i. Not together with `attn_mask`.
    scale : float
        By default 1 / sqrt(head_dim).
    enable_gqa : bool
        q_heads may be a multiple of kv_heads; query head h reads key and value head h // (q_heads // kv_heads).

    Returns
    -------
    Tensor, shape (..., q_heads, q_len, v_head_dim) or (q_len, v_head_dim)
        A query that sees no key yields zeros, where some versions and kernels of PyTorch give NaN.

    Raises
    ------
    RuntimeError
        If grad mode is on and an input requires grad, or if one carries a tangent.
    ValueError
        If `dropout_p` is not 0, or an argument contradicts another.
    TypeError
        If a tensor's dtype is not supported.
    """
    refuse_grad(query, key, value, attn_mask)
    if dropout_p != 0.0:
        raise ValueError(
            f"dropout_p is {dropout_p}, expected 0 as in inference: for training use "
            "torch.nn.functional.scaled_dot_product_attention"
        )
    if is_causal and attn_mask is not None:
        raise ValueError("attn_mask is given although is_causal is True, expected one of them")
    q, k, v = query.shape, key.shape, value.shape
    if len(q) == len(k) == len(v) == 4 and q[0] == k[0] == v[0] and k[1] == v[1] and (q[1] == k[1] or enable_gqa):
        result: Tensor = operator(query, key, value, attn_mask, is_causal, scale)
        return result
    return _broadcast(query, key, value, attn_mask, is_causal, scale, enable_gqa)


def _broadcast(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
) -> Tensor:
    """Attention of any ranks and leading dimensions, as views of four dimensions wherever strides allow it."""
    rank = max(query.dim(), key.dim(), value.dim())
    if min(query.dim(), key.dim(), value.dim()) < (3 if enable_gqa else 2):
        raise ValueError(
            f"query, key and value have {query.dim()}, {key.dim()} and {value.dim()} dimensions, expected at least "
            + ("3 with enable_gqa" if enable_gqa else "2")
        )
    query, key, value = (x.unsqueeze(0) if x.dim() == 2 else x for x in (query, key, value))
    leading = _broadcast_shapes("leading dimensions", *(x.shape[:-3] for x in (query, key, value)))
    if enable_gqa:
        q_heads = query.shape[-3]
        if key.shape[-3] != value.shape[-3]:  # for PyTorch each may divide q_heads, for the library both are one number
            key, value = (x.repeat_interleave(q_heads // max(x.shape[-3], 1), -3) for x in (key, value))
        kv_heads = key.shape[-3]
    else:
        q_heads = kv_heads = _broadcast_shapes("heads", *(x.shape[-3:-2] for x in (query, key, value)))[0]
    items = prod(leading)

    def flat(x: Tensor, heads: int) -> Tensor:
        return x.expand(*leading, heads, *x.shape[-2:]).reshape(items, heads, *x.shape[-2:])

    if mask is not None and mask.dim() > 3:
        of_scores = (q_heads, query.shape[-2], key.shape[-2])
        mask = mask.expand(*leading, *of_scores).reshape(items, *of_scores)
    result: Tensor = operator(flat(query, q_heads), flat(key, kv_heads), flat(value, kv_heads), mask, is_causal, scale)
    return result[0, 0] if rank == 2 else result.reshape(*leading, *result.shape[1:])


def _broadcast_shapes(what: str, *shapes: torch.Size) -> torch.Size:
    try:
        return torch.broadcast_shapes(*shapes)
    except RuntimeError:
        of_each = ", ".join(str(tuple(shape)) for shape in shapes)
        hint = " (or enable_gqa=True)" if what == "heads" else ""
        raise ValueError(f"query, key and value have {what} {of_each}, expected equal ones or 1{hint}") from None
