"""bench/instruments.c: the limits of one core, and libmha called from C."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import numpy as np

from comparison.cases import Attention, empty
from comparison.measure import Timed


class Instruments:
    """Arrays go as array.ctypes, which keeps them alive."""

    def __init__(self, library: Path, isa: str) -> None:
        self.library, self.isa = ctypes.CDLL(str(library.resolve())), isa.encode()
        for name in ("multiply_add", "read", "product", "attention"):
            getattr(self.library, f"instruments_{name}").restype = ctypes.c_double
        self.library.instruments_packed_floats.restype = ctypes.c_size_t
        self.library.bench_dram_bytes.restype = ctypes.c_double
        self.dram_bytes: float = self.library.bench_dram_bytes()

    def timed(self, name: str, *arguments: object) -> Timed:
        function = getattr(self.library, f"instruments_{name}")
        return lambda times: function(self.isa, *arguments, ctypes.c_size_t(times))

    def multiply_add(self, flops: float) -> Timed:
        return lambda times: self.library.instruments_multiply_add(self.isa, ctypes.c_double(times * flops))

    def read(self, a: np.ndarray, b: np.ndarray) -> Timed:
        return self.timed("read", a.ctypes, b.ctypes, ctypes.c_size_t(a.size))

    def product(self, x: np.ndarray, weights: np.ndarray, y: np.ndarray) -> Timed:
        sizes = [ctypes.c_int64(size) for size in weights.shape]
        packed = empty((self.library.instruments_packed_floats(self.isa, *sizes),))
        self.library.instruments_pack(self.isa, weights.ctypes, *sizes, packed.ctypes)
        return self.timed("product", x.ctypes, packed.ctypes, y.ctypes, ctypes.c_int64(len(x)), *sizes)

    def attention(self, case: Attention, q: np.ndarray, k: np.ndarray, v: np.ndarray, out: np.ndarray) -> Timed:
        return self.timed("attention", sizes_of(case), *(array.ctypes for array in (q, k, v, out)))

    def worker_bytes(self, case: Attention, workers: int) -> int:
        """Workspace of each worker; split partials are beside it."""
        text = ctypes.create_string_buffer(4096)
        describe = self.library.instruments_describe
        describe(self.isa, sizes_of(case), ctypes.c_size_t(workers), text, ctypes.c_size_t(len(text)))
        return int(re.search(r"(\d+) a worker", text.value.decode())[1])


def sizes_of(case: Attention) -> ctypes.Array:
    return (ctypes.c_int64 * 5)(case.q_heads, case.kv_heads, case.q_len, case.kv_len, case.head_dim)
