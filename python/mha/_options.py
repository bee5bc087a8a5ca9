"""Arguments that attention and layers share, in the form the extension takes."""

from __future__ import annotations

import math
from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np

from mha import _mha

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Integers = Sequence[int] | NDArray[np.integer[Any]]
    Window = tuple[int | None, int | None]


_INT64 = np.iinfo(np.int64)


def integer(name: str, value: int, least: int = _INT64.min, most: int = _INT64.max) -> int:
    """`value`, if it is an integer in that range."""
    try:
        number = index(value)
    except TypeError:
        raise TypeError(f"{name} is of type {type(value).__name__}, expected an integer") from None
    if not least <= number <= most:
        raise ValueError(f"{name} is {number}, expected {least} to {most}")
    return number


def _integers(name: str, values: Integers) -> NDArray[np.int64]:
    array = np.asarray(values, None if hasattr(values, "dtype") else object)  # a list's numbers as they are
    if array.dtype.kind not in "iuO":
        raise TypeError(f"{name} has dtype {array.dtype}, expected integers")
    if array.dtype.kind != "i":  # a cast would wrap or round
        for i, value in np.ndenumerate(array):
            integer(f"{name}{list(i) or ''}", value)
    return np.asarray(array, np.int64, order="C")


def _offsets(q_offset: Any) -> tuple[int, NDArray[np.int64] | None]:
    """One offset, or one of each batch item."""
    if q_offset is None:
        return 0, None
    if isinstance(q_offset, int) or np.ndim(q_offset) == 0:
        return integer("q_offset", q_offset), None
    return 0, _integers("q_offset", q_offset)


def window_of(window: Window | None) -> tuple[int, int]:
    if window is None:
        return -1, -1
    if not isinstance(window, (tuple, list)) or len(window) != 2:
        raise TypeError(f"window is {window!r}, expected a pair (left, right)")
    left, right = window
    return (
        -1 if left is None else integer("window_left", left),
        -1 if right is None else integer("window_right", right),
    )


def _number(name: str, value: float) -> float:
    try:
        return math.copysign(value, value)  # float(), but not of text
    except TypeError:
        raise TypeError(f"{name} is of type {type(value).__name__}, expected a number") from None
    except OverflowError:
        raise ValueError(f"{name} is {value}, expected a finite float32") from None


def options(
    mask: Any,
    causal: bool,
    q_offset: int | Integers | None,
    window: Window | None,
    scale: float | None,
    softcap: float,
    kv_lens: Integers | None,
) -> _mha.Options:
    """Which keys a query attends to, and how scores are scaled."""
    return _mha.Options(
        mask,
        bool(causal),
        *_offsets(q_offset),
        *window_of(window),
        None if scale is None else _number("scale", scale),
        _number("softcap", softcap),
        None if kv_lens is None else _integers("kv_lens", kv_lens),
    )
