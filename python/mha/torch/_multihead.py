"""torch.nn.MultiheadAttention on mha.Layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import mha
from mha.torch._attention import readable, refuse_grad


class MultiheadAttention(nn.Module):
    """A `torch.nn.MultiheadAttention` for inference, whose forward pass runs on `mha.Layer`.

    Made by `from_torch`. It has packed weights of its own, no parameters, and computes what the original computes in
    evaluation mode. Weights keep the original's dtype: float32, float16 or bfloat16. Tensors may be of any of the three,
    whatever the weights are.

    `torch.nn.TransformerEncoder` and `TransformerDecoder` run on it if their layers' attention is replaced; set the
    encoder's `use_nested_tensor` to False then, because it would read weights of the first layer by itself.
    """

    # As of a module without biases, which keeps torch.nn.TransformerEncoderLayer from reading weights by itself.
    in_proj_bias = None

    def __init__(self, layer: mha.Layer, *, batch_first: bool) -> None:
        super().__init__()
        self._layer = layer
        self.embed_dim = layer.q_dim
        self.num_heads = layer.q_heads
        self.batch_first = batch_first

    @classmethod
    def from_torch(cls, module: nn.MultiheadAttention) -> MultiheadAttention:
        """Pack the weights of `module`, which is left as it is and not needed afterwards.

        Raises
        ------
        ValueError
            If it was made with add_bias_kv or add_zero_attn, or kdim is not vdim.
        TypeError
            If a weight's dtype is not supported.
        """
        for option, given in (("add_bias_kv", module.bias_k is not None), ("add_zero_attn", module.add_zero_attn)):
            if given:
                raise ValueError(f"module has {option}=True, expected False: mha.Layer adds no keys")
        if module.kdim != module.vdim:
            raise ValueError(f"module has kdim={module.kdim} and vdim={module.vdim}, expected equal ones")
        return cls(_pack(module), batch_first=module.batch_first)

    @torch.compiler.disable
    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute the layer's output, as `torch.nn.MultiheadAttention` does.

        Parameters
        ----------
        query : Tensor, shape (q_len, batch, embed_dim) or (q_len, embed_dim)
            (batch, q_len, embed_dim) if `batch_first`.
        key, value : Tensor, shape (kv_len, batch, kdim) or (kv_len, kdim)
            (batch, kv_len, kdim) if `batch_first`. The same tensor.
        key_padding_mask : Tensor, shape (batch, kv_len) or (kv_len,)
            Of bool: True excludes a key. Of floats: added to the scaled scores.
        need_weights : bool
            Also return the attention weights, which costs time and memory.
        attn_mask : Tensor, shape (q_len, kv_len) or (batch * num_heads, q_len, kv_len)
            As `key_padding_mask`.
        average_attn_weights : bool
            Return the weights' mean over heads.
        is_causal : bool
            Says that `attn_mask`, which must be given, is the causal one.

        Returns
        -------
        out : Tensor, shape as query
            Of query's dtype. A query that sees no key gets the output projection's bias, where PyTorch gives NaN.
        weights : Tensor, shape ([batch,] [num_heads,] q_len, kv_len), or None
            Of query's dtype. Without num_heads if `average_attn_weights`.

        Raises
        ------
        RuntimeError
            If grad mode is on and an input requires grad.
        ValueError
            If `key` and `value` are not the same tensor, or an argument contradicts another.
        TypeError
            If a tensor's dtype is not supported.
        """
        refuse_grad(query, key, value, attn_mask)
        if not _same(key, value):
            raise ValueError(
                "key and value are different tensors, expected the same one: mha.Layer projects both from it"
            )
        if is_causal and attn_mask is None:
            raise ValueError("attn_mask is None, expected the causal mask that is_causal=True announces")
        out = torch.empty_like(query, memory_format=torch.contiguous_format)
        q, kv = self._batched(query), self._batched(key)
        result = self._layer(
            q,
            None if _same(query, key) else kv,
            mask=self._mask(None if is_causal else attn_mask, key_padding_mask, q.shape[0]),
            causal=is_causal,
            return_weights=need_weights,
            out=self._batched(out),
            threads=torch.get_num_threads(),
        )
        if not need_weights:
            return out, None
        weights = (result[1].mean(1) if average_attn_weights else result[1]).to(query.dtype)
        return out, weights if query.dim() == 3 else weights[0]

    def _batched(self, x: Tensor) -> Tensor:
        """[batch, tokens, width]"""
        if x.dim() == 2:
            return readable(x).unsqueeze(0)
        return readable(x if self.batch_first else x.transpose(0, 1))

    def _mask(self, attn_mask: Tensor | None, key_padding_mask: Tensor | None, batch: int) -> Tensor | None:
        """One mask that broadcasts to [batch, heads, q_len, kv_len], where False or -inf excludes."""
        if attn_mask is not None and attn_mask.dim() == 3:
            attn_mask = attn_mask.unflatten(0, (batch, self.num_heads))
        if key_padding_mask is not None:
            key_padding_mask = key_padding_mask.reshape(batch, 1, 1, -1)
        given = [mask for mask in (attn_mask, key_padding_mask) if mask is not None]
        if all(mask.dtype is torch.bool for mask in given):
            return ~(given[0] if len(given) == 1 else given[0] | given[1]) if given else None
        added = [_additive(mask) for mask in given]
        return added[0] if len(added) == 1 else added[0] + added[1]


def _pack(module: nn.MultiheadAttention) -> mha.Layer:
    weights = {"wo": module.out_proj.weight, "bo": module.out_proj.bias}
    if module.in_proj_weight is not None:
        weights |= {"wqkv": module.in_proj_weight, "bqkv": module.in_proj_bias}
    else:
        weights |= {"wq": module.q_proj_weight, "wk": module.k_proj_weight, "wv": module.v_proj_weight}
        if module.in_proj_bias is not None:
            weights |= dict(zip(("bq", "bk", "bv"), module.in_proj_bias.chunk(3), strict=True))
    given: dict[str, Any] = {name: weight.detach() for name, weight in weights.items() if weight is not None}
    return mha.Layer(**given, q_heads=module.num_heads)


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or (
        a.data_ptr() == b.data_ptr() and a.dtype == b.dtype and a.shape == b.shape and a.stride() == b.stride()
    )


def _additive(mask: Tensor) -> Tensor:
    if mask.dtype is not torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=torch.float32).masked_fill_(mask, float("-inf"))
