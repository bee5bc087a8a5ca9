"""bench/instruments.c: the limits of one core, and libmha called from C."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import numpy as np

from comparison.cases import Attention, Case, Linear, empty
from comparison.measure import Timed


MHA_DTYPES = {"f32": 1, "f16": 2, "bf16": 3}  # mha_dtype


class Instruments:
    """Arrays go as array.ctypes, which keeps them alive."""

    def __init__(self, library: Path, isa: str) -> None:
        self.library, self.isa = ctypes.CDLL(str(library.resolve())), isa.encode()
        for name in ("multiply_add", "read", "product", "attention"):
            getattr(self.library, f"instruments_{name}").restype = ctypes.c_double
        self.library.instruments_packed_bytes.restype = ctypes.c_size_t
        self.library.bench_dram_bytes.restype = ctypes.c_double
        self.dram_bytes: float = self.library.bench_dram_bytes()

    def timed(self, name: str, *arguments: object) -> Timed:
        function = getattr(self.library, f"instruments_{name}")
        return lambda times: function(self.isa, *arguments, ctypes.c_size_t(times))

    def multiply_add(self, case: Case) -> Timed:
        """As much work on registers: in bf16 what may be multiplied so, where the instruction set does it."""
        decode, lower = getattr(case, "decode", False), getattr(case, "precision", "highest") != "highest"
        dtype = MHA_DTYPES["f32" if decode else "bf16" if lower else case.dtype]
        multiply_add = self.library.instruments_multiply_add
        return lambda times: multiply_add(self.isa, dtype, ctypes.c_double(times * case.flops))

    def read(self, a: np.ndarray, b: np.ndarray) -> Timed:
        return self.timed("read", a.ctypes, b.ctypes, ctypes.c_size_t(a.nbytes // 4))

    def product(self, case: Linear, x: np.ndarray, weights: np.ndarray, y: np.ndarray) -> Timed:
        dtype, sizes = MHA_DTYPES[case.dtype], [ctypes.c_int64(size) for size in weights.shape]
        packed = empty((self.library.instruments_packed_bytes(self.isa, dtype, *sizes) // 4,))
        self.library.instruments_pack(self.isa, dtype, weights.ctypes, *sizes, packed.ctypes)
        return self.timed("product", dtype, x.ctypes, packed.ctypes, y.ctypes, ctypes.c_int64(len(x)), *sizes)

    def attention(self, case: Attention, q: np.ndarray, k: np.ndarray, v: np.ndarray, out: np.ndarray) -> Timed:
        arrays = (array.ctypes for array in (q, k, v, out))
        return self.timed("attention", MHA_DTYPES[case.dtype], sizes_of(case), *arrays)

    def worker_bytes(self, case: Attention, workers: int) -> int:
        """Workspace of each worker; split partials are beside it."""
        text = ctypes.create_string_buffer(4096)
        describe = self.library.instruments_describe
        describe(self.isa, MHA_DTYPES[case.dtype], sizes_of(case), ctypes.c_size_t(workers), text, ctypes.c_size_t(len(text)))
        return int(re.search(r"(\d+) a worker", text.value.decode())[1])


def sizes_of(case: Attention) -> ctypes.Array:
    return (ctypes.c_int64 * 5)(case.q_heads, case.kv_heads, case.q_len, case.kv_len, case.head_dim)
