"""What is compared: shapes, the arrays of a case, and its work."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Attention:
    """Tensors are [batch, heads, tokens, dim]; bthd: they lie in memory as [batch, tokens, heads, dim]."""

    batch: int
    q_heads: int
    kv_heads: int
    q_len: int
    kv_len: int
    head_dim: int
    causal: bool = False
    bthd: bool = False
    cold: bool = False  # K and V come from DRAM: another copy of them each time

    def __str__(self) -> str:
        heads = f"{self.q_heads}" if self.q_heads == self.kv_heads else f"{self.q_heads}:{self.kv_heads}"
        notes = ", causal" * self.causal + ", [B,T,H,D]" * self.bthd + ", from DRAM" * self.cold
        return f"{self.batch} x {heads} heads of {self.head_dim}, {self.q_len:,} x {self.kv_len:,}{notes}"

    @property
    def flops(self) -> float:
        """Useful work: half of it if causal."""
        scores = self.batch * self.q_heads * self.q_len * self.kv_len
        return 4 * scores * self.head_dim * (0.5 if self.causal else 1)

    @property
    def kv_bytes(self) -> int:
        """K and V, each byte once."""
        return 2 * 4 * self.batch * self.kv_heads * self.kv_len * self.head_dim

    def tensor(self, rng: np.random.Generator, heads: int, tokens: int) -> np.ndarray:
        shape = (self.batch, tokens, heads, self.head_dim) if self.bthd else (self.batch, heads, tokens, self.head_dim)
        array = rng.standard_normal(shape, np.float32)
        return array.transpose(0, 2, 1, 3) if self.bthd else array

    def arrays(self, dram_bytes: float) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """q, k, v; several of them, to be used in turn, if the case is cold."""
        rng = np.random.default_rng(1)
        q = self.tensor(rng, self.q_heads, self.q_len)
        copies = int(dram_bytes // self.kv_bytes) + 1 if self.cold else 1
        return [(q, *(self.tensor(rng, self.kv_heads, self.kv_len) for _ in "kv")) for _ in range(copies)]


@dataclass(frozen=True)
class Layer:
    """Self-attention of x [batch, tokens, width] with all projections and biases."""

    batch: int
    tokens: int
    width: int
    heads: int

    def __str__(self) -> str:
        return f"layer: {self.batch} x {self.tokens} tokens, {self.width} wide, {self.heads} heads"

    @property
    def flops(self) -> float:
        rows = self.batch * self.tokens
        return 8 * rows * self.width**2 + 4 * rows * self.tokens * self.width

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """x, Wqkv, its bias, Wo, its bias; weights [out, in]."""
        rng = np.random.default_rng(1)
        w = self.width
        shapes = [(self.batch, self.tokens, w), (3 * w, w), (3 * w,), (w, w), (w,)]
        x, wqkv, bqkv, wo, bo = (rng.standard_normal(shape, np.float32) for shape in shapes)
        return x, wqkv / np.float32(np.sqrt(w)), bqkv, wo / np.float32(np.sqrt(w)), bo


Case = Attention | Layer

CASES: list[Case] = [
    Attention(1, 12, 12, 512, 512, 64),
    Attention(1, 12, 12, 512, 512, 64, bthd=True),
    Attention(1, 12, 12, 512, 512, 64, causal=True),
    Attention(1, 16, 16, 2048, 2048, 64),
    Attention(1, 16, 16, 2048, 2048, 64, bthd=True),
    Attention(1, 16, 16, 2048, 2048, 64, causal=True),
    Attention(1, 8, 8, 1024, 1024, 128),
    Attention(1, 8, 8, 1024, 1024, 128, bthd=True),
    Attention(1, 4, 4, 4096, 4096, 128),
    Attention(1, 32, 8, 1024, 1024, 128, causal=True),
    Attention(1, 12, 12, 32, 32, 64),
    Attention(8, 12, 12, 32, 32, 64),
    Attention(1, 12, 12, 128, 128, 64),
    Attention(8, 12, 12, 128, 128, 64),
    Attention(1, 32, 8, 1, 4096, 128),
    Attention(1, 32, 32, 1, 4096, 128, cold=True),
    Attention(1, 32, 8, 1, 4096, 128, cold=True),
    Attention(1, 32, 1, 1, 4096, 128, cold=True),
    Attention(1, 32, 8, 1, 65536, 128, cold=True),
    Layer(1, 512, 768, 12),
    Layer(8, 128, 768, 12),
    Layer(1, 128, 384, 12),
]
