"""Attention of one layer of a model."""

from __future__ import annotations

from typing import Any

import torch

from mha.torch import attention
from mha.transformers._mask import Mask

# Arguments of an attention function without which the result would be another one.
_UNSUPPORTED = {
    "s_aux": "attention sinks",
    "sinks": "attention sinks",
    "indices": "sparse attention",
    "block_indices": "sparse attention",
}


def _refuse_unsupported(
    tensors: tuple[torch.Tensor, ...], dropout: float, output_attentions: bool, others: dict[str, Any]
) -> None:
    """Raise an error that says what this model needs and libmha does not have."""
    if dropout:
        raise ValueError(
            f"dropout is {dropout}; attn_implementation='mha' has none: call model.eval(), or train with 'sdpa'"
        )
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        raise ValueError(
            "attn_implementation='mha' computes no gradients: run the model under torch.inference_mode(), or train with "
            "attn_implementation='sdpa' or 'eager'"
        )
    if output_attentions:
        raise ValueError("attn_implementation='mha' returns no attention weights: use attn_implementation='eager'")
    for name, feature in _UNSUPPORTED.items():
        if others.get(name) is not None:
            raise ValueError(
                f"this model needs {feature} ({name}), which attn_implementation='mha' does not have: "
                "use attn_implementation='eager'"
            )


def _visible(
    module: torch.nn.Module, mask: torch.Tensor | None, is_causal: bool | None, q_len: int, kv_len: int
) -> dict[str, Any]:
    """The options of `mha.torch.attention` that say which keys a query sees."""
    if isinstance(mask, Mask):
        if mask.shape[2:] != (q_len, kv_len):
            raise ValueError(
                f"the mask is of {mask.shape[2]} queries and {mask.shape[3]} keys, expected {q_len} and {kv_len}"
            )
        return mask.options
    if mask is not None:
        return {"mask": mask}
    # A model that makes no mask; as "sdpa" understands it.
    return {"causal": q_len > 1 and (getattr(module, "is_causal", True) if is_causal is None else is_causal)}


def _biased(mask: torch.Tensor | None, bias: torch.Tensor) -> torch.Tensor:
    """An additive mask of both."""
    if mask is None:
        return bias
    return bias.where(mask, -torch.inf) if mask.dtype == torch.bool else bias + mask


def attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    position_bias: torch.Tensor | None = None,
    output_attentions: bool | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one layer; an entry of Transformers' AttentionInterface, whose arguments these are.

    query is [batch, q_heads, q_len, head_dim], key and value are [batch, kv_heads, kv_len, ...]; the result is [batch, q_len,
    q_heads, v_head_dim], and None for the weights.
    """
    _refuse_unsupported((query, key, value), dropout, bool(output_attentions), kwargs)
    options = _visible(module, attention_mask, is_causal, query.shape[2], key.shape[2])
    if position_bias is not None:
        options = {**options, "mask": _biased(options.get("mask"), position_bias)}
    out = attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        scale=scaling,
        softcap=softcap or 0.0,
        layout="bthd",
        **options,
    )
    return out, None
