"""What a call costs beside its work: microseconds of calls with one query and one key, in one process on one thread.

The C library's own part is within every figure but the empty operator's, so each is an upper bound of the overhead.
Least of many rounds, in which all take turns. Without PyTorch only NumPy's rows are printed.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns

import mha
import numpy as np

ROUNDS, CALLS = 400, 50


def least(functions: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Microseconds of a call of each."""
    best = dict.fromkeys(functions, float("inf"))
    for _ in range(ROUNDS):
        for name, function in functions.items():
            start = perf_counter_ns()
            for _ in range(CALLS):
                function()
            best[name] = min(best[name], (perf_counter_ns() - start) / CALLS / 1000)
    return best


def numpy_calls() -> dict[str, Callable[[], object]]:
    q = np.ones((1, 1, 1, 64), np.float32)
    out = np.empty_like(q)
    return {
        "NumPy: mha.attention, out=": lambda: mha.attention(q, q, q, out=out, threads=1),
        "NumPy: mha.attention": lambda: mha.attention(q, q, q, threads=1),
    }


def torch_calls() -> dict[str, Callable[[], object]]:
    import mha.torch
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    q = torch.ones(1, 1, 1, 64)
    library = torch.library.Library("mha_bench", "DEF")
    library.define(str(torch.ops.mha.attention.default._schema).replace("mha::attention", "empty"))
    library.impl("empty", lambda query, key, value, *rest: torch.empty_like(query), "CPU")
    empty = torch.ops.mha_bench.empty.default
    return {
        "PyTorch: an empty custom operator": lambda: (library, empty(q, q, q, None, False, None)),
        "PyTorch: mha.torch.scaled_dot_product_attention": lambda: mha.torch.scaled_dot_product_attention(q, q, q),
        "PyTorch: mha.torch.attention": lambda: mha.torch.attention(q, q, q),
        "PyTorch: its own scaled_dot_product_attention": lambda: scaled_dot_product_attention(q, q, q),
        "PyTorch: mha.attention": lambda: mha.attention(q, q, q, threads=1),
    }


def main() -> None:
    calls = numpy_calls()
    try:
        calls |= torch_calls()
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
    for name, microseconds in least(calls).items():
        print(f"{name:50} {microseconds:6.1f} us")


if __name__ == "__main__":
    main()
