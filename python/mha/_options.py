"""Arguments that attention and layers share, in the form the extension takes."""

from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np

from mha import _mha

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Integers = Sequence[int] | NDArray[np.integer[Any]]
    Window = tuple[int | None, int | None]


def _integers(name: str, values: Integers) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.dtype.kind not in "iu" and array.size > 0:
        raise TypeError(f"{name} has dtype {array.dtype}, expected integers")
    return np.ascontiguousarray(array, dtype=np.int64)


def _offsets(q_offset: int | Integers | None) -> tuple[int, NDArray[np.int64] | None]:
    """One offset, or one of each batch item."""
    if q_offset is None:
        return 0, None
    if isinstance(q_offset, (int, np.integer)):
        return int(q_offset), None
    return 0, _integers("q_offset", q_offset)


def _window(window: Window | None) -> tuple[int, int]:
    if window is None:
        return -1, -1
    if not isinstance(window, (tuple, list)) or len(window) != 2:
        raise TypeError(f"window is {window!r}, expected a pair (left, right)")
    left, right = window
    return (-1 if left is None else index(left)), (-1 if right is None else index(right))


def options(
    mask: Any,
    causal: bool,
    q_offset: int | Integers | None,
    window: Window | None,
    scale: float | None,
    kv_lens: Integers | None,
) -> _mha.Options:
    """Which keys a query attends to, and how scores are scaled."""
    return _mha.Options(
        mask,
        bool(causal),
        *_offsets(q_offset),
        *_window(window),
        scale,
        None if kv_lens is None else _integers("kv_lens", kv_lens),
    )
