"""What is compared: shapes, the arrays of a case, and its work."""

from __future__ import annotations

from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np

Arrays = tuple[np.ndarray, ...]

ALIGN = 64  # of all arrays, in bytes: a vector, and a line of the caches


DTYPES = {"f32": np.dtype(np.float32), "f16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}


def empty(shape: tuple[int, ...], dtype: str = "f32") -> np.ndarray:
    count, size = int(np.prod(shape)), DTYPES[dtype].itemsize
    memory = np.empty(count + ALIGN // size, DTYPES[dtype])
    start = -memory.ctypes.data % ALIGN // size
    return memory[start : start + count].reshape(shape)


def normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: str, deviation: float = 1) -> np.ndarray:
    array = empty(shape, dtype)
    array[...] = rng.standard_normal(shape, np.float32) * np.float32(deviation)
    return array


def circle(item_bytes: int, cold: bool, dram_bytes: float) -> range:
    """How many copies are used in turn, so that each comes from DRAM if it should."""
    return range(int(dram_bytes // item_bytes) + 1 if cold else 1)


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
    dtype: str = "f32"
    precision: str = "highest"

    kind = "attention"

    def __str__(self) -> str:
        heads = f"{self.q_heads}" if self.q_heads == self.kv_heads else f"{self.q_heads}:{self.kv_heads}"
        notes = ", causal" * self.causal + ", [B,T,H,D]" * self.bthd + ", from DRAM" * self.cold + dtype_note(self)
        return f"{self.batch} x {heads} heads of {self.head_dim}, {self.q_len:,} x {self.kv_len:,}{notes}"

    @property
    def prefill(self) -> bool:
        return self.q_len >= 512

    @property
    def decode(self) -> bool:
        return self.q_len == 1

    @property
    def cached(self) -> bool:
        """One query after keys and values that stay in a cache: so short that what Python adds counts."""
        return self.decode and not self.cold

    @property
    def flops(self) -> float:
        """Useful work: half of it if causal."""
        scores = self.batch * self.q_heads * self.q_len * self.kv_len
        return 4 * scores * self.head_dim * (0.5 if self.causal else 1)

    @property
    def read_bytes(self) -> int:
        """K and V, each byte once, where reading them may take longer than computing."""
        elements = 2 * self.batch * self.kv_heads * self.kv_len * self.head_dim
        return elements * DTYPES[self.dtype].itemsize if self.decode else 0

    @property
    def plain(self) -> Attention | None:
        """The same shape without what makes it special."""
        special = self.prefill and self.dtype == "f32" and (self.causal or self.bthd)
        return replace(self, causal=False, bthd=False) if special else None

    def tensor(self, heads: int, tokens: int, rng: np.random.Generator | None = None) -> np.ndarray:
        """Of random numbers, or of none."""
        shape = (self.batch, tokens, heads, self.head_dim) if self.bthd else (self.batch, heads, tokens, self.head_dim)
        array = normal(rng, shape, self.dtype) if rng else empty(shape, self.dtype)
        return array.transpose(0, 2, 1, 3) if self.bthd else array

    def arrays(self, dram_bytes: float) -> list[Arrays]:
        """q, k, v; several of them if the case is cold."""
        rng = np.random.default_rng(1)
        q = self.tensor(self.q_heads, self.q_len, rng)
        copies = circle(self.read_bytes, self.cold, dram_bytes)
        return [(q, *(self.tensor(self.kv_heads, self.kv_len, rng) for _ in "kv")) for _ in copies]

    def streamed(self, arrays: Arrays) -> Arrays:
        """The two halves of read_bytes."""
        return arrays[1:]


@dataclass(frozen=True)
class Linear:
    """x [rows, inputs] times weights [outputs, inputs], transposed."""

    rows: int
    outputs: int
    inputs: int
    cold: bool = False  # weights come from DRAM: another copy of them each time
    dtype: str = "f32"

    kind = "linear"

    def __str__(self) -> str:
        rows = f"{self.rows:,} row{'s' * (self.rows > 1)}"
        return f"linear: {rows}, {self.inputs:,} to {self.outputs:,} wide{', from DRAM' * self.cold}{dtype_note(self)}"

    @property
    def flops(self) -> float:
        return 2.0 * self.rows * self.outputs * self.inputs

    @property
    def read_bytes(self) -> int:
        """The weights, where reading them may take longer than computing."""
        return DTYPES[self.dtype].itemsize * self.outputs * self.inputs if self.cold else 0

    def arrays(self, dram_bytes: float) -> list[Arrays]:
        """x, weights; several of them if the case is cold."""
        rng = np.random.default_rng(1)
        x = normal(rng, (self.rows, self.inputs), self.dtype)
        copies = circle(self.read_bytes, self.cold, dram_bytes)
        return [(x, normal(rng, (self.outputs, self.inputs), self.dtype, self.inputs**-0.5)) for _ in copies]

    def streamed(self, arrays: Arrays) -> Arrays:
        half = self.outputs // 2
        return arrays[1][:half], arrays[1][half:]


@dataclass(frozen=True)
class Layer:
    """Self-attention of x [batch, tokens, width] with all projections and biases."""

    batch: int
    tokens: int
    width: int
    heads: int
    dtype: str = "f32"

    kind = "layer"
    read_bytes = 0

    def __str__(self) -> str:
        return f"layer: {self.batch} x {self.tokens} tokens, {self.width} wide, {self.heads} heads{dtype_note(self)}"

    @property
    def flops(self) -> float:
        rows = self.batch * self.tokens
        return 8 * rows * self.width**2 + 4 * rows * self.tokens * self.width

    def arrays(self, dram_bytes: float) -> list[Arrays]:
        """x, Wqkv, its bias, Wo, its bias; weights [out, in]."""
        rng = np.random.default_rng(1)
        w = self.width
        x, bqkv, bo = (normal(rng, shape, self.dtype) for shape in ((self.batch, self.tokens, w), (3 * w,), (w,)))
        wqkv, wo = (normal(rng, shape, self.dtype, w**-0.5) for shape in ((3 * w, w), (w, w)))
        return [(x, wqkv, bqkv, wo, bo)]


Case = Attention | Linear | Layer


def dtype_note(case: Case) -> str:
    precision = getattr(case, "precision", "highest")
    return ("" if case.dtype == "f32" else f", {case.dtype}") + f", precision {precision}" * (precision != "highest")


PREFILL = [
    Attention(1, 12, 12, 512, 512, 64),
    Attention(1, 12, 12, 512, 512, 64, bthd=True),
    Attention(1, 12, 12, 512, 512, 64, causal=True),
    Attention(1, 16, 16, 2048, 2048, 64),
    Attention(1, 16, 16, 2048, 2048, 64, bthd=True),
    Attention(1, 16, 16, 2048, 2048, 64, causal=True),
    Attention(1, 8, 8, 1024, 1024, 128),
    Attention(1, 8, 8, 1024, 1024, 128, bthd=True),
    Attention(1, 4, 4, 4096, 4096, 128),
    Attention(1, 4, 4, 4096, 4096, 128, bthd=True),
    Attention(1, 32, 8, 1024, 1024, 128, causal=True),
]
SHORT = [Attention(batch, 12, 12, tokens, tokens, 64) for tokens in (32, 64, 128) for batch in (1, 8)]
DECODE = [
    *(Attention(1, 32, kv_heads, 1, kv_len, 128, cold=True) for kv_len in (4096, 65536) for kv_heads in (32, 8, 1)),
    Attention(1, 32, 8, 1, 4096, 128),
    Attention(1, 32, 8, 1, 1024, 128),
    Attention(1, 8, 2, 1, 256, 128),
]
CALL = Attention(1, 1, 1, 1, 16, 64)  # next to no work
LINEAR = [
    *(Linear(rows, 768, 768) for rows in (128, 512, 2048)),
    Linear(512, 4096, 4096),
    *(Linear(rows, 4096, 4096, cold=True) for rows in (1, 2, 4)),
]
LAYERS = [Layer(1, 512, 768, 12), Layer(8, 128, 768, 12), Layer(1, 128, 384, 12)]

# bf16 may be multiplied here.
HALF = [
    *(Attention(1, 12, 12, tokens, tokens, 64, dtype="bf16") for tokens in (32, 64, 128, 512)),
    Attention(1, 12, 12, 512, 512, 64, causal=True, dtype="bf16"),
    Attention(1, 16, 16, 2048, 2048, 64, dtype="bf16"),
    Attention(1, 8, 8, 1024, 1024, 128, dtype="bf16"),
    Attention(1, 4, 4, 4096, 4096, 128, dtype="bf16"),
    Attention(1, 12, 12, 512, 512, 64, dtype="f16"),
    *(Attention(1, 12, 12, 512, 512, 64, precision=precision) for precision in ("high", "medium")),
    *(Attention(1, 32, heads, 1, 4096, 128, cold=True, dtype=d) for d in ("bf16", "f16") for heads in (32, 8)),
    Attention(1, 32, 8, 1, 4096, 128, dtype="bf16"),
    *(Linear(rows, 768, 768, dtype="bf16") for rows in (512, 2048)),
    *(Linear(rows, 4096, 4096, cold=True, dtype="bf16") for rows in (1, 4)),
    Layer(1, 512, 768, 12, dtype="bf16"),
]

CASES: list[Case] = [*PREFILL, *SHORT, *DECODE, CALL, *LINEAR, *LAYERS, *HALF]
