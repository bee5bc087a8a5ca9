"""The kernels a call uses."""

from __future__ import annotations

from functools import cache
from typing import Any

from mha import _mha


class Context:
    """A choice of kernels; immutable, and usable from any number of threads at once.

    Parameters
    ----------
    isa : str, optional
        The instruction set to use: "scalar", "avx2", "avx512", "avx512bf16", "amx", "neon" or "neonbf16". By default
        the environment variable MHA_ISA if it is set, else the best one that this CPU has; "avx512bf16" and "amx" only
        by name.
    exp : {"auto", "sleef", "fused"}
        The exponential inside softmax: SLEEF's (at most 1.0 ULP), or one fused into the loop (at most 1.1 ULP). "auto"
        takes the faster one.
    precision : {"highest", "high", "medium"}
        How exactly products are computed, named as PyTorch's float32 matmul precision. "avx512bf16", "amx" and
        "neonbf16" multiply bfloat16 where there are more than 4 queries, and in a layer's projections by bfloat16
        weights; with "medium" arrays and weights of other dtypes are rounded to it there. "high" may drop all but 16
        bits of a float32; today it drops none and is "highest". Other instruction sets ignore the option.

    Attributes
    ----------
    isa : str
        The instruction set in use.

    Raises
    ------
    ValueError
        If `isa` is unknown or this CPU lacks it, or `exp` or `precision` is unknown.

    Examples
    --------
    >>> reference = mha.Context(isa="scalar")
    >>> out = mha.attention(q, k, v, context=reference)
    >>> faster = mha.Context(precision="medium")
    """

    def __init__(self, isa: str | None = None, exp: str = "auto", precision: str = "highest") -> None:
        self._handle = _mha.Context(isa, exp, precision)
        self._exp = exp
        self._precision = precision

    @property
    def isa(self) -> str:
        return self._handle.isa

    def __repr__(self) -> str:
        return f"mha.Context(isa={self.isa!r}, exp={self._exp!r}, precision={self._precision!r})"


@cache
def _default() -> Context:
    return Context()


def resolve(context: Context | None) -> _mha.Context:
    """The context of one call; the default one is created on first use."""
    if context is None:
        context = _default()
    if not isinstance(context, Context):
        raise TypeError(f"context is of type {type(context).__name__}, expected mha.Context")
    return context._handle


def cpu_info() -> dict[str, Any]:
    """Describe what this CPU can do and what the library makes of it.

    Returns
    -------
    dict
        "version" : str
            The version of libmha.
        "features" : list of str
            CPU features that were detected and that the operating system supports.
        "isas" : dict of str to bool
            The instruction sets this build has kernels for, slowest first, and whether this CPU has them.
        "isa" : str
            The one that is used by default.

    Raises
    ------
    ValueError
        If the environment variable MHA_ISA names an instruction set that is unknown or that this CPU lacks.
    """
    return {
        "version": _mha.version(),
        "features": _mha.cpu_features().split(),
        "isas": dict(_mha.isas()),
        "isa": resolve(None).isa,
    }
