"""What the tests share."""

from __future__ import annotations

import mha
import ml_dtypes
import numpy as np
import pytest
from layers import KV_DIM, Q_DIM

# Every element of these tests is of order 1; docs/numerics.md has the bound, which tests of the C library hold to.
TOLERANCE = 4e-6

HALVES = [np.float16, ml_dtypes.bfloat16]
DTYPES = [np.float32, *HALVES]
# By rounding to a dtype; of float32 it is part of the tolerance.
ROUNDING = {np.dtype(np.float32): 0.0, np.dtype(np.float16): 2.0**-11, np.dtype(ml_dtypes.bfloat16): 2.0**-8}

ISAS = [isa for isa, supported in mha.cpu_info()["isas"].items() if supported]


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.fixture(params=ISAS)
def context(request):
    """Each instruction set that this machine has."""
    return mha.Context(isa=request.param)


@pytest.fixture
def qkv(rng):
    """Queries, keys and values of two batch items, four heads that share two; sizes that fill no vector."""
    return (
        rng.standard_normal((2, 4, 13, 24), np.float32),
        rng.standard_normal((2, 2, 37, 24), np.float32),
        rng.standard_normal((2, 2, 37, 17), np.float32),
    )


@pytest.fixture
def inputs(rng):
    """A layer's queries and keys, of three batch items."""
    return rng.standard_normal((3, 14, Q_DIM), np.float32), rng.standard_normal((3, 19, KV_DIM), np.float32)


def assert_close(actual, expected):
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE)


def assert_rounded(actual, expected, dtype, error=0.0):
    """A float32 result within the tolerance and an error that its operands bring, rounded once."""
    assert actual.dtype == dtype
    relative = ROUNDING[np.dtype(dtype)]
    allowed = (TOLERANCE + error) * (1 + relative) + relative * abs(expected)
    np.testing.assert_array_less(abs(actual.astype(np.float64) - expected), allowed)
