"""Puts libmha in the place of PyTorch's own attention for a while."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mha.torch._attention import carries_tangent
from mha.torch._sdpa import scaled_dot_product_attention

_pytorchs = functional.scaled_dot_product_attention
_lock = threading.Lock()
_blocks = 0  # of `with enable():` that are active, in all threads

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def _applies(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, dropout_p: float) -> bool:
    tensors = (query, key, value) if attn_mask is None else (query, key, value, attn_mask)
    return (
        dropout_p == 0.0
        and query.dtype == key.dtype == value.dtype
        and query.dtype in _DTYPES
        and (attn_mask is None or attn_mask.dtype is torch.bool or attn_mask.dtype in _DTYPES)
        and all(x.device.type == "cpu" and x.layout is torch.strided and not x.is_nested for x in tensors)
        and query.numel() > 0  # libmha refuses some sizes of 0, such as of no heads
        and value.numel() > 0
        and not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))
        and not carries_tangent(*tensors)
    )


def _replacement(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if _blocks > 0 and _applies(query, key, value, attn_mask, dropout_p):
        return scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    return _pytorchs(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)


@contextmanager
def enable() -> Iterator[None]:
    """Let `torch.nn.functional.scaled_dot_product_attention` run on libmha inside a `with` block.

    Callers that look the function up in `torch.nn.functional` get `mha.torch.scaled_dot_product_attention` where it
    applies: tensors of float32, float16 or bfloat16 in CPU memory, not empty, no grad, no dropout; else PyTorch's own.

    The function is replaced for all threads while at least one block is active in any of them; blocks may be nested.
    """
    _add_blocks(1)
    try:
        yield
    finally:
        _add_blocks(-1)


def _add_blocks(number: int) -> None:
    global _blocks
    with _lock:
        _blocks += number
        _replace(_replacement if _blocks > 0 else _pytorchs)


def _replace(function: Any) -> None:
    """Unless somebody else has replaced the function: theirs may call ours, which then calls PyTorch's."""
    if functional.scaled_dot_product_attention in (_pytorchs, _replacement):
        functional.scaled_dot_product_attention = function
