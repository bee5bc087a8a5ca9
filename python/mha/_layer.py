"""A multi-head attention layer: projections, attention, output projection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mha import _context, _mha, _threads
from mha._options import integer, options

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mha._options import Integers, Window


_MOST_HEADS = 1 << 24  # the library's limit, asked for here because shapes are divided by heads first


class Layer:
    """Concat(head_1 ... head_h) Wo, with head_i = attention(q Wq_i, kv Wk_i, kv Wv_i).

    Weights are in PyTorch's layout, [out, in], as in ``y = x @ weight.T + bias``; they are packed once for the context's
    kernels and not needed afterwards. Rows must be contiguous and apart from each other. Either `wq`, `wk` and `wv` or
    `wqkv` must be given.

    Weights and biases are of float32, float16 or bfloat16, each on its own, and so are the arrays of a call. Packed
    weights keep their dtype. Everything is computed in float32, but for the products of which `Context` tells; between
    the projections and attention, queries and what the heads yield are rounded to the dtype of `q`, keys and values to
    that of `kv`.

    Parameters
    ----------
    wq : array, shape (q_heads * head_dim, q_dim)
    wk : array, shape (kv_heads * head_dim, kv_dim)
    wv : array, shape (kv_heads * v_head_dim, kv_dim)
    wo : array, shape (out_dim, q_heads * v_head_dim)
        Arrays are as in `attention`.
    wqkv : array, shape ((q_heads + kv_heads) * head_dim + kv_heads * v_head_dim, q_dim)
        The first three stacked in this order, as in PyTorch's ``in_proj_weight``.
    bq, bk, bv, bo, bqkv : array
        Biases, as long as the weights have rows. By default none.
    q_heads : int
    kv_heads : int
        By default q_heads. Must divide it.
    context : Context
        The kernels to use.

    Attributes
    ----------
    q_heads, kv_heads, head_dim, v_head_dim, q_dim, kv_dim, out_dim : int
        Sizes.
    packed : ndarray of uint8
        The packed weights, read-only. `from_packed` takes them back, from a memory-mapped file too. They fit contexts
        of the same instruction set and the same version of the library only; where that instruction set multiplies
        bf16, not one with precision "medium" beside one without.

    Raises
    ------
    ValueError
        If shapes do not fit each other, or a weight is empty or its rows are not apart.
    TypeError
        If a weight is missing, no array, or of a dtype that is not supported.

    Examples
    --------
    >>> layer = mha.Layer(wq, wk, wv, wo, q_heads=12)
    >>> y = layer(x, causal=True)
    >>> np.save("layer.npy", layer.packed)
    >>> layer = mha.Layer.from_packed(np.load("layer.npy", mmap_mode="r"))

    Weights of half the size:

    >>> half = mha.Layer(*(weight.astype(np.float16) for weight in (wq, wk, wv, wo)), q_heads=12)
    >>> half(x).dtype, half(x.astype(np.float16)).dtype
    (dtype('float32'), dtype('float16'))
    """

    def __init__(
        self,
        wq: Any = None,
        wk: Any = None,
        wv: Any = None,
        wo: Any = None,
        *,
        wqkv: Any = None,
        bq: Any = None,
        bk: Any = None,
        bv: Any = None,
        bo: Any = None,
        bqkv: Any = None,
        q_heads: int,
        kv_heads: int | None = None,
        context: _context.Context | None = None,
    ) -> None:
        _require(wo=wo)
        if wqkv is None:
            _require(wq=wq, wk=wk, wv=wv)
            _refuse("wqkv is not", bqkv=bqkv)
        else:
            _refuse("wqkv is", wq=wq, wk=wk, wv=wv, bq=bq, bk=bk, bv=bv)
        handle = _context.resolve(context)
        q_heads = integer("q_heads", q_heads, 1, _MOST_HEADS)
        kv_heads = q_heads if kv_heads is None else integer("kv_heads", kv_heads, 1, _MOST_HEADS)
        packed = _mha.pack(handle, wq, wk, wv, wo, wqkv, bq, bk, bv, bo, bqkv, q_heads, kv_heads)
        self._adopt(handle, packed)

    @classmethod
    def from_packed(cls, packed: NDArray[np.uint8] | memoryview, *, context: _context.Context | None = None) -> Layer:
        """Make a layer of what `packed` was of another one, without a copy.

        Parameters
        ----------
        packed : ndarray of uint8, or another buffer of bytes
            Aligned to 64 bytes, as memory-mapped files of `numpy.save` are. The layer keeps a reference to it; it must
            not change.
        context : Context
            The kernels to use.

        Raises
        ------
        ValueError
            If `packed` is not aligned, damaged, or made for other kernels.
        """
        layer = cls.__new__(cls)
        layer._adopt(_context.resolve(context), packed)
        return layer

    def _adopt(self, handle: _mha.Context, packed: Any) -> None:
        self._packed = packed
        self._layer = _mha.Layer(handle, packed)
        (
            self.q_heads,
            self.kv_heads,
            self.head_dim,
            self.v_head_dim,
            self.q_dim,
            self.kv_dim,
            self.out_dim,
        ) = self._layer.sizes

    @property
    def packed(self) -> Any:
        return self._packed

    def __call__(
        self,
        q: Any,
        kv: Any = None,
        *,
        mask: Any = None,
        causal: bool = False,
        q_offset: int | Integers | None = None,
        window: Window | None = None,
        scale: float | None = None,
        softcap: float = 0.0,
        kv_lens: Integers | None = None,
        return_weights: bool = False,
        out: Any = None,
        threads: int | None = None,
    ) -> Any:
        """Compute the layer's output.

        Parameters
        ----------
        q : array, shape (batch, q_len, q_dim)
            Queries are projected from it.
        kv : array, shape (batch, kv_len, kv_dim)
            Keys and values are projected from it; by default from `q`: self-attention.
        mask, causal, q_offset, window, scale, softcap, kv_lens, threads
            As in `attention`.
        return_weights : bool
            Also return the attention weights.
        out : array, shape (batch, q_len, out_dim)
            Where to write the result; the array that is returned. By default a new one.

        Returns
        -------
        out : array, shape (batch, q_len, out_dim)
            A new one is of the same library and dtype as q.
        weights : array of float32, shape (batch, q_heads, q_len, kv_len)
            If `return_weights`.

        Raises
        ------
        ValueError, TypeError
            As in `attention`.
        """
        return self._layer.forward(
            q,
            kv,
            options(mask, causal, q_offset, window, scale, softcap, kv_lens),
            bool(return_weights),
            out,
            _threads.resolve(threads),
        )

    def __repr__(self) -> str:
        return (
            f"mha.Layer(q_heads={self.q_heads}, kv_heads={self.kv_heads}, head_dim={self.head_dim}, "
            f"q_dim={self.q_dim}, kv_dim={self.kv_dim}, out_dim={self.out_dim})"
        )


def _require(**weights: Any) -> None:
    for name, weight in weights.items():
        if weight is None:
            raise TypeError(f"{name} is missing, expected wq, wk and wv, or wqkv; and wo")


def _refuse(why: str, **weights: Any) -> None:
    for name, weight in weights.items():
        if weight is not None:
            raise TypeError(f"{name} is given although {why} given")
