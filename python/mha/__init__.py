"""Exact multi-head attention on CPUs: NumPy arrays in and out, computed by libmha without a copy."""

from mha._attention import attention
from mha._context import Context, cpu_info
from mha._layer import Layer
from mha._mha import version as _version
from mha._threads import get_num_threads, set_num_threads

__version__ = _version()
__all__ = ["Context", "Layer", "attention", "cpu_info", "get_num_threads", "set_num_threads"]
