"""Hugging Face Transformers on libmha: `attn_implementation="mha"`."""

from mha.transformers._register import register

__all__ = ["register"]
