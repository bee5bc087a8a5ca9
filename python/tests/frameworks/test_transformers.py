"""Unmodified models on attn_implementation="mha" against the same weights on "eager"."""

from __future__ import annotations

import os
from collections import Counter
from copy import deepcopy
from typing import Any, NamedTuple

import mha.transformers
import pytest
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

mha.transformers.register()

# Of the largest logit. Sums are in another order, in f32, and layers pass their roundings on.
TOLERANCE = 1e-5

# Weights are drawn much wider than for training, so that queries prefer some keys to others.
TEXT = {
    "vocab_size": 99,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
GROUPED = TEXT | {"num_key_value_heads": 2, "head_dim": 16}
IMAGE = {
    "image_size": 20,
    "patch_size": 4,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "initializer_range": 0.2,
}
WINDOW = 7  # shorter than the prompts
WHISPER = {
    "vocab_size": 99,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "num_mel_bins": 8,
    "max_source_positions": 20,
    "max_target_positions": 64,
    "init_std": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
    "decoder_start_token_id": 1,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}
T5 = {
    "vocab_size": 99,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 96,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "pad_token_id": 0,
    "eos_token_id": None,
    "decoder_start_token_id": 0,
    "initializer_factor": 1.0,
}

LENGTHS = (13, 9, 1)  # of the prompts of a batch


class Case(NamedTuple):
    """A model, its attention layers, of which so many run only once when it generates (those over the prompt)."""

    auto: Any
    config: Any
    layers: int
    once: int = 0


BASE, CAUSAL = transformers.AutoModel, transformers.AutoModelForCausalLM
CASES = {
    "bert": Case(BASE, transformers.BertConfig(**TEXT), 4),
    "gpt2": Case(CAUSAL, transformers.GPT2Config(**TEXT), 4),
    "llama": Case(CAUSAL, transformers.LlamaConfig(**GROUPED), 4),
    "mistral": Case(CAUSAL, transformers.MistralConfig(**GROUPED, sliding_window=WINDOW), 4),
    "gemma2": Case(
        CAUSAL,
        transformers.Gemma2Config(
            **GROUPED, sliding_window=WINDOW, attn_logit_softcapping=2.0, query_pre_attn_scalar=16, use_cache=True
        ),
        4,
    ),
    "gemma3": Case(
        CAUSAL,
        transformers.Gemma3TextConfig(
            **GROUPED, sliding_window=WINDOW, sliding_window_pattern=2, query_pre_attn_scalar=16
        ),
        4,
    ),
    "qwen3": Case(
        CAUSAL,
        transformers.Qwen3Config(**GROUPED, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=2),
        4,
    ),
    "phi3": Case(CAUSAL, transformers.Phi3Config(**TEXT, num_key_value_heads=2, sliding_window=WINDOW), 4),
    "whisper": Case(transformers.AutoModelForSpeechSeq2Seq, transformers.WhisperConfig(**WHISPER), 2 + 2 * 3, 2),
    "t5": Case(transformers.AutoModelForSeq2SeqLM, transformers.T5Config(**T5), 2 + 2 * 2, 2),
    "vit": Case(BASE, transformers.ViTConfig(**IMAGE), 3),
    "siglip": Case(BASE, transformers.SiglipVisionConfig(**IMAGE, vision_use_head=False), 3),
}
DECODERS = [name for name, case in CASES.items() if case.auto is CAUSAL]
HALVES = ("bert", "gemma2", "llama", "t5") if os.environ.get("MHA_TEST_QUICK") else tuple(CASES)
GENERATORS = [name for name, case in CASES.items() if case.auto is not BASE]


class Operators(TorchDispatchMode):
    """Counts what runs."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count[func.name()] += 1
        return func(*args, **(kwargs or {}))

    def attention(self) -> int:
        """How often libmha's ran; no attention of PyTorch's own, which has a softmax, did."""
        assert not [name for name in self.count if "softmax" in name or "scaled_dot_product" in name]
        return self.count["mha::attention"]


def build(name: str, dtype: torch.dtype = torch.float32):
    """The model twice: on eager and on mha."""
    case = CASES[name]
    models = []
    for implementation in ("eager", "mha"):
        torch.manual_seed(5)
        model = case.auto.from_config(deepcopy(case.config), attn_implementation=implementation, dtype=dtype)
        models.append(model.eval())
    return models


def prompts(side: str) -> dict[str, torch.Tensor]:
    """A batch of prompts of different lengths, padded on that side."""
    ids = torch.randint(1, 99, (len(LENGTHS), max(LENGTHS)), generator=torch.Generator().manual_seed(6))
    present = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    present = present.flip(1) if side == "left" else present
    return {"input_ids": ids * present, "attention_mask": present.long()}


def inputs(model, side: str) -> dict[str, torch.Tensor]:
    """What the model takes, and as much of it as it takes."""
    generator = torch.Generator().manual_seed(7)
    match model.main_input_name:
        case "pixel_values":
            return {"pixel_values": torch.randn(2, 3, 20, 20, generator=generator, dtype=model.dtype)}
        case "input_features":
            return {"input_features": torch.randn(3, 8, 40, generator=generator, dtype=model.dtype)}
    return prompts(side)


def decoder_inputs(model) -> dict[str, torch.Tensor]:
    """For one forward pass of an encoder and a decoder."""
    if not model.config.is_encoder_decoder:
        return {}
    text = prompts("right")
    return {"decoder_input_ids": text["input_ids"], "decoder_attention_mask": text["attention_mask"]}


def forward(model, given: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits, or where there are none the last hidden state, [batch, tokens, width], zero where tokens are padding."""
    with torch.inference_mode():
        outputs = model(**given)
    result = outputs.logits if "logits" in outputs else outputs.last_hidden_state
    present = given.get("decoder_attention_mask", given.get("attention_mask"))
    return result.float() if present is None else result.float() * present[:, :, None]


def assert_close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * expected.abs().max().item())


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", CASES)
def test_logits(name, side):
    """Of a padded batch."""
    eager, model = build(name)
    given = inputs(model, side) | decoder_inputs(model)
    with Operators() as operators:
        actual = forward(model, given)
    assert operators.attention() == CASES[name].layers
    assert_close(actual, forward(eager, given))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", HALVES)
def test_half_precision(name, dtype):
    """As near to the model in f32 as eager is, by the rule for comparisons with peers."""
    eager, model = build(name, dtype)
    given = inputs(model, "left") | decoder_inputs(model)
    in_f32 = {key: value.float() if value.is_floating_point() else value for key, value in given.items()}
    exact = forward(deepcopy(eager).float(), in_f32)
    with Operators() as operators:
        error = forward(model, given) - exact
    assert operators.attention() == CASES[name].layers
    peers = forward(eager, given) - exact
    assert error.square().mean().sqrt() <= 1.5 * peers.square().mean().sqrt()
    assert error.abs().max() <= 2 * peers.abs().max()


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("name", GENERATORS)
def test_generate(name, cache):
    """Greedily, prompts of different lengths padded on the left; longer than any window."""
    eager, model = build(name)
    given = inputs(model, "left")
    options = {"max_new_tokens": 12, "do_sample": False, "cache_implementation": cache}
    with Operators() as operators:
        actual = model.generate(**given, **options)
    case = CASES[name]
    assert operators.attention() == case.once + 12 * (case.layers - case.once)
    torch.testing.assert_close(actual, eager.generate(**given, **options), rtol=0, atol=0)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", DECODERS)
def test_prefill_in_chunks(name, padded):
    """A prompt in pieces behind a cache: queries start at a position of their own."""
    eager, model = build(name)
    given = prompts("left")
    present = given["attention_mask"] if padded else torch.ones_like(given["attention_mask"])
    expected = forward(eager, given | {"attention_mask": present})
    cache = transformers.DynamicCache(config=model.config)
    pieces = []
    for start, end in [(0, 4), (4, 5), (5, 13)]:
        with torch.inference_mode():
            outputs = model(
                input_ids=given["input_ids"][:, start:end],
                attention_mask=present[:, :end] if padded else None,
                position_ids=torch.arange(start, end)[None],
                cache=cache,
            )
        pieces.append(outputs.logits)
    assert_close(torch.cat(pieces, 1) * present[:, :, None], expected)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
@pytest.mark.parametrize("name", DECODERS)
def test_mask_of_the_caller(name, dtype):
    """Four-dimensional, of bits or to be added."""
    eager, model = build(name)
    given = prompts("left")
    visible = torch.rand(3, 1, 13, 13, generator=torch.Generator().manual_seed(8)) < 0.5
    visible |= torch.eye(13, dtype=torch.bool)
    added = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)
    actual = forward_masked(model, given["input_ids"], visible if dtype is torch.bool else added)
    assert_close(actual, forward_masked(eager, given["input_ids"], added))


def forward_masked(model, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    layers = set(getattr(model.config, "layer_types", None) or [])
    with torch.inference_mode():  # models with several kinds of layers take a mask for each
        return model(input_ids=ids, attention_mask=dict.fromkeys(layers, mask) if layers else mask).logits


@pytest.mark.parametrize("cache", ["none", "static"])
def test_compiled(cache):
    """In one graph; with a static cache the mask is made outside of it."""
    eager, model = build("gemma3")
    given = prompts("left")
    if cache == "none":
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        assert_close(forward(compiled, given), forward(eager, given))
    else:
        options = {"max_new_tokens": 6, "do_sample": False, "cache_implementation": "static"}
        expected = eager.generate(**given, **options)
        model.forward = torch.compile(model.forward, backend="aot_eager")
        torch.testing.assert_close(model.generate(**given, **options), expected, rtol=0, atol=0)
