"""The custom operator mha::attention, and the function that calls it."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.autograd import forward_ad

from mha import Context, _mha, _threads
from mha._options import window_of

if TYPE_CHECKING:
    from mha._options import Window

if not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"):
    raise ImportError(
        f"mha.torch needs PyTorch 2.10, for DLPack's C exchange API, or newer; this is {torch.__version__}"
    )

_mha.share_openmp()

# Library rather than torch.library.custom_op, whose calls cost three times as much. Arguments that are rarely given
# come last: those that have their default are not passed on.
_library = torch.library.Library("mha", "DEF")
_library.define(
    "attention(Tensor query, Tensor key, Tensor value, Tensor? mask=None, bool causal=False, float? scale=None,"
    " float softcap=0.0, SymInt q_offset=0, Tensor? q_offsets=None, SymInt window_left=-1, SymInt window_right=-1,"
    " Tensor? kv_lens=None, bool bthd=False, int? threads=None) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag, torch.Tag.flexible_layout),
)


# What torch.set_float32_matmul_precision says of CPUs: torch.backends.mkldnn.matmul.fp32_precision, read at a fifth of
# the time. torch.get_float32_matmul_precision raises an error in programs that set fp32_precision of any backend.
_float32_precision = torch._C._get_fp32_precision_getter

_NO_OPTIONS = _mha.Options(None, False, 0, None, -1, -1, None, 0.0, None)  # making them for each call costs 0.2 us


@cache
def _context(float32_precision: str) -> Context:
    return Context(precision={"tf32": "high", "bf16": "medium"}.get(float32_precision, "highest"))


def readable(tensor: Tensor) -> Tensor:
    """The library reads any strides but those of a last dimension that is not contiguous."""
    return tensor if tensor.is_contiguous() or tensor.stride(-1) == 1 else tensor.contiguous()


@torch.library.impl(_library, "attention", "CPU")
def _compute(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    softcap: float = 0.0,
    q_offset: int = 0,
    q_offsets: Tensor | None = None,
    window_left: int = -1,
    window_right: int = -1,
    kv_lens: Tensor | None = None,
    bthd: bool = False,
    threads: int | None = None,
) -> Tensor:
    plain = not causal and scale is None and mask is q_offsets is kv_lens is None
    if plain and softcap == q_offset == 0 and window_left == window_right == -1:
        options = _NO_OPTIONS
    else:
        options = _mha.Options(mask, causal, q_offset, q_offsets, window_left, window_right, scale, softcap, kv_lens)
    context = _context(_float32_precision("mkldnn", "matmul"))._handle
    n_threads = torch.get_num_threads() if threads is None else _threads.resolve(threads)
    try:
        return _mha.attention(context, query, key, value, options, False, None, bthd, None, n_threads)
    except ValueError:  # because of strides, perhaps; asking for them first would cost each call 0.2 us
        operands = [readable(tensor) for tensor in (query, key, value)]
        if operands[0] is query and operands[1] is key and operands[2] is value:
            raise
    return _mha.attention(context, *operands, options, False, None, bthd, None, n_threads)


@torch.library.register_fake("mha::attention", lib=_library)
def _fake(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    softcap: float = 0.0,
    q_offset: int = 0,
    q_offsets: Tensor | None = None,
    window_left: int = -1,
    window_right: int = -1,
    kv_lens: Tensor | None = None,
    bthd: bool = False,
    threads: int | None = None,
) -> Tensor:
    shape = (*query.shape[:3], value.shape[3])
    return torch.empty_permuted(shape, (0, 1, 2, 3) if bthd else (0, 2, 1, 3), dtype=query.dtype, device=query.device)


operator = torch.ops.mha.attention.default


def carries_tangent(*tensors: Tensor | None) -> bool:
    """Whether forward-mode differentiation goes through one; PyTorch would let it end at the operator."""
    return any(tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)


def refuse_grad(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> None:
    if torch.is_grad_enabled() and (
        query.requires_grad or key.requires_grad or value.requires_grad or (mask is not None and mask.requires_grad)
    ):
        raise RuntimeError(
            "an input requires grad, expected inference: use torch.inference_mode() or torch.no_grad(), or for training "
            "torch.nn.functional.scaled_dot_product_attention"
        )
    # The level is asked for here because the function costs half a microsecond.
    if forward_ad._current_level >= 0 and carries_tangent(query, key, value, mask):
        raise RuntimeError(
            "an input carries a tangent, expected inference: for forward-mode differentiation use "
            "torch.nn.functional.scaled_dot_product_attention"
        )


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    q_offset: int | Tensor = 0,
    window: Window | None = None,
    scale: float | None = None,
    softcap: float = 0.0,
    kv_lens: Tensor | None = None,
    layout: Literal["bhtd", "bthd"] = "bhtd",
    threads: int | None = None,
) -> Tensor:
    """Compute softmax(query key^T scale) value for every head: `mha.attention` as an operator of PyTorch.

    It works under `torch.inference_mode`, `torch.compile` and `torch.export`. Tensors are of float32, float16 or
    bfloat16 and may have any strides; one whose last dimension is not contiguous is copied.

    Parameters
    ----------
    query : Tensor, shape (batch, q_heads, q_len, head_dim)
        Queries, in CPU memory. q_heads is a multiple of kv_heads; query head h reads key and value head
        h // (q_heads // kv_heads).
    key : Tensor, shape (batch, kv_heads, kv_len, head_dim)
        Keys.
    value : Tensor, shape (batch, kv_heads, kv_len, v_head_dim)
        Values.
    mask : Tensor, broadcast to (batch, q_heads, q_len, kv_len)
        Of bool: False excludes a key. Of floats: added to the scaled scores; -inf excludes.
    causal : bool
        Queries see no key after their own position.
    q_offset : int, or Tensor of int64, shape (batch,)
        The key position of query 0. 0 aligns causality top-left, kv_len - q_len bottom-right.
    window : (left, right)
        How many keys before and after its position a query sees; None or -1 is unbounded.
    scale : float
        By default 1 / sqrt(head_dim).
    softcap : float
        If not 0, scores become softcap * tanh(score / softcap) before masks.
    kv_lens : Tensor of int64, shape (batch,)
        How many keys of each batch item exist, 0 to kv_len. By default all.
    layout : {"bhtd", "bthd"}
        "bthd": query, key, value and the result have axes (batch, tokens, heads, dim).
    threads : int
        How many threads to use, the calling one among them; by default `torch.get_num_threads()`. The result does not
        depend on it.

    Returns
    -------
    Tensor, shape (batch, q_heads, q_len, v_head_dim)
        Of query's dtype. Its memory has the order (batch, tokens, heads, dim) in either layout.

    Raises
    ------
    RuntimeError
        If grad mode is on and an input requires grad, or if one carries a tangent.
    ValueError
        If an argument contradicts another or itself; one sentence says which, its value and what was expected.
    TypeError
        If a tensor's dtype is not supported.
    """
    refuse_grad(query, key, value, mask)
    if layout not in ("bhtd", "bthd"):
        raise ValueError(f"layout is {layout!r}, expected 'bhtd' or 'bthd'")
    one_offset, offsets = (0, q_offset) if isinstance(q_offset, Tensor) else (q_offset, None)
    left, right = window_of(window)
    bthd = layout == "bthd"
    result: Tensor = operator(
        query, key, value, mask, causal, scale, softcap, one_offset, offsets, left, right, kv_lens, bthd, threads
    )
    return result
