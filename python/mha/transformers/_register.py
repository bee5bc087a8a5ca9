"""The entry in Transformers' lists of attention implementations."""

from __future__ import annotations

import functools

import transformers
from transformers import PreTrainedModel

from mha.transformers._attention import attention_forward
from mha.transformers._mask import attention_mask

# The first release whose mask functions take lengths and offsets of queries.
_OLDEST = (5, 4)


_get_correct_implementation = PreTrainedModel.get_correct_attn_implementation


@functools.wraps(_get_correct_implementation)
def _get_implementation_or_refuse(
    self: PreTrainedModel, requested_attention: str | None, is_init_check: bool = False
) -> str:
    """Transformers tells "sdpa" from models that do not support it; names that are registered it would give to any."""
    if requested_attention == "mha" and not self._can_set_attn_implementation():
        raise ValueError(
            f"{type(self).__name__} computes attention itself, not through Transformers' AttentionInterface, so that "
            "attn_implementation='mha' would have no effect or a wrong one: use attn_implementation='eager'"
        )
    return _get_correct_implementation(self, requested_attention, is_init_check)


def register() -> None:
    """Make "mha" an attention implementation of Transformers.

    From then on `attn_implementation="mha"` runs unmodified models on libmha, on the CPU and for inference: encoders,
    decoders with any cache and `generate()`, grouped queries, sliding windows, softcap. Calling it again changes nothing.

    Raises
    ------
    ImportError
        If this release of Transformers is older than 5.4.

    Notes
    -----
    A model raises an error when it is run, rather than compute something else, if it

    - needs gradients or dropout (use `torch.inference_mode()` and `model.eval()`; train with "sdpa" or "eager");
    - is asked for attention weights (`output_attentions=True`);
    - has attention sinks (GPT-OSS) or picks single keys (sparse attention of DeepSeek V3.2);
    - adds its mask to scores of its own, because its attention does not go through Transformers' `AttentionInterface`.

    Examples
    --------
    >>> import mha.transformers
    >>> import torch
    >>> from transformers import AutoModelForCausalLM, LlamaConfig
    >>> mha.transformers.register()
    >>> config = LlamaConfig(vocab_size=99, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
    ...                      num_attention_heads=4, num_key_value_heads=2)
    >>> model = AutoModelForCausalLM.from_config(config, attn_implementation="mha").eval()
    >>> prompt = torch.tensor([[1, 2, 3]])
    >>> model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=4, do_sample=False).shape
    torch.Size([1, 7])
    """
    if tuple(int(part) for part in transformers.__version__.split(".")[:2]) < _OLDEST:
        raise ImportError(
            f"transformers is {transformers.__version__}, expected {'.'.join(map(str, _OLDEST))} or later"
        )
    PreTrainedModel.get_correct_attn_implementation = _get_implementation_or_refuse  # type: ignore[method-assign]
    transformers.AttentionInterface.register("mha", attention_forward)
    transformers.AttentionMaskInterface.register("mha", attention_mask)
