"""What attn_implementation="mha" does not do, and the sentence that says so."""

from __future__ import annotations

from typing import Any, NamedTuple

import mha.transformers
import pytest
import torch
import transformers
from mha.transformers._attention import attention_forward
from mha.transformers._mask import attention_mask

mha.transformers.register()

TEXT = {
    "vocab_size": 99,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
GROUPED = TEXT | {"num_key_value_heads": 2, "head_dim": 16}
SPARSE = {
    "moe_intermediate_size": 32,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "q_lora_rank": 32,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "index_n_heads": 2,
    "index_head_dim": 16,
    "index_topk": 2,
    "first_k_dense_replace": 1,
}
INTERFACE = "not through Transformers' AttentionInterface"


class Case(NamedTuple):
    config: Any
    sentence: str
    grad: bool = False
    train: bool = False
    output_attentions: bool = False


CASES = {
    "gradients": Case(transformers.LlamaConfig(**GROUPED), "computes no gradients: run", grad=True),
    "dropout": Case(transformers.LlamaConfig(**GROUPED, attention_dropout=0.5), "dropout is 0.5", train=True),
    "weights": Case(transformers.BertConfig(**TEXT), "no attention weights", output_attentions=True),
    "sinks": Case(
        transformers.GptOssConfig(**GROUPED, num_local_experts=2, num_experts_per_tok=1),
        r"needs attention sinks \(s_aux\)",
    ),
    "sparse": Case(transformers.DeepseekV32Config(**TEXT, **SPARSE), r"needs sparse attention \(indices\)"),
}
# With an attention of their own: a mask to add, a table of classes, or not even a mask of Transformers'.
OWN_ATTENTION = {
    "megatron-bert": transformers.MegatronBertConfig(**TEXT),
    "gpt-neo": transformers.GPTNeoConfig(
        vocab_size=99, hidden_size=64, num_layers=1, attention_types=[[["global"], 1]]
    ),
    "xlnet": transformers.XLNetConfig(vocab_size=99, d_model=64, n_layer=1, n_head=4),
}


@pytest.mark.parametrize("name", CASES)
def test_refused_when_run(name):
    case = CASES[name]
    auto = transformers.AutoModelForCausalLM if "Bert" not in type(case.config).__name__ else transformers.AutoModel
    model = auto.from_config(case.config, attn_implementation="mha").train(case.train)
    with torch.set_grad_enabled(case.grad), pytest.raises(ValueError, match=case.sentence):
        model(torch.tensor([[3, 4, 5, 6]]), output_attentions=case.output_attentions)


@pytest.mark.parametrize("name", OWN_ATTENTION)
def test_refused_when_made(name):
    with pytest.raises(ValueError, match=INTERFACE):
        transformers.AutoModel.from_config(OWN_ATTENTION[name], attn_implementation="mha")
    assert transformers.AutoModel.from_config(OWN_ATTENTION[name], attn_implementation="eager")


def test_mask_of_another_shape():
    """It would be broadcast, or read as windows, over keys it knows nothing of."""
    query = torch.zeros(1, 1, 2, 8)
    mask = attention_mask(batch_size=1, q_length=2, kv_length=1)
    with torch.no_grad(), pytest.raises(ValueError, match="the mask is of 2 queries and 1 keys, expected 2 and 2"):
        attention_forward(torch.nn.Module(), query, query, query, mask)


def test_old_release(monkeypatch):
    monkeypatch.setattr("mha.transformers._register.transformers.__version__", "5.3.0")
    with pytest.raises(ImportError, match="transformers is 5.3.0, expected 5.4 or later"):
        mha.transformers.register()
