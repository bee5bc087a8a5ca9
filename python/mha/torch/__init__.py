"""Attention of PyTorch tensors in CPU memory, computed by libmha without a copy; for inference."""

from mha.torch._attention import attention
from mha.torch._enable import enable
from mha.torch._multihead import MultiheadAttention
from mha.torch._sdpa import scaled_dot_product_attention

__all__ = ["MultiheadAttention", "attention", "enable", "scaled_dot_product_attention"]
