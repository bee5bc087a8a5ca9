"""The attention masks of Transformers in the form that libmha takes them: windows, offsets and lengths instead of bits."""

from __future__ import annotations

from inspect import getclosurevars
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_map_only
from transformers import masking_utils
from transformers.utils.import_utils import is_tracing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Window = tuple[int | None, int | None]

# Closures of one factory share their code, by which they are recognised.
_AND = masking_utils.and_masks(masking_utils.causal_mask_function).__code__
_SLIDING = masking_utils.sliding_window_overlay(1).__code__
_SLIDING_BOTH_WAYS = masking_utils.sliding_window_bidirectional_overlay(1).__code__

_METADATA = {
    *(getattr(torch.Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "is_cpu", "requires_grad")),
    torch.Tensor.dim,
    torch.Tensor.size,
}
_TAKE_BOOLEAN_MASKS = {"where", "scaled_dot_product_attention"}


class Mask(torch.Tensor):
    """A boolean mask [batch, 1, q_len, kv_len], true where a key is visible, that is written out only when it is read.

    Models hand it from the mask function to the attention function, which takes `options` instead. A model that does
    something else with it gets the bits it stands for.

    Attributes
    ----------
    options : dict
        What `mha.torch.attention` needs to know.
    """

    options: dict[str, Any]
    _write: Callable[[], torch.Tensor]

    @classmethod
    def of(cls, shape: Sequence[int], options: dict[str, Any], write: Callable[[], torch.Tensor]) -> Mask:
        """A mask that `write` would write out."""
        mask = torch.ones((), dtype=torch.bool).expand(*shape).as_subclass(cls)
        mask.options = options
        mask._write = write
        return mask

    @classmethod
    def of_bits(cls, bits: torch.Tensor) -> Mask:
        """A mask that is written out."""
        return cls.of(bits.shape, {"mask": bits}, lambda: bits)

    def bits(self) -> torch.Tensor:
        """The mask, written out once."""
        written = self._write()
        self._write = lambda: written
        return written

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """`func` of the bits; a mask again where the result is one."""
        kwargs = kwargs or {}
        if func in _METADATA:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if func is torch.Tensor.contiguous:  # generate() does it for graphs, which take plain tensors only
            return args[0].bits().contiguous()
        result = func(*tree_map_only(Mask, Mask.bits, args), **tree_map_only(Mask, Mask.bits, kwargs))
        if not isinstance(result, torch.Tensor):
            return result
        if result.is_floating_point() and func.__name__ not in _TAKE_BOOLEAN_MASKS:
            # Not a TypeError, which operators would take for a reason to try something else.
            raise ValueError(
                f"attn_implementation='mha' makes boolean masks, but this model computes with numbers ({func.__name__}): "
                "its attention does not go through Transformers' AttentionInterface; use attn_implementation='eager'"
            )
        return Mask.of_bits(result) if result.dtype == torch.bool and result.ndim == 4 else result


def _tighter(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else min(a, b)


def _window(function: Callable[..., Any]) -> Window | None:
    """How far to the left and right a query sees by one of Transformers' mask functions; None for another function."""
    if function is masking_utils.causal_mask_function:
        return None, 0
    if function is masking_utils.bidirectional_mask_function:
        return None, None
    code: Any = getattr(function, "__code__", None)
    if code not in (_SLIDING, _SLIDING_BOTH_WAYS, _AND):
        return None
    (enclosed,) = getclosurevars(function).nonlocals.values()
    if code is _SLIDING:
        return enclosed - 1, None
    if code is _SLIDING_BOTH_WAYS:
        return enclosed, enclosed
    left = right = None
    for part in enclosed:
        window = _window(part)
        if window is None:
            return None
        left, right = _tighter(left, window[0]), _tighter(right, window[1])
    return left, right


def _padding(present: torch.Tensor | None, kv_length: int, kv_offset: int) -> dict[str, Any]:
    """Which keys exist, by lengths where that says it all; present [batch, tokens] has true for tokens, and its end is
    that of the tokens."""
    if present is None:
        return {}
    present = present[:, kv_offset : kv_offset + kv_length]
    length = present.shape[1]
    if length == kv_length and bool(present.all()):
        return {}
    ends = (present * torch.arange(1, length + 1)).amax(1) if length else torch.zeros(len(present), dtype=torch.int64)
    options = {"kv_lens": ends}
    if bool((present.sum(1) != ends).any()):
        missing = kv_length - length
        options["mask"] = torch.nn.functional.pad(present, (0, missing))[:, None, None, :]
    return options


def attention_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | torch.Tensor = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] = masking_utils.causal_mask_function,
    attention_mask: torch.Tensor | None = None,
    use_vmap: bool = False,
    device: torch.device | str = "cpu",
    **kwargs: Any,
) -> torch.Tensor:
    """Make the mask of a forward pass; an entry of Transformers' AttentionMaskInterface, whose arguments these are."""

    def write() -> torch.Tensor:
        bits: torch.Tensor = masking_utils.sdpa_mask(  # type: ignore[assignment]  # never None without skips
            batch_size,
            q_length,
            kv_length,
            q_offset=q_offset,  # type: ignore[arg-type]  # of static caches a tensor
            kv_offset=kv_offset,
            mask_function=mask_function,
            attention_mask=attention_mask,
            allow_is_causal_skip=False,
            use_vmap=use_vmap,
            device=device,
        )
        return bits

    if is_tracing(attention_mask) or is_tracing(q_offset):  # a graph has no place for what is decided here
        return write()
    window = None if use_vmap else _window(mask_function)
    if window is None:
        return Mask.of_bits(write())
    left, right = window
    options = {
        "causal": right == 0,
        "window": (left, None if right == 0 else right),
        "q_offset": int(q_offset) - kv_offset,
        **_padding(attention_mask, kv_length, kv_offset),
    }
    return Mask.of((batch_size, 1, q_length, kv_length), options, write)
