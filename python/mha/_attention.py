"""Attention of given queries, keys and values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from mha import _context, _mha, _threads
from mha._options import options

if TYPE_CHECKING:
    from mha._options import Integers, Window

_WEIGHTS = 3  # MHA_SCORES_SOFTMAX


def attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    mask: Any = None,
    causal: bool = False,
    q_offset: int | Integers | None = None,
    window: Window | None = None,
    scale: float | None = None,
    softcap: float = 0.0,
    kv_lens: Integers | None = None,
    return_lse: bool = False,
    return_weights: bool = False,
    layout: Literal["bhtd", "bthd"] = "bhtd",
    out: Any = None,
    threads: int | None = None,
    context: _context.Context | None = None,
) -> Any:
    """Compute softmax(q k^T scale) v for every head.

    Arrays are of any library: NumPy's by the buffer protocol, others by DLPack, in CPU memory. Their dtypes are float32,
    float16 or bfloat16 (of `ml_dtypes`, with NumPy) and may differ; everything is computed in float32, but for the
    products of which `Context` tells.

    Key j is visible to query i, at position p = i + q_offset, iff j < kv_lens, and j <= p if `causal`, and
    p - left <= j <= p + right, and the mask does not exclude it. Excluded keys and values never reach the result, even
    NaN and infinity. A query without a visible key yields zeros and an lse of -inf.

    No array is copied: the last dimension must be contiguous, every other stride is free, and a stride of zero (as of
    `numpy.broadcast_to`) is fine for an input. The GIL is released while the library computes.

    Parameters
    ----------
    q : array, shape (batch, q_heads, q_len, head_dim)
        Queries. q_heads is a multiple of kv_heads; query head h reads key and value head h // (q_heads // kv_heads).
    k : array, shape (batch, kv_heads, kv_len, head_dim)
        Keys.
    v : array, shape (batch, kv_heads, kv_len, v_head_dim)
        Values.
    mask : array of bool or floats, broadcast to (batch, q_heads, q_len, kv_len)
        False excludes a key. Floats are added to the scaled, capped scores; -inf excludes.
    causal : bool
        Queries see no key after their own position.
    q_offset : int, or integers of shape (batch,)
        The key position of query 0, by default 0: causality is aligned top-left. kv_len - q_len aligns it bottom-right.
    window : (left, right)
        How many keys before and after its position a query sees; None or -1 is unbounded.
    scale : float
        By default 1 / sqrt(head_dim).
    softcap : float
        If not 0, scaled scores become softcap * tanh(score / softcap) before masks; 2^-60 to 2^60.
    kv_lens : integers, shape (batch,)
        How many keys of each batch item exist, 0 to kv_len. By default all.
    return_lse : bool
        Also return the log of the sum of exp over each query's visible scores.
    return_weights : bool
        Also return the attention weights.
    layout : {"bhtd", "bthd"}
        "bthd": q, k, v and out have axes (batch, tokens, heads, dim).
    out : array, shape (batch, q_heads, q_len, v_head_dim)
        Where to write the result; the array that is returned. It must not overlap an input. By default a new array.
    threads : int
        How many threads to use, the calling one among them; by default `get_num_threads()`. The result does not depend
        on it. Calls with the same number above 1 share its threads, and wait for each other.
    context : Context
        The kernels to use.

    Returns
    -------
    out : array, shape (batch, q_heads, q_len, v_head_dim)
        A new one is of the same library and dtype as q.
    lse : array of float32, shape (batch, q_heads, q_len)
        If `return_lse`. The order of its axes does not depend on `layout`.
    weights : array of float32, shape (batch, q_heads, q_len, kv_len)
        If `return_weights`; as lse. Rows sum to 1, or are 0 for a query without a visible key.

    Raises
    ------
    ValueError
        If an argument contradicts another or itself; one sentence says which, its value and what was expected.
    TypeError
        If an argument is no array, or of a dtype that is not supported.

    Examples
    --------
    >>> q = k = v = np.random.default_rng(0).standard_normal((1, 12, 512, 64), np.float32)
    >>> out, lse = mha.attention(q, k, v, causal=True, return_lse=True)
    """
    if layout not in ("bhtd", "bthd"):
        raise ValueError(f"layout is {layout!r}, expected 'bhtd' or 'bthd'")
    return _mha.attention(
        _context.resolve(context),
        q,
        k,
        v,
        options(mask, causal, q_offset, window, scale, softcap, kv_lens),
        bool(return_lse),
        _WEIGHTS if return_weights else None,
        layout == "bthd",
        out,
        _threads.resolve(threads),
    )
